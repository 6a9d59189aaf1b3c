"""A cursor of PostgreSQL without pipelines, imported where the driver is there.

psycopg sends what ``executemany`` gets as a pipeline, and a server whose last work in a transaction was a pipeline does
not count the time that it then idles (seen on PostgreSQL 18): a leader that is paused there would hold the write lock
for ever, whatever ``idle_in_transaction_session_timeout`` says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import psycopg

if TYPE_CHECKING:
    from collections.abc import Iterable


class OneByOneCursor(psycopg.Cursor[Any]):
    """``executemany`` as so many statements; rows to insert come as one statement from SQLAlchemy anyway."""

    _of_all: int | None = None

    @property
    def rowcount(self) -> int:
        """Rows of the last statement; of all of them after ``executemany``."""
        return super().rowcount if self._of_all is None else self._of_all

    def execute(self, *given: Any, **named: Any) -> Self:  # noqa: ANN401 - the driver's own
        """Execute once."""
        self._of_all = None
        return super().execute(*given, **named)

    def executemany(self, query: Any, params_seq: Iterable[Any], *, returning: bool = False) -> None:  # noqa: ANN401 - the driver's own
        """Execute once for each set of parameters."""
        rows = 0
        for parameters in params_seq:
            self.execute(query, parameters)
            rows += max(self.rowcount, 0)
        self._of_all = rows

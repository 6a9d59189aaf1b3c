"""A cursor of PostgreSQL without pipelines, imported where the driver is there.

psycopg sends what ``executemany`` gets as a pipeline, and a server whose last work in a transaction was a pipeline does
not count the time that it then idles (seen on PostgreSQL 18): a leader that is paused there would hold the write lock
for ever, whatever ``idle_in_transaction_session_timeout`` says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg

if TYPE_CHECKING:
    from collections.abc import Iterable


class OneByOneCursor(psycopg.Cursor[Any]):
    """``executemany`` as so many statements; rows to insert come as one statement from SQLAlchemy anyway."""

    def executemany(self, query: Any, params_seq: Iterable[Any], *, returning: bool = False) -> None:  # noqa: ANN401 - the driver's own
        """Execute once for each set of parameters."""
        for parameters in params_seq:
            self.execute(query, parameters)

"""How commands log: lines for people, or one JSON object a line for machines, with what the line is about.

``about`` names the run, round, client and request that everything within it is about. Messages say what happened and
never a value of data; of an exception only its type is written in JSON, because its words can quote what it read.
"""

from __future__ import annotations

import json
import logging
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

FORMATS = ("text", "json")
FIELDS = ("run_id", "round_index", "client_id", "request_id")
_about: ContextVar[dict[str, object]] = ContextVar("motet_log_about", default={})  # noqa: B039 - never changed in place


@contextmanager
def about(**fields: object) -> Iterator[None]:
    """Name what everything logged within is about, beside what was named outside.

    Args:
      **fields: of ``FIELDS``.

    Raises:
      ValueError: another field, which nobody has looked at for what it tells.
    """
    unknown = set(fields) - set(FIELDS)
    if unknown:
        raise ValueError(f"no field of the logs: {', '.join(sorted(unknown))}")
    token = _about.set({**_about.get(), **fields})
    try:
        yield
    finally:
        _about.reset(token)


class JsonFormatter(logging.Formatter):
    """One line, one object: ``at``, ``level``, ``logger``, ``message`` and what it is about."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        told: dict[str, object] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        told |= _about.get()
        told |= {name: getattr(record, name) for name in FIELDS if hasattr(record, name)}
        if record.exc_info and record.exc_info[0] is not None:
            told["error"] = record.exc_info[0].__name__
        return json.dumps(told, default=str)


class _ThroughOurs(logging.Filter):
    """Of a library's logger: its warnings and errors go to our handlers, the rest and its own handlers get nothing.

    Flower sets its level to DEBUG and adds a handler when it is imported, which is after ``configure``: neither a level
    nor an empty list of handlers would last, a filter does.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Take every record."""
        if record.levelno >= logging.WARNING:
            logging.getLogger().handle(record)
        return False


class LineFormatter(logging.Formatter):
    """One line for people: what a record quotes of others can not begin a line of its own, or command a terminal."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """The line; control and formatting characters as escapes. A traceback after it keeps its lines."""
        line = super().formatMessage(record)
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in line)


def configure(*, verbose: bool, log_format: str = "text") -> None:
    """Log to standard error, warnings alone or more, as ``text`` or ``json``."""
    handler = logging.StreamHandler()
    if log_format == "json":
        handler.setFormatter(JsonFormatter())
        logging.captureWarnings(capture=True)
    else:
        handler.setFormatter(LineFormatter("%(asctime)s %(name)s %(message)s"))
    # Forced: a library that warned before would have left a handler of its own.
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, handlers=[handler], force=True)
    for name in ("httpx", "alembic", "uvicorn"):
        logging.getLogger(name).setLevel(logging.WARNING)
    flower = logging.getLogger("flwr")
    if not any(isinstance(known, _ThroughOurs) for known in flower.filters):
        flower.addFilter(_ThroughOurs())

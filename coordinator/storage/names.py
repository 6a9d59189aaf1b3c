"""Names that a home's SQLite file holds, read in milliseconds: for shells that complete a word, and nothing else.

Nothing is waited for, written or raised: where the names can not be had at once there are none. A home whose database
is a server has none here.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

MOST = 200
_RUNS = "SELECT run_id, name || ', ' || state FROM runs ORDER BY created_at DESC LIMIT ?"
_CLIENTS = "SELECT client_id, capacity_class FROM clients ORDER BY client_id LIMIT ?"


def run_names(home: Path) -> list[tuple[str, str]]:
    """Run ids, newest first, each with the run's name and state."""
    return _read(home, _RUNS)


def client_names(home: Path) -> list[tuple[str, str]]:
    """Client ids, each with its capacity class."""
    return _read(home, _CLIENTS)


def _read(home: Path, query: str) -> list[tuple[str, str]]:
    path = home / "motet.db"
    if not path.is_file():
        return []
    try:
        with closing(
            sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=0.05)
        ) as database:
            return [(str(name), str(what)) for name, what in database.execute(query, (MOST,))]
    except (sqlite3.Error, OSError):
        return []

"""Which database belongs to a coordinator's home: an SQLite file in it, or the server that was named once.

``database.url`` in the home holds the URL without a password, so that every command with the same home finds the same
database. The password comes from a file or the environment, and is never written or shown.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from coordinator.errors import StorageError
from coordinator.storage.store import Store

if TYPE_CHECKING:
    from motet.clock import Clock

PASSWORD = "MOTET_DATABASE_PASSWORD"  # noqa: S105 - names of variables
PASSWORD_FILE = "MOTET_DATABASE_PASSWORD_FILE"  # noqa: S105
FILE = "database.url"
_LEDGER = "ledger"


def open_store(home: Path, *, create: bool = True, clock: Clock | None = None) -> Store:
    """Open the database of a coordinator's home.

    Args:
      home: the coordinator's state folder.
      create: make a missing SQLite file.
      clock: for records.

    Raises:
      StorageError: it can not be opened, or the URL or the password can not be read.
      DatabaseAwayError: its server can not be reached.
    """
    return Store.open(database_of(home), create=create, clock=clock, ledger=home / _LEDGER)


def database_of(home: Path) -> Path | URL:
    """Where the database is; a URL has its password.

    Raises:
      StorageError: the URL or the password can not be read.
    """
    path = home / FILE
    if not path.exists():
        return home / "motet.db"
    url = _parsed(_read(path).strip(), str(path))
    password = _password()
    return url.set(password=password) if password else url


def remember(home: Path, text: str) -> None:
    """Name the database of a home, once and for all.

    Raises:
      StorageError: no URL of a supported kind; one with a password; or the home has another database.
    """
    url = _parsed(text, "--database")
    path = home / FILE
    if path.exists():
        known = _parsed(_read(path).strip(), str(path))
        if known != url:
            raise StorageError(
                f"{home} belongs to the database {known.render_as_string()}",
                hint="choose another --home; to move a database: motet backup, then motet restore --database URL",
            )
        return
    if (home / "motet.db").exists():
        raise StorageError(
            f"{home} belongs to the SQLite file motet.db in it",
            hint="choose another --home; what was spent there must not be forgotten",
        )
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.write_text(text + "\n", encoding="utf-8")
    except OSError as e:
        raise StorageError(f"{path} can not be written: {e.strerror}", hint="check the home's rights") from e


def _parsed(text: str, place: str) -> URL:
    try:
        url = make_url(text)
    except ArgumentError:
        raise StorageError(
            f"{place} is no database URL", hint="write it as postgresql://user@host:5432/name"
        ) from None
    if url.get_backend_name() not in {"postgresql", "postgres"}:
        raise StorageError(
            f"{place}: a database of kind {url.get_backend_name()} is not supported",
            hint="use postgresql://user@host:5432/name, or nothing for an SQLite file in the home",
        )
    if url.password or "password" in url.query:
        raise StorageError(
            f"{place} holds a password, which others could read",
            hint=f"write the URL without it; put it into a file and name that in {PASSWORD_FILE}, or into {PASSWORD}",
        )
    return url


def _password() -> str:
    named = os.environ.get(PASSWORD_FILE, "")
    return _read(Path(named)).rstrip("\r\n") if named else os.environ.get(PASSWORD, "")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        why = e.strerror if isinstance(e, OSError) else "no text"
        raise StorageError(f"{path} can not be read: {why}", hint="check the path and its rights") from e

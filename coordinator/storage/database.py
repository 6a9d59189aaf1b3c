"""The database under the store: SQLite or PostgreSQL, its revision, its write lock, its faults in words.

Writers take the write lock first, so what a transaction reads is what it changes: BEGIN IMMEDIATE on SQLite, SELECT
FOR UPDATE of one row on PostgreSQL. Readers take none: they see the last commit and hold nobody up. A commit is on
disk when it returns.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import URL, Engine, create_engine, event, make_url, select, text
from sqlalchemy.exc import (
    ArgumentError,
    DatabaseError,
    DBAPIError,
    InterfaceError,
    NoSuchModuleError,
    OperationalError,
)
from sqlalchemy.orm import Session, sessionmaker

from coordinator.errors import DatabaseAwayError, LeadLostError, StorageError
from coordinator.storage.models import LeaseRow, WriteLockRow

if TYPE_CHECKING:
    from collections.abc import Iterator

_one_migration_at_a_time = threading.Lock()  # alembic's environment is global to the process
CACHE = "cache_size=-256"  # kB of pages a connection; the default of 2 MB fills as a run goes on, on each connection
_READS = "motet_reads"  # execution option of connections that change nothing
_LET_GO = text("SELECT set_config('idle_in_transaction_session_timeout', :ms, true)")
_GIVEN_UP = {"57P01", "57P02", "57P03", "25P03"}  # shut down, crashed, not up yet, idle for too long
_TURNED_AWAY = ("authentication", "does not exist", "no password supplied", "pg_hba.conf", "certificate")
_MIGRATION_LOCK = 0x6D6F746574  # any number that nobody else uses: "motet"
_HINTS = (
    (("readonly", "read-only"), "make the database and its folder writable for this user"),
    (("full", "No space left"), "free disk space; nothing was lost"),
    (("locked",), "another process holds the database; stop it or wait"),
    (("unable to open",), "check that the folder exists and belongs to this user"),
    (("not a database", "malformed"), "this is no whole SQLite file; restore it, or choose another --home"),
    (("only grows",), "charges and ledger entries are never changed or removed; nothing was written"),
    (("every_charge_was_accounted_for",), "two coordinators charged one client at once; nothing was charged"),
    (
        ("password authentication", "no password supplied"),
        "see docs/database.md for where the password is read from",
    ),
    (("does not exist",), "make the database and its user first; see docs/database.md"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fence:
    """The token under which a coordinator leads, and for how many seconds its lease is given."""

    token: int
    lease_s: float


class Database:
    """Sessions on one database.

    Args:
      engine: of SQLAlchemy.
      shown: how the database is named in messages; never with a password.
    """

    def __init__(self, engine: Engine, shown: str) -> None:
        self._engine = engine
        self._shown = shown
        self._sessions = sessionmaker(engine, expire_on_commit=False)
        self._reads = sessionmaker(engine.execution_options(**{_READS: True}), expire_on_commit=False)
        self._fence: Fence | None = None

    @classmethod
    def open(cls, where: Path | str | URL, *, create: bool = True) -> Self:
        """Open a database and bring it to the newest revision.

        Args:
          where: path of an SQLite file, or a database URL.
          create: make a missing SQLite file.

        Raises:
          StorageError: missing, read-only, no database of Motet, of a kind that is not supported, or the disk is full.
          DatabaseAwayError: its server can not be reached.
        """
        if isinstance(where, Path):
            _prepare_file(where, create=create)
        database = cls.as_it_is(where)
        with database.translated():
            database.upgrade()
        return database

    @classmethod
    def as_it_is(cls, where: Path | str | URL) -> Self:
        """A database at whatever revision it has; nothing is made or upgraded.

        Raises:
          StorageError: of a kind that is not supported.
        """
        url = URL.create("sqlite", database=str(where)) if isinstance(where, Path) else _url(where)
        shown = str(where) if isinstance(where, Path) else url.render_as_string(hide_password=True)
        return cls(_engine(url, shown), shown)

    @property
    def shown(self) -> str:
        """How the database is named in messages; never with a password."""
        return self._shown

    def upgrade(self, revision: str = "head") -> None:
        """Bring the database to the newest revision, or to this one; one process at a time does it."""
        with _one_migration_at_a_time, self._engine.begin() as connection:
            if self.is_postgresql:  # another process may do the same at this moment
                connection.execute(text("SELECT pg_advisory_xact_lock(:n)"), {"n": _MIGRATION_LOCK})
            config = Config()
            config.set_main_option(
                "script_location", str(resources.files("coordinator.storage") / "migrations")
            )
            config.attributes["connection"] = connection
            command.upgrade(config, revision)

    @property
    def engine(self) -> Engine:
        """SQLAlchemy's engine."""
        return self._engine

    @property
    def is_postgresql(self) -> bool:
        """Whether several machines may write to it."""
        return self._engine.dialect.name == "postgresql"

    def close(self) -> None:
        """Release the connections."""
        self._engine.dispose()

    def fence(self, fence: Fence | None) -> None:
        """From now on every write first looks whether this token still leads; None: no longer."""
        self._fence = fence

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """Read and write under the write lock; committed and on disk at the end, or nothing of it.

        Raises:
          StorageError: the database refuses; nothing was written.
          LeadLostError: this coordinator led and another does now; nothing was written.
          DatabaseAwayError: the server can not be reached; whether a commit that was under way took place is open.
        """
        with self.translated(), self._sessions.begin() as session:
            if self.is_postgresql:
                if (
                    self._fence is not None
                ):  # who is paused within a transaction must not hold up the next leader
                    session.execute(_LET_GO, {"ms": str(int(self._fence.lease_s * 1000))})
                session.execute(select(WriteLockRow.name).with_for_update())
            if self._fence is not None:
                self._check(session, self._fence)
            yield session

    def _check(self, session: Session, fence: Fence) -> None:
        row = session.execute(select(LeaseRow.token, LeaseRow.host, LeaseRow.home)).one_or_none()
        if row is None or row.token != fence.token:
            who = f"the coordinator of {row.home} on {row.host}" if row else "nobody"
            raise LeadLostError(
                f"database {self._shown}: {who} leads now; what this one was about to write was not written",
                hint="nothing is lost: it goes on with the runs; started again, this one stands by",
            )

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """Read the last commit.

        Raises:
          StorageError: the database can not be read.
        """
        with self.translated(), self._reads.begin() as session:
            yield session

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Faults of the database in words, without its password."""
        try:
            yield
        except CommandError as e:
            raise StorageError(
                f"database {self._shown}: {e}",
                hint="it was made by another version of Motet; install that version, or choose another --home",
            ) from e
        except (DatabaseError, InterfaceError) as e:
            words = " ".join(str(e.orig).split())
            password = self._engine.url.password
            if password:
                words = words.replace(str(password), "***")
            if self.is_postgresql and _is_away(e, words):
                raise DatabaseAwayError(
                    f"database {self._shown}: {words}", hint="start the database server, or check its address"
                ) from None
            hint = next((h for keys, h in _HINTS if any(k in words for k in keys)), "")
            raise StorageError(
                f"database {self._shown}: {words}", hint=hint or "check the disk and the file's rights"
            ) from None


def _prepare_file(path: Path, *, create: bool) -> None:
    if not create and not path.exists():
        raise StorageError(
            f"{path}: no such database", hint="check --home, or start a coordinator there first"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as e:
        raise StorageError(f"{path.parent} can not be made: {e.strerror}") from e


def _url(where: str | URL) -> URL:
    try:
        url = make_url(where)
    except ArgumentError:
        raise StorageError(
            "the database is no URL", hint="write it as postgresql://user@host:5432/name"
        ) from None
    if url.drivername in {"postgresql", "postgres"}:
        url = url.set(drivername="postgresql+psycopg")
    if url.get_backend_name() not in {"sqlite", "postgresql"}:
        raise StorageError(
            f"a database of kind {url.get_backend_name()} is not supported",
            hint="use PostgreSQL (postgresql://user@host/name), or no URL at all for an SQLite file",
        )
    return url


def _engine(url: URL, shown: str) -> Engine:
    if url.get_backend_name() == "sqlite":
        engine = create_engine(url, connect_args={"timeout": 30, "check_same_thread": False})
        event.listen(engine, "connect", _configure_sqlite)
        event.listen(engine, "begin", _begin_immediate)
        return engine
    try:
        from coordinator.storage.cursor import OneByOneCursor

        options = {"connect_timeout": 10, "cursor_factory": OneByOneCursor}
        engine = create_engine(url, pool_pre_ping=True, connect_args=options)
        engine.dialect.use_insertmanyvalues_wo_returning = True  # many rows in one statement
    except (ModuleNotFoundError, NoSuchModuleError) as e:
        raise StorageError(
            f"database {shown}: the driver for PostgreSQL is not installed ({e})",
            hint="pip install 'motet[postgres]'",
        ) from None
    event.listen(engine, "connect", _configure_postgresql)
    return engine


def _configure_sqlite(connection: Any, _record: object) -> None:  # noqa: ANN401 - the driver's own
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=30000", CACHE):
        connection.execute(f"PRAGMA {pragma}")


def _configure_postgresql(connection: Any, _record: object) -> None:  # noqa: ANN401 - the driver's own
    connection.execute("SET synchronous_commit = on")  # a charge is on disk before its order leaves
    connection.commit()


def _begin_immediate(connection: Any) -> None:  # noqa: ANN401 - SQLAlchemy's connection
    reads = connection.get_execution_options().get(_READS, False)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")


def _is_away(error: DBAPIError, words: str) -> bool:
    """Whether the server can not be reached now, or gave the connection up; not where it turns this user away."""
    if error.connection_invalidated:
        return True
    if not isinstance(error, (OperationalError, InterfaceError)):
        return False
    state = getattr(error.orig, "sqlstate", None)
    if state:
        return state.startswith("08") or state in _GIVEN_UP
    return not any(sign in words for sign in _TURNED_AWAY)

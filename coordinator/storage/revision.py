"""Looking at a database without changing it: its revision, its entries, the recipes of runs that go on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, inspect, select

from coordinator.errors import StorageError
from coordinator.rounds.table import ENDED
from coordinator.storage.database import Database
from coordinator.storage.leases import Leases
from coordinator.storage.models import LedgerEntryRow, RunRow

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coordinator.storage.leases import Leader


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What is there.

    Attributes:
      shown: the database's name, without a password.
      revision: None where there are no tables of Motet.
      leaves: canonical bytes of the ledger's entries, in order; empty before revision 0002.
      recipes: canonical JSON of the runs that have not ended.
      leader: who leads now, by its lease; None while nobody does.
    """

    shown: str
    revision: str | None
    leaves: Sequence[bytes]
    recipes: Sequence[str]
    leader: Leader | None = None


def known_revisions() -> list[str]:
    """Revisions of this version of Motet, oldest first."""
    config = Config()
    config.set_main_option("script_location", str(resources.files("coordinator.storage") / "migrations"))
    script = ScriptDirectory.from_config(config)
    return [revision.revision for revision in script.walk_revisions()][::-1]


def look_at(where: Path | URL) -> Look:
    """Look at a database as it is; nothing is upgraded or made.

    Raises:
      StorageError: missing, not readable, or no database.
      DatabaseAwayError: its server can not be reached.
    """
    if isinstance(where, Path) and not where.exists():
        raise StorageError(
            f"{where}: no such database", hint="check --home, or start a coordinator there first"
        )
    database = Database.as_it_is(where)
    try:
        with database.reading() as session:
            connection = session.connection()
            tables = set(inspect(connection).get_table_names())
            revision = MigrationContext.configure(connection).get_current_revision()
            is_whole = revision in known_revisions()
            leaves = select(LedgerEntryRow.leaf).order_by(LedgerEntryRow.sequence)
            recipes = select(RunRow.recipe_json).where(RunRow.state.not_in(ENDED))
            found = Look(
                shown=database.shown,
                revision=revision,
                leaves=list(session.scalars(leaves)) if is_whole and "ledger_entries" in tables else [],
                recipes=list(session.scalars(recipes)) if is_whole and "runs" in tables else [],
            )
        leader = Leases(database).leader() if "leases" in tables else None
        return replace(found, leader=leader if leader is not None and leader.left_s > 0 else None)
    finally:
        database.close()

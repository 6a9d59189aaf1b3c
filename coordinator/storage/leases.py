"""Who leads a database: one coordinator at a time, for as long as it says so again in time.

A lease is given by the database's clock, under a fencing token that only grows. Every write of a leader looks at the
token first (``Database.fence``), under the write lock; whoever was paused past its lease can write nothing any more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import text, update

from coordinator.crashpoints import AFTER_COMMIT, BEFORE_COMMIT, crashpoint
from coordinator.rounds.table import KEEP_LEAD, RETURN_LEAD, TAKE_LEAD, Transition
from coordinator.storage.database import Fence
from coordinator.storage.models import LeaseRow

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from coordinator.storage.database import Database

_NAME = "lead"
_NOW = {
    "sqlite": "SELECT (julianday('now') - 2440587.5) * 86400.0",
    "postgresql": "SELECT extract(epoch FROM clock_timestamp())",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """Who wants to lead. ``place`` names the lock that it holds on its home: who holds it again, is the only one."""

    place: str
    host: str
    home: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Leader:
    """Who leads, and for how many more seconds, by the database's clock; 0 once the lease has run out."""

    token: int
    host: str
    home: str
    left_s: float

    def in_words(self) -> str:
        """For people."""
        return f"the coordinator of {self.home} on {self.host} leads, its lease runs for {self.left_s:.0f} s"


class Leases:
    """The lead of one database.

    Args:
      database: whose writes are fenced from the moment that its lead is taken here.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._held: Fence | None = None

    @property
    def token(self) -> int | None:
        """The token under which this process leads; None while it does not."""
        return self._held.token if self._held else None

    def leader(self) -> Leader | None:
        """Who led last; None in a database that nobody ever led."""
        with self._database.reading() as session:
            row = session.get(LeaseRow, _NAME)
            if row is None:
                return None
            left_s = max(row.lease_until - self._now(session), 0.0)
            return Leader(token=row.token, host=row.host, home=row.home, left_s=left_s)

    def take(self, candidate: Candidate, lease_s: float) -> bool:
        """Lead, if nobody does: the lease has run out, was given back, or was of the same place.

        Args:
          candidate: this coordinator.
          lease_s: for how long, unless ``renew`` says so again.

        Returns:
          whether it leads now. From then on every write through this database carries its token.
        """
        with self._database.reading() as session:  # no lock while there is nothing to take
            if not self._is_free(session, candidate):
                return False
        with self._database.transaction() as session:
            row, now = session.get(LeaseRow, _NAME), self._now(session)
            if not self._is_free(session, candidate):
                return False
            token = row.token + 1 if row else 1
            if row is None:
                row = LeaseRow(name=_NAME)
                session.add(row)
            row.token, row.place, row.host, row.home = token, candidate.place, candidate.host, candidate.home
            row.taken_at, row.lease_until = now, now + lease_s
            session.flush()
            crashpoint(f"{TAKE_LEAD.name}.{BEFORE_COMMIT}")
        crashpoint(f"{TAKE_LEAD.name}.{AFTER_COMMIT}")
        self._held = Fence(token=token, lease_s=lease_s)
        self._database.fence(self._held)
        return True

    def _is_free(self, session: Session, candidate: Candidate) -> bool:
        row = session.get(LeaseRow, _NAME)
        return row is None or row.place == candidate.place or row.lease_until <= self._now(session)

    def renew(self) -> None:
        """Lead on for another lease.

        Raises:
          LeadLostError: another leads.
          StorageError: the database can not be written now.
        """
        self._set_until(KEEP_LEAD, 0.0 if self._held is None else self._held.lease_s)

    def give_back(self) -> None:
        """Let the next one lead at once; at an orderly end.

        Raises:
          LeadLostError: another leads already.
          StorageError: the database can not be written now; the lease runs out by itself.
        """
        if self._held is not None:
            self._set_until(RETURN_LEAD, 0.0)
        self._held = None

    def _set_until(self, transition: Transition, lease_s: float) -> None:
        with self._database.transaction() as session:
            until = self._now(session) + lease_s
            session.execute(update(LeaseRow).where(LeaseRow.name == _NAME).values(lease_until=until))
            crashpoint(f"{transition.name}.{BEFORE_COMMIT}")
        crashpoint(f"{transition.name}.{AFTER_COMMIT}")

    def _now(self, session: Session) -> float:
        dialect = "postgresql" if self._database.is_postgresql else "sqlite"
        return float(session.scalar(text(_NOW[dialect])))

"""The ledger of a database: entries are rows that commit with what they tell, and the signed file follows.

The database decides. An entry is written in the transaction that makes it true, so that no crash can part the two.
``publish`` then carries the new rows to the signed file beside the database (``motet.audit.ledger``), durably; the
engine does so before an order leaves. The file may be behind, never ahead: a database that lacks what the file holds
was put back from an older copy, and nothing goes on.
"""

from __future__ import annotations

import hashlib
import threading
from typing import TYPE_CHECKING

from sqlalchemy import func, insert, select

from coordinator.storage.charges import bodies_of
from coordinator.storage.models import BudgetRow, LedgerEntryRow, PrivacyEventRow
from motet.audit.errors import LedgerConflictError
from motet.audit.ledger import CoordinatorLedger
from privacy.ledger.canonical import canonical_bytes
from privacy.ledger.chain import FIRST_PREVIOUS, chained_entries, entry_from_bytes, entry_hash
from privacy.ledger.entries import CancelRefused, Reserve, identity

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from sqlalchemy.orm import Session

    from coordinator.storage.database import Database
    from motet.clock import Clock
    from privacy.ledger.chain import Entry
    from privacy.ledger.entries import Body
    from privacy.ledger.notes import Checkpoint

_NAMES_A_QUERY = 500


class StoredLedger:
    """The entries in a database and their signed file.

    Args:
      database: where the entries are.
      folder: of the signed file and its key; made with the first entry.
      clock: for the time of entries.
    """

    def __init__(self, database: Database, folder: Path, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._file = CoordinatorLedger(folder)
        self._is_reconciled = False
        self._publishing = threading.RLock()  # runs are threads

    @property
    def file(self) -> CoordinatorLedger:
        """The signed file; whole after ``publish``."""
        return self._file

    def record(self, session: Session, bodies: Iterable[Body], *, recorded_by: str = "engine") -> None:
        """Write what is not there yet, within the caller's transaction.

        Args:
          session: of ``Database.transaction``.
          bodies: what the transaction makes true.
          recorded_by: ``engine`` as it happens, ``export`` from the tables of run state afterwards.

        Raises:
          LedgerConflictError: an entry of that name is there with another content.
        """
        wanted: dict[str, Body] = {}
        for body in bodies:
            wanted.setdefault(_name(body), body)
        if not wanted:
            return
        self._begin(session)
        for name, known in _known(session, list(wanted)).items():
            _check_same(known, wanted.pop(name))
        query = select(LedgerEntryRow.sequence, LedgerEntryRow.sha256)
        last = session.execute(query.order_by(LedgerEntryRow.sequence.desc()).limit(1)).one_or_none()
        sequence, previous = (last.sequence + 1, last.sha256) if last else (0, FIRST_PREVIOUS)
        at_ms = int(self._clock.now() * 1000)
        _insert(
            session,
            chained_entries(
                wanted.values(), sequence=sequence, previous=previous, at_ms=at_ms, recorded_by=recorded_by
            ),
        )

    def publish(self) -> Checkpoint:
        """Carry everything that is committed to the signed file; durable and signed when this returns.

        The first call compares the two from end to end.

        Raises:
          LedgerConflictError: database and file contradict each other; see ``reconcile``.
          JournalError: the file is damaged, cut, or can not be written.
          LedgerKeyError: the key is missing, or the ledger began with another one.
        """
        with self._publishing:
            return self._file.follow(self.leaves) if self._is_reconciled else self.reconcile()

    def unpublished(self) -> int:
        """Committed entries that the signed file lacks."""
        with self._database.reading() as session:
            committed = session.scalar(select(func.count()).select_from(LedgerEntryRow)) or 0
        return committed - self._file.size()

    def reconcile(self) -> Checkpoint:
        """Hold signed file, entries and tables of run state against each other, and complete what may be completed.

        Entries that the tables give and the ledger lacks are those of a database older than its ledger; they are
        marked as written afterwards. To do it twice is to do it once.

        Raises:
          LedgerConflictError: a charge is missing or was altered, in the database or in the file.
          JournalError: the file is damaged, cut, or can not be written.
          LedgerKeyError: the key is missing, or the ledger began with another one.
        """
        with self._database.transaction() as session:
            self._begin(session)
            leaves = _leaves(session)
            self._file.hold_against(leaves)
            known = self._file.bodies()  # of the entries that are the same on both sides; the rest follows
            for leaf in leaves[self._file.size() :]:
                body = entry_from_bytes(leaf).body
                known[identity(body)] = body
            bodies = {identity(body): body for body in bodies_of(session)}
            _check_nothing_was_lost(known.values(), bodies)
            _check_budgets(session)
            for name, body in bodies.items():
                _check_same(known.get(name, body), body)
            missing = [body for name, body in bodies.items() if name not in known]
            self.record(session, missing, recorded_by="export")
        self._is_reconciled = True
        return self._file.follow(self.leaves)

    def check_key(self) -> None:
        """Refuse a folder without the key that the ledger of the database was begun with; an empty ledger has none.

        Raises:
          LedgerKeyError: the key is missing, or is another one.
        """
        with self._database.reading() as session:
            first = session.scalar(select(LedgerEntryRow.leaf).where(LedgerEntryRow.sequence == 0))
        if first is not None:
            self._file.check_key(entry_from_bytes(first).body)

    def leaves(self, start: int = 0) -> list[bytes]:
        """Canonical bytes of the committed entries from a place on."""
        with self._database.reading() as session:
            return _leaves(session, start)

    def _begin(self, session: Session) -> None:
        """The first entries of a table without any: those of a file that is older than the table, or a new genesis."""
        if session.scalar(select(LedgerEntryRow.sequence).limit(1)) is None:
            older = self._file.leaves()
            at_ms = int(self._clock.now() * 1000)
            first = [] if older else [self._file.genesis()]
            made = chained_entries(first, sequence=0, previous=FIRST_PREVIOUS, at_ms=at_ms)
            _insert(session, [(entry_from_bytes(leaf), leaf) for leaf in older] or made)


def _check_same(known: Body, body: Body) -> None:
    """Refuse another content under the same name; a second reason for the same refusal is none."""
    if known != body and not isinstance(body, CancelRefused):
        raise LedgerConflictError(
            f"the ledger holds another {body.kind} entry for {' '.join(identity(body)[1:])}",
            hint="the database was altered or put back from an older copy; keep both and ask the auditor",
        )


def _check_nothing_was_lost(ledger: Iterable[Body], tables: Mapping[tuple[str, ...], Body]) -> None:
    """Refuse tables that lack a charge which the ledger holds; the first of them is named."""
    lost = [b for b in ledger if isinstance(b, Reserve) and identity(b) not in tables]
    if lost:
        first = lost[0]
        raise LedgerConflictError(
            f"the database lacks {len(lost)} charges that the ledger holds, first: run {first.run_id}, round "
            f"{first.round_index}, attempt {first.attempt}, client {first.client_id}",
            hint="the database was put back from an older copy; restore the newest one before any run goes on",
        )


def _check_budgets(session: Session) -> None:
    """Each client has the charges that its budget counts: none was removed behind the triggers' back."""
    counted = select(PrivacyEventRow.client_id, func.count()).group_by(PrivacyEventRow.client_id)
    charges = {row[0]: row[1] for row in session.execute(counted)}
    for budget in session.scalars(select(BudgetRow).order_by(BudgetRow.client_id)):
        found = charges.get(budget.client_id, 0)
        if found != budget.charges:
            raise LedgerConflictError(
                f"client {budget.client_id} has {found} charges in the database, its budget counts {budget.charges}",
                hint="rows were removed or added by hand; restore the newest backup before any run goes on",
            )


def _name(body: Body) -> str:
    """What a ledger holds at most once, as 64 hexadecimal digits."""
    return hashlib.sha256(canonical_bytes(list(identity(body)))).hexdigest()


def _known(session: Session, names: Sequence[str]) -> dict[str, Body]:
    found: dict[str, Body] = {}
    for start in range(0, len(names), _NAMES_A_QUERY):
        query = select(LedgerEntryRow.identity, LedgerEntryRow.leaf).where(
            LedgerEntryRow.identity.in_(names[start : start + _NAMES_A_QUERY])
        )
        found |= {name: entry_from_bytes(leaf).body for name, leaf in session.execute(query)}
    return found


def _leaves(session: Session, start: int = 0) -> list[bytes]:
    query = select(LedgerEntryRow.leaf).where(LedgerEntryRow.sequence >= start)
    return list(session.scalars(query.order_by(LedgerEntryRow.sequence)))


def _insert(session: Session, entries: Iterable[tuple[Entry, bytes]]) -> None:
    rows = [
        {
            "sequence": entry.sequence,
            "kind": entry.body.kind,
            "identity": _name(entry.body),
            "leaf": leaf,
            "previous": entry.previous,
            "sha256": entry_hash(leaf),
        }
        for entry, leaf in entries
    ]
    if rows:
        session.execute(insert(LedgerEntryRow), rows)

"""Data owners' decisions on recipes, as they came with a client's answer: verified, then entries of the ledger."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from sqlalchemy import func, select

from coordinator.errors import StorageError
from coordinator.storage.models import ClientRow, LedgerEntryRow
from motet.audit.decisions import check_decision, from_text
from privacy.ledger.chain import entry_from_bytes
from privacy.ledger.entries import Decision
from privacy.ledger.errors import LedgerFormatError, SignatureError

if TYPE_CHECKING:
    from coordinator.storage.database import Database
    from coordinator.storage.ledger import StoredLedger


class ForeignDecisionError(StorageError):
    """A decision that is not this client's, not on this recipe, or was not signed by its key."""


class RecordedDecisions:
    """What owners decided, on the coordinator's ledger.

    Args:
      database: where the ledger's entries are.
      ledger: of the database.
    """

    def __init__(self, database: Database, ledger: StoredLedger) -> None:
        self._database, self._ledger = database, ledger
        self._lock = threading.Lock()
        self._read_to, self._known = -1, list[Decision]()  # entries never change

    def take(self, text: str, *, client_id: str, recipe_sha256: str) -> Decision:
        """Verify and record a decision that a client sent; the same twice is one.

        Args:
          text: canonical JSON of it, as ``motet.audit.decisions.to_text`` writes it.
          client_id: who sent it.
          recipe_sha256: what was asked.

        Raises:
          ForeignDecisionError: see there; nothing is written.
        """
        try:
            decision = from_text(text)
        except LedgerFormatError as e:
            raise ForeignDecisionError(f"{client_id} sent a decision that can not be read: {e}") from e
        if (decision.client_id, decision.recipe_sha256) != (client_id, recipe_sha256):
            raise ForeignDecisionError(f"{client_id} sent a decision of another client or on another recipe")
        with self._database.transaction() as session:
            client = session.get(ClientRow, client_id)
            try:
                check_decision(decision, client.public_key.decode("ascii", "replace") if client else "")
            except (SignatureError, LedgerFormatError) as e:
                raise ForeignDecisionError(
                    f"{client_id} sent a decision that its registered key did not sign"
                ) from e
            self._ledger.record(session, [decision])
        return decision

    def all(self) -> list[Decision]:
        """Every decision, in the order of the ledger."""
        with self._lock, self._database.reading() as session:
            last = session.scalar(select(func.max(LedgerEntryRow.sequence)))
            query = select(LedgerEntryRow.leaf).where(
                LedgerEntryRow.kind == Decision.kind,
                LedgerEntryRow.sequence > self._read_to,
                LedgerEntryRow.sequence <= (-1 if last is None else last),
            )
            leaves = session.scalars(query.order_by(LedgerEntryRow.sequence)).all()
            bodies = [entry_from_bytes(leaf).body for leaf in leaves]
            self._known += [body for body in bodies if isinstance(body, Decision)]
            self._read_to = -1 if last is None else last
            return list(self._known)

    def standing(self, recipe_sha256: str) -> dict[str, Decision]:
        """Client -> its newest decision on a recipe."""
        found = [d for d in self.all() if d.recipe_sha256 == recipe_sha256]
        return {d.client_id: d for d in sorted(found, key=lambda d: d.decided_at_ms)}

"""The coordinator's ledger as this client saw it last. One that does not grow from there is not trained for.

``ledger-seen.json`` holds the newest signed checkpoint that an order showed, and proofs from the ones before it: an
order that was made earlier and comes late shows one of those. The file is evidence as well: an auditor takes the note
in it (``motet audit verify --previous``).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from client.errors import ClientError, LedgerError
from motet.audit.assurance import Assurance
from motet.durable import write_whole
from privacy.ledger.errors import LedgerFormatError, SignatureError
from privacy.ledger.merkle import verify_consistency

if TYPE_CHECKING:
    from pathlib import Path

    from privacy.ledger.notes import Checkpoint

log = logging.getLogger(__name__)
FILE = "ledger-seen.json"


class LedgerRolledBackError(ClientError):
    """The coordinator's ledger is not the one that this client saw before, grown."""

    code = "ledger_rolled_back"


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """An owner's acceptance of a ledger that lost entries.

    Attributes:
      evidence: file with the newest checkpoint that was seen before; kept.
      size: entries that the ledger had then.
    """

    evidence: Path
    size: int


class SeenLedger:
    """One coordinator's ledger, from one client's side.

    Args:
      home: of the client.
    """

    def __init__(self, home: Path) -> None:
        self._path = home / FILE

    def seen(self) -> Assurance | None:
        """What was seen last; None before the first private order.

        Raises:
          LedgerError: the file is damaged.
        """
        try:
            text = self._path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as e:
            raise LedgerError(f"{self._path} can not be read", hint="check its rights") from e
        try:
            return Assurance.from_text(text)
        except (LedgerFormatError, SignatureError) as e:
            raise LedgerError(
                f"{self._path} is damaged: {e}", hint="restore it from a backup; do not delete it"
            ) from e

    def check(self, text: str) -> None:
        """Hold what an order says of the ledger against what was seen; remember it, durably, where it is newer.

        Args:
          text: ``Assurance.to_text`` of the order.

        Raises:
          LedgerRolledBackError: the ledger is older, another, or another from some entry on; or it is not shown.
          LedgerError: what was seen can not be read or written.
        """
        before = self.seen()
        if not text:
            if before is not None:
                raise self._refusal("shows no ledger any more", before.checkpoint)
            return
        try:
            told = Assurance.from_text(text)
        except (LedgerFormatError, SignatureError) as e:
            log.warning("what the order says of the ledger does not hold: %s", e)
            raise LedgerRolledBackError(
                "what the order says of the coordinator's ledger does not hold; ask the operator"
            ) from e
        if before is None:
            self._remember(told)
            return
        if told.key != before.key:
            raise self._refusal("shows another ledger", before.checkpoint)
        old, new = before.checkpoint, told.checkpoint
        if new.size < old.size:
            # An order that was made before the last one, and came after it, is in the last one's proofs.
            if not _is_prefix(new, old, before.proofs.get(new.size)):
                raise self._refusal(f"shows a ledger with {new.size} entries", old)
            return
        if not _is_prefix(old, new, () if old.size == new.size else told.proofs.get(old.size)):
            raise self._refusal(f"shows a ledger with {new.size} entries that did not grow from there", old)
        if new.size > old.size:
            self._remember(told)

    def accept(self) -> Accepted | None:
        """Forget what was seen, at the owner's word; it is kept beside as evidence. None where nothing was seen.

        This client's own ledger stays: what was spent here still counts in full.

        Raises:
          LedgerError: the file can not be read or moved.
        """
        before = self.seen()
        if before is None:
            return None
        size = before.checkpoint.size
        evidence = self._path.with_name(f"ledger-seen-{size}-{before.checkpoint.root.hex()[:8]}.json")
        try:
            self._path.rename(evidence)
        except OSError as e:
            raise LedgerError(f"{self._path} can not be moved: {e.strerror}") from e
        return Accepted(evidence=evidence, size=size)

    def _remember(self, told: Assurance) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self._path, (told.to_text() + "\n").encode())
        except OSError as e:
            raise LedgerError(
                f"{self._path} can not be written: {e.strerror}", hint="check the disk and its rights"
            ) from e

    @staticmethod
    def _refusal(what: str, seen: Checkpoint) -> LedgerRolledBackError:
        return LedgerRolledBackError(
            f"the coordinator {what}, after it signed one with {seen.size} entries: charges may be forgotten; the "
            "operator restores the newest backup, or each owner accepts the loss: motet client accept-rollback"
        )


def _is_prefix(old: Checkpoint, new: Checkpoint, proof: tuple[bytes, ...] | None) -> bool:
    return proof is not None and verify_consistency(
        old_size=old.size, size=new.size, proof=proof, old_root=old.root, root=new.root
    )

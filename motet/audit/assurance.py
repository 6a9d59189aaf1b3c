"""The ledger's newest signed checkpoint as an order carries it, with proofs that it only grew since earlier ones.

A client keeps the checkpoint that it saw last. A coordinator whose ledger was put back from an older copy, or written
anew, can not show that it grew from there, and the client trains no more for it: who forgets charges would spend them
twice. Checkpoints and proofs are those of ``privacy.ledger``; the whole is one line of JSON.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from privacy.ledger.errors import LedgerFormatError
from privacy.ledger.merkle import HASH_BYTES
from privacy.ledger.notes import Checkpoint, Verifier, open_checkpoint

if TYPE_CHECKING:
    from motet.audit.ledger import CoordinatorLedger

_NEAR = 2  # checkpoints that may have been the newest when an order was made
_MOST_BYTES = 200_000
_MOST_PROOFS = 200
_MOST_HASHES = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class Assurance:
    """What an order says of the ledger.

    Attributes:
      key: the ledger's public key, ``name+hash+key``.
      checkpoint: signed by it, verified.
      note: the checkpoint as it was signed.
      proofs: size of an earlier checkpoint -> hashes that lead from it to this one.
    """

    key: str
    checkpoint: Checkpoint
    note: str
    proofs: dict[int, tuple[bytes, ...]]

    def to_text(self) -> str:
        """One line of JSON."""
        proofs = {str(size): [h.hex() for h in proof] for size, proof in self.proofs.items()}
        document = {"checkpoint": self.note, "key": self.key, "proofs": proofs}
        return json.dumps(document, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Read a stranger's text; the signature is verified with the key beside it.

        Raises:
          LedgerFormatError: it is none, or is too large.
          SignatureError: the key did not sign the checkpoint.
        """
        if len(text) > _MOST_BYTES:
            raise LedgerFormatError(f"{len(text)} bytes say too much of a ledger")
        try:
            document = json.loads(text)
            key, note = str(document["key"]), str(document["checkpoint"])
            proofs = {int(size): _hashes(proof) for size, proof in document["proofs"].items()}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
            raise LedgerFormatError("what the order says of the ledger can not be read") from e
        if len(proofs) > _MOST_PROOFS:
            raise LedgerFormatError("the order has too many proofs")
        checkpoint = open_checkpoint(note, Verifier.from_text(key))
        return cls(key=key, checkpoint=checkpoint, note=note, proofs=proofs)


class Assurances:
    """What the orders of one moment say of the ledger.

    Args:
      ledger: signed up to the charges that the orders rest on.
    """

    def __init__(self, ledger: CoordinatorLedger) -> None:
        self._ledger = ledger
        notes = ledger.checkpoints()
        self._note = notes[-1] if notes else ""
        self._sizes = sorted({_size(note) for note in notes})
        self._seen = ledger.orders_seen() if notes else {}
        self._verifier = ledger.verifier() if notes else None
        self._checkpoint = open_checkpoint(self._note, self._verifier) if self._verifier is not None else None

    def for_client(self, client_id: str) -> str:
        """For one order; empty while nothing was signed.

        The proofs start at the checkpoints of the orders that this client may have seen last: the last one that it
        answered with an update, and those after it.
        """
        verifier, checkpoint = self._verifier, self._checkpoint
        if verifier is None or checkpoint is None:
            return ""
        starts: set[int] = set()
        for sequence in self._seen.get(client_id, ()):
            end = bisect_right(self._sizes, sequence)
            starts.update(self._sizes[max(end - _NEAR, 0) : end])
        proofs = {
            size: tuple(self._ledger.consistency_proof(size, checkpoint.size))
            for size in sorted(starts)
            if 0 < size < checkpoint.size
        }
        made = Assurance(key=verifier.to_text(), checkpoint=checkpoint, note=self._note, proofs=proofs)
        return made.to_text()


def _size(note: str) -> int:
    return int(note.split("\n", 2)[1])


def _hashes(proof: object) -> tuple[bytes, ...]:
    if not isinstance(proof, list) or len(proof) > _MOST_HASHES:
        raise ValueError("no proof")
    hashes = tuple(bytes.fromhex(h) for h in proof)
    if any(len(h) != HASH_BYTES for h in hashes):
        raise ValueError("no hashes")
    return hashes

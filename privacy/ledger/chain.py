"""The chain: each entry carries the hash of the one before, so that none can be altered, removed or moved unseen."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from privacy.ledger.canonical import canonical_bytes, parse_canonical
from privacy.ledger.entries import Body, body_from, fields_of
from privacy.ledger.errors import ChainError, LedgerFormatError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from privacy.ledger.canonical import Value

FIRST_PREVIOUS = "0" * 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One entry in its place.

    Attributes:
      sequence: position in the ledger, from 0.
      previous: SHA-256 of the canonical bytes of the entry before, hexadecimal; zeros for the first.
      at_ms: when it was written, milliseconds since 1970 (UTC), by the writer's clock; advisory.
      recorded_by: ``engine`` if it was written as it happened, ``export`` if from the database later.
      body: what happened.
    """

    sequence: int
    previous: str
    at_ms: int
    recorded_by: str
    body: Body

    def to_fields(self) -> dict[str, Value]:
        """The entry as a JSON object."""
        return {
            "at_ms": self.at_ms,
            "body": fields_of(self.body),
            "kind": self.body.kind,
            "previous": self.previous,
            "recorded_by": self.recorded_by,
            "sequence": self.sequence,
        }

    def to_bytes(self) -> bytes:
        """Canonical bytes: the leaf of the Merkle tree."""
        return canonical_bytes(self.to_fields())


RECORDED_BY = ("engine", "export")


def entry_hash(data: bytes) -> str:
    """SHA-256 of an entry's bytes: what the next one carries."""
    return hashlib.sha256(data).hexdigest()


def entry_from_fields(fields: Value) -> Entry:
    """Read an entry from a JSON object.

    Raises:
      LedgerFormatError: a field is missing, unknown or of the wrong type.
    """
    expected = {"at_ms", "body", "kind", "previous", "recorded_by", "sequence"}
    if not isinstance(fields, dict) or set(fields) != expected:
        raise LedgerFormatError("an entry has the fields " + ", ".join(sorted(expected)))
    sequence, at_ms, kind = fields["sequence"], fields["at_ms"], fields["kind"]
    previous, recorded_by, body = fields["previous"], fields["recorded_by"], fields["body"]
    if type(sequence) is not int or sequence < 0 or type(at_ms) is not int or at_ms < 0:
        raise LedgerFormatError("sequence and at_ms are integers >= 0")
    if not isinstance(previous, str) or not isinstance(kind, str) or not isinstance(body, dict):
        raise LedgerFormatError("previous and kind are text, body is an object")
    if not isinstance(recorded_by, str) or recorded_by not in RECORDED_BY:
        raise LedgerFormatError(f"recorded_by is one of {', '.join(RECORDED_BY)}, not {recorded_by!r}")
    return Entry(
        sequence=sequence,
        previous=previous,
        at_ms=at_ms,
        recorded_by=recorded_by,
        body=body_from(kind, body),
    )


def entry_from_bytes(data: bytes) -> Entry:
    """Read an entry from its canonical bytes.

    Raises:
      LedgerFormatError: not canonical, or no entry.
    """
    return entry_from_fields(parse_canonical(data))


def check_link(entry: Entry, index: int, previous: str) -> None:
    """Hold one entry to its place.

    Args:
      entry: the entry.
      index: where it stands, from 0.
      previous: ``entry_hash`` of the entry before it, or ``FIRST_PREVIOUS``.

    Raises:
      ChainError: it belongs elsewhere, or the entry before it is not the one it was written after.
    """
    if entry.sequence != index:
        raise ChainError(index, f"entry {entry.sequence} stands where entry {index} belongs")
    if entry.previous != previous:
        raise ChainError(
            index, f"entry {index} does not follow entry {index - 1}: one of them was altered or replaced"
        )


def chained_entries(
    bodies: Iterable[Body], *, sequence: int, previous: str, at_ms: int, recorded_by: str = "engine"
) -> list[tuple[Entry, bytes]]:
    """Put bodies in their places at the end of a ledger.

    Args:
      bodies: what happened, in order.
      sequence: place of the first of them, from 0.
      previous: ``entry_hash`` of the entry before it, or ``FIRST_PREVIOUS``.
      at_ms: when, milliseconds since 1970 (UTC).
      recorded_by: one of ``RECORDED_BY``.

    Returns:
      each entry and its canonical bytes.

    Raises:
      LedgerFormatError: a body that no reader would take.
    """
    made: list[tuple[Entry, bytes]] = []
    for body in bodies:
        body_from(body.kind, fields_of(body))
        entry = Entry(
            sequence=sequence + len(made), previous=previous, at_ms=at_ms, recorded_by=recorded_by, body=body
        )
        made.append((entry, entry.to_bytes()))
        previous = entry_hash(made[-1][1])
    return made


def chained(
    bodies: Iterable[Body], *, sequence: int, previous: str, at_ms: int, recorded_by: str = "engine"
) -> list[bytes]:
    """Canonical bytes of ``chained_entries``."""
    made = chained_entries(bodies, sequence=sequence, previous=previous, at_ms=at_ms, recorded_by=recorded_by)
    return [leaf for _, leaf in made]


def verify_chain(leaves: Sequence[bytes]) -> list[Entry]:
    """Read a whole chain.

    Args:
      leaves: canonical bytes of every entry, in order.

    Returns:
      the entries.

    Raises:
      ChainError: names the first entry that does not fit.
      LedgerFormatError: bytes that are no entry.
    """
    entries, previous = [], FIRST_PREVIOUS
    for index, data in enumerate(leaves):
        entry = entry_from_bytes(data)
        check_link(entry, index, previous)
        entries.append(entry)
        previous = entry_hash(data)
    return entries

"""The bundle: one file that holds all that an auditor needs, and nothing that has to be trusted.

JSON lines in canonical form. Each line is ``{"body", "kind", "row", "sha256"}``, where the hash is that of the body,
so that a damaged row is named; the last row seals the file with the ledger's signature. Rows, in order:

    header            what this is, the ledger's name and public key, the run that was asked for
    entry             every entry of the ledger, from the first
    checkpoint        every signed checkpoint
    countersignature  a data owner's own record of its charges, signed by its key
    claim             the epsilon that is claimed for one client
    seal              number and hash of all rows before, signed
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from motet.audit.errors import BundleError
from privacy.accounting import epsilon_pld, epsilon_rdp
from privacy.ledger.canonical import canonical_bytes
from privacy.ledger.notes import open_checkpoint
from privacy.ledger.rules import check_entries

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from motet.audit.ledger import CoordinatorLedger
    from privacy.events import Unit
    from privacy.ledger.canonical import Value
    from privacy.ledger.chain import Entry
    from privacy.ledger.rules import LedgerState

FORMAT = "motet-audit-bundle/1"
KINDS = ("header", "entry", "checkpoint", "countersignature", "claim", "seal")
DEFAULT_DELTA = 1e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """The epsilon that is claimed for everything charged to one client in one unit, over all runs.

    Attributes:
      client_id: whose data.
      unit: what is protected; written unless it is the example.
      target_delta: of both figures.
      epsilon_pld: by privacy loss distributions; the figure that is reported.
      epsilon_rdp: by Renyi DP; looser.
    """

    client_id: str
    target_delta: float
    epsilon_pld: float
    epsilon_rdp: float
    unit: Unit = "example"

    @property
    def name(self) -> str:
        """For people: the client, and the unit where it is not the example."""
        return self.client_id if self.unit == "example" else f"{self.client_id} ({self.unit})"

    def to_fields(self) -> dict[str, Value]:
        """As JSON; numbers that are not whole are their shortest decimal text."""
        fields: dict[str, Value] = {
            "client_id": self.client_id,
            "epsilon_pld": repr(self.epsilon_pld),
            "epsilon_rdp": repr(self.epsilon_rdp),
            "target_delta": repr(self.target_delta),
        }
        return fields if self.unit == "example" else fields | {"unit": self.unit}


def row_bytes(number: int, kind: str, body: Mapping[str, Value]) -> bytes:
    """One line of a bundle, without its newline; rows count from 1."""
    fields = dict(body)
    digest = hashlib.sha256(canonical_bytes(fields)).hexdigest()
    return canonical_bytes({"body": fields, "kind": kind, "row": number, "sha256": digest})


def seal_text(origin: str, rows: int, digest: bytes) -> str:
    """The text that the ledger's key signs over a bundle.

    Args:
      origin: the ledger's name.
      rows: number of rows before the seal.
      digest: SHA-256 of their bytes, newlines included.
    """
    return f"{FORMAT}\n{origin}\n{rows}\n{base64.b64encode(digest).decode()}\n"


def delta_of(state: LedgerState, client_id: str) -> float:
    """The smallest ``target_delta`` of the private runs that charged a client."""
    deltas = []
    for run_id in {charge.run_id for charge in state.charges.get(client_id, ())}:
        privacy = state.runs.get(run_id, {}).get("privacy")
        value = privacy.get("target_delta") if isinstance(privacy, dict) else None
        if isinstance(value, float) and 0 < value < 1:
            deltas.append(value)
    return min(deltas, default=DEFAULT_DELTA)


def claims_of(state: LedgerState) -> list[Claim]:
    """What the ledger adds up to for each client and unit, by two accountants."""
    claims = []
    for (client_id, unit), events in state.accounts().items():
        delta = delta_of(state, client_id)
        claims.append(
            Claim(
                client_id=client_id,
                target_delta=delta,
                epsilon_pld=epsilon_pld(events, delta),
                epsilon_rdp=epsilon_rdp(events, delta),
                unit=unit,
            )
        )
    return claims


def make_bundle(
    ledger: CoordinatorLedger,
    *,
    run_id: str,
    made_at_ms: int,
    version: str,
    countersignatures: Sequence[Mapping[str, Value]] = (),
) -> bytes:
    """The bytes of a bundle over the whole ledger; see ``bundle_rows``."""
    return b"".join(
        bundle_rows(
            ledger,
            run_id=run_id,
            made_at_ms=made_at_ms,
            version=version,
            countersignatures=countersignatures,
        )
    )


def bundle_rows(
    ledger: CoordinatorLedger,
    *,
    run_id: str,
    made_at_ms: int,
    version: str,
    countersignatures: Sequence[Mapping[str, Value]] = (),
    size: int | None = None,
) -> Iterator[bytes]:
    """The lines of a bundle, each with its newline; one at a time is made.

    Args:
      ledger: with everything written.
      run_id: the run that was asked for; must be in the ledger.
      made_at_ms: time of the export, milliseconds since 1970.
      version: of Motet.
      countersignatures: documents of data owners, see ``motet.audit.receipts``.
      size: entries of the newest checkpoint to be in it; what a running coordinator writes meanwhile is left out. All
        by default.

    Raises:
      BundleError: the ledger knows no such run.
      JournalError: the ledger is damaged.
    """
    verifier = ledger.verifier()
    notes = [n for n in ledger.checkpoints() if size is None or open_checkpoint(n, verifier).size <= size]
    entries = ledger.entries()[:size]
    state = check_entries(entries)
    if run_id not in state.runs:
        raise BundleError(f"the ledger knows no run {run_id!r}", hint="see: motet run list")
    header: dict[str, Value] = {
        "entries": len(entries),
        "format": FORMAT,
        "key": verifier.to_text(),
        "made_at_ms": made_at_ms,
        "run_id": run_id,
        "version": version,
    }
    digest, number = hashlib.sha256(), 0
    for number, (kind, body) in enumerate(_bodies(header, entries, notes, countersignatures, state), start=1):
        row = row_bytes(number, kind, body) + b"\n"
        digest.update(row)
        yield row
    note = ledger.sign(seal_text(verifier.name, number, digest.digest()))
    yield row_bytes(number + 1, "seal", {"note": note}) + b"\n"


def _bodies(
    header: Mapping[str, Value],
    entries: Sequence[Entry],
    notes: Sequence[str],
    countersignatures: Sequence[Mapping[str, Value]],
    state: LedgerState,
) -> Iterator[tuple[str, Mapping[str, Value]]]:
    """Kind and content of each row before the seal."""
    yield "header", header
    yield from (("entry", entry.to_fields()) for entry in entries)
    yield from (("checkpoint", {"note": note}) for note in notes)
    yield from (("countersignature", document) for document in countersignatures)
    yield from (("claim", claim.to_fields()) for claim in claims_of(state))

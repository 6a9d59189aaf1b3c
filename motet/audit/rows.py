"""Read the rows of a bundle; every row that is damaged is named, and reading goes on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from motet.audit.bundle import FORMAT, KINDS, seal_text
from privacy.ledger.canonical import canonical_bytes, parse_canonical
from privacy.ledger.chain import FIRST_PREVIOUS, Entry, check_link, entry_from_fields, entry_hash
from privacy.ledger.entries import Genesis
from privacy.ledger.errors import ChainError, LedgerFormatError, SignatureError
from privacy.ledger.merkle import MerkleTree
from privacy.ledger.notes import Checkpoint, Verifier, open_checkpoint, open_note

if TYPE_CHECKING:
    from privacy.ledger.canonical import Value

_SHAPE = {"body", "kind", "row", "sha256"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that does not hold.

    Attributes:
      row: of the bundle, from 1; None where no row is to blame.
      code: short name, stable between versions.
      message: what is wrong, in words.
    """

    row: int | None
    code: str
    message: str


@dataclass(slots=True, kw_only=True)
class Bundle:
    """What a bundle holds, as far as it could be read.

    Attributes:
      header: body of the first row; empty if damaged.
      verifier: the ledger's public key; None if damaged.
      entries: of the ledger.
      entry_rows: row of each entry.
      leaves: canonical bytes of each entry.
      tree: over the leaves.
      checkpoints: row and checkpoint, those whose signature holds.
      countersignatures: row and body.
      claims: row and body.
      findings: what is damaged.
    """

    header: dict[str, Value] = field(default_factory=dict)
    verifier: Verifier | None = None
    entries: list[Entry] = field(default_factory=list)
    entry_rows: list[int] = field(default_factory=list)
    leaves: list[bytes] = field(default_factory=list)
    tree: MerkleTree = field(default_factory=MerkleTree)
    checkpoints: list[tuple[int, Checkpoint]] = field(default_factory=list)
    countersignatures: list[tuple[int, dict[str, Value]]] = field(default_factory=list)
    claims: list[tuple[int, dict[str, Value]]] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def report(self, row: int | None, code: str, message: str) -> None:
        """Add a finding."""
        self.findings.append(Finding(row=row, code=code, message=message))


def read_bundle(data: bytes) -> Bundle:
    """Read a bundle and verify its rows, seal, chain, tree and checkpoints.

    Args:
      data: the whole file.

    Returns:
      what could be read; nothing is raised for content.
    """
    bundle = Bundle()
    lines = data.split(b"\n")
    if lines[-1]:
        bundle.report(len(lines), "cut", "the file does not end in a newline: its end is missing")
    else:
        lines.pop()
    rows: list[Row | None] = []
    shift = 0
    for number, line in enumerate(lines, 1):
        row, findings = read_row(number, line)
        rows.append(row)
        before, shift = shift, row.shift if row is not None else shift
        # After a row that was removed all others are moved by one: told once, where it begins.
        bundle.findings.extend(f for f in findings if f.code != "moved" or shift != before)
    _header(bundle, rows)
    _order_of_kinds(bundle, rows)
    _entries(bundle, rows)
    _checkpoints(bundle, rows)
    for number, row in enumerate(rows, 1):
        if row is not None and row.kind == "countersignature":
            bundle.countersignatures.append((number, row.body))
        if row is not None and row.kind == "claim":
            bundle.claims.append((number, row.body))
    _seal(bundle, lines, rows)
    return bundle


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of a bundle, well formed.

    Attributes:
      kind: one of ``KINDS``.
      body: its fields.
      data: canonical bytes of the body.
      shift: the number that it bears less the number of its place; 0 where it belongs.
    """

    kind: str
    body: dict[str, Value]
    data: bytes
    shift: int


def read_row(number: int, line: bytes) -> tuple[Row | None, list[Finding]]:
    """Read one line and hold it to its place and its hash.

    Args:
      number: where it stands, from 1.
      line: without its newline.

    Returns:
      the row, None if it can not be read; and what is wrong with it.
    """
    try:
        fields = parse_canonical(line)
        if not isinstance(fields, dict) or set(fields) != _SHAPE:
            raise LedgerFormatError("a row has body, kind, row and sha256")
        body, kind, told = fields["body"], fields["kind"], fields["row"]
        if not isinstance(body, dict) or kind not in KINDS or type(told) is not int:
            raise LedgerFormatError(f"a row of unknown kind {kind!r} or number {told!r}")
    except LedgerFormatError as error:
        return None, [Finding(row=number, code="damaged", message=f"the row can not be read: {error}")]
    findings = []
    if fields["row"] != number:
        message = (
            f"row {fields['row']} stands where row {number} belongs: rows were removed, inserted or swapped"
        )
        findings.append(Finding(row=number, code="moved", message=message))
    data = canonical_bytes(body)
    if hashlib.sha256(data).hexdigest() != fields["sha256"]:
        message = f"the {kind} row is not the one that its hash names"
        findings.append(Finding(row=number, code="altered", message=message))
    return Row(kind=str(kind), body=body, data=data, shift=told - number), findings


def _header(bundle: Bundle, rows: list[Row | None]) -> None:
    first = rows[0] if rows else None
    if first is None or first.kind != "header":
        bundle.report(1, "header", "the first row is no header")
        return
    body = first.body
    fields = {"entries", "format", "key", "made_at_ms", "run_id", "version"}
    if set(body) != fields or body["format"] != FORMAT or not isinstance(body["key"], str):
        bundle.report(1, "header", f"this is no bundle of format {FORMAT}")
        return
    try:
        bundle.verifier = Verifier.from_text(body["key"])
    except LedgerFormatError as error:
        bundle.report(1, "header", f"the ledger's key can not be read: {error}")
        return
    bundle.header = body


def _order_of_kinds(bundle: Bundle, rows: list[Row | None]) -> None:
    latest = 0
    for number, row in enumerate(rows, 1):
        if row is None:
            continue
        place = KINDS.index(row.kind)
        if (
            place < latest
            or (row.kind == "header" and number != 1)
            or (row.kind == "seal" and number != len(rows))
        ):
            bundle.report(number, "moved", f"a {row.kind} row can not stand here")
        latest = max(latest, place)


def _entries(bundle: Bundle, rows: list[Row | None]) -> None:
    previous = FIRST_PREVIOUS
    for number, row in enumerate(rows, 1):
        if row is None or row.kind != "entry":
            continue
        data = row.data
        try:
            entry = entry_from_fields(row.body)
            check_link(entry, len(bundle.entries), previous)
        except LedgerFormatError as error:
            bundle.report(number, "entry", f"no entry of a ledger: {error}")
            previous = entry_hash(data)
            continue
        except ChainError as error:
            bundle.report(number, "chain", str(error))
        previous = entry_hash(data)
        bundle.entries.append(entry)
        bundle.entry_rows.append(number)
        bundle.leaves.append(data)
        bundle.tree.append(data)
    _genesis(bundle)


def _genesis(bundle: Bundle) -> None:
    told = bundle.header.get("entries")
    if bundle.header and told != len(bundle.entries):
        bundle.report(
            None, "count", f"the header speaks of {told} entries, {len(bundle.entries)} can be read here"
        )
    first = bundle.entries[0].body if bundle.entries else None
    if not isinstance(first, Genesis):
        bundle.report(
            bundle.entry_rows[0] if bundle.entries else None, "genesis", "the ledger's beginning is missing"
        )
    elif bundle.verifier is not None and first.key != bundle.verifier.to_text():
        bundle.report(bundle.entry_rows[0], "key", "the ledger began with another key than the header's")


def _checkpoints(bundle: Bundle, rows: list[Row | None]) -> None:
    if bundle.verifier is None:
        return
    agreed = 0
    for number, row in enumerate(rows, 1):
        if row is None or row.kind != "checkpoint":
            continue
        note = row.body.get("note")
        try:
            checkpoint = open_checkpoint(note if isinstance(note, str) else "", bundle.verifier)
        except (LedgerFormatError, SignatureError) as error:
            bundle.report(number, "checkpoint_signature", f"the checkpoint does not hold: {error}")
            continue
        bundle.checkpoints.append((number, checkpoint))
        if checkpoint.size > len(bundle.tree):
            bundle.report(
                number,
                "missing_entries",
                f"{checkpoint.size} entries were signed, {len(bundle.tree)} are here",
            )
        elif bundle.tree.root(checkpoint.size) != checkpoint.root:
            bundle.report(number, "root", _wrong_root(bundle, agreed, checkpoint.size))
        else:
            agreed = max(agreed, checkpoint.size)
    if agreed < len(bundle.entries):
        row_number = bundle.entry_rows[agreed]
        bundle.report(
            row_number, "unsigned", f"no checkpoint that holds covers the entries from row {row_number} on"
        )


def _wrong_root(bundle: Bundle, agreed: int, size: int) -> str:
    if size <= agreed:
        return f"the signed root of {size} entries is not theirs, though a larger one is"
    first, last = bundle.entry_rows[agreed], bundle.entry_rows[size - 1]
    return f"the signed root of {size} entries is not theirs: one of the rows {first} to {last} was altered"


def _seal(bundle: Bundle, lines: list[bytes], rows: list[Row | None]) -> None:
    last = rows[-1] if rows else None
    if last is None or last.kind != "seal":
        bundle.report(len(rows) or None, "seal", "the last row is no seal: the end of the file is missing")
        return
    if bundle.verifier is None:
        return
    note = last.body.get("note")
    digest = hashlib.sha256(b"".join(line + b"\n" for line in lines[:-1])).digest()
    try:
        text = open_note(note if isinstance(note, str) else "", bundle.verifier)
    except (LedgerFormatError, SignatureError) as error:
        bundle.report(len(rows), "seal", f"the seal does not hold: {error}")
        return
    if set(last.body) != {"note"} or text != seal_text(bundle.verifier.name, len(rows) - 1, digest):
        bundle.report(len(rows), "seal", "the seal is of other rows than these")

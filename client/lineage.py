"""Which data set a file is, told by its rows: a touched, longer, renamed or copied file is the data set it was.

A budget belongs to a data set, so what names the data set must not change with the file. Each row of a file gives
marks: one of the whole row, and one of every text of 16 characters or more in it that stands in this row alone. A file
that shares a mark with a data set seen before is that data set, with every charge on it; one that shares marks with
several joins them, and counts the charges of all. So rows may be added, removed, edited in part and shuffled, columns
added or renamed, and the file converted from CSV to JSONL. In a run that protects persons each person is a mark as
well: new rows of a known person go on with the budget. For pictures in a folder, a mark is a file's content.

A mark is 8 bytes of HMAC-SHA-256 under a key that is made here and never leaves; nobody without the key can test a
guess of a row against the marks. Neither marks nor names made of them leave the client: a countersignature carries a
tag of a tag (``motet.audit.receipts``). Two rows with one mark by chance (2^-64 a pair) would count charges twice,
never lose one.

What it does not see: texts that were all rewritten, or a copy handed to another client. Forgetting is refused: the
file of marks only grows, a cut or older copy is an error, and so is a ledger whose data sets are not in it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import os
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from client.errors import LedgerError
from motet.audit.errors import JournalError
from motet.audit.journal import Journal
from motet.data.examples import read_rows
from privacy.ledger.canonical import canonical_bytes
from privacy.ledger.merkle import MerkleTree

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping
    from pathlib import Path

    from privacy.ledger.canonical import Value

_LEAST_TEXT = 16  # shorter texts (labels, codes) stand in files that have nothing to do with each other
_MARK_BYTES = 8
_RESTORE = "restore the client's home from a backup; do not delete the file, that would forget what was spent"


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """Rows that a file shares with a data set of before."""

    lineage: str
    shared_rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """The data set that a file belongs to.

    Attributes:
      name: under which it is charged; does not change.
      names: itself and every data set that was joined with it; the charges of all of them count.
      root: Merkle root over the marks of this version, hex; equal for equal rows in any order, file and format.
      num_rows: rows of the file.
      known_rows: rows that were seen before, in this data set or one that it is joined with.
      overlaps: with what was known before, largest first; empty for a data set that is new.
    """

    name: str
    names: tuple[str, ...]
    root: str
    num_rows: int
    known_rows: int
    overlaps: tuple[Overlap, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Match:
    """A file held against what is known; ``found`` names the data sets that it shares marks with, oldest first."""

    root: str
    marks: tuple[bytes, ...]
    found: tuple[str, ...]
    num_rows: int
    known_rows: int
    overlaps: tuple[Overlap, ...]


@dataclass(slots=True)
class _Known:
    """What the file of marks holds: mark -> name of the data set, and which names were joined."""

    owner: dict[bytes, str] = field(default_factory=dict)
    joined: dict[str, str] = field(default_factory=dict)
    roots: set[str] = field(default_factory=set)

    def oldest(self, name: str) -> str:
        """The name that a data set goes by now."""
        while self.joined[name] != name:
            name = self.joined[name]
        return name

    def family(self, name: str) -> tuple[str, ...]:
        """Every name that was joined into one, the oldest first."""
        first = self.oldest(name)
        return (first, *(n for n in self.joined if n != first and self.oldest(n) == first))


class Lineages:
    """The data sets of one client, in ``lineages.jsonl`` beside the ledger; the key is ``lineages.key``.

    Args:
      home: the client's folder; made at the first use.
    """

    def __init__(self, home: Path) -> None:
        self._journal = Journal(home / "lineages.jsonl")
        self._key_path = home / "lineages.key"

    def identify(self, path: Path, *, person_column: str | None = None) -> Lineage:
        """Say which data set a file is, and remember its rows; durable when this returns.

        Args:
          path: a JSONL or CSV file, or a folder of files.
          person_column: column whose values are the persons that a run protects.

        Raises:
          LedgerError: what was remembered is damaged, cut, or can not be written.
          motet.data.DataError: the file can not be read.
        """
        try:
            with self._journal.locked():
                return self._identify(path, person_column)
        except JournalError as e:
            raise LedgerError(e.message, hint=e.hint) from e

    def look(self, path: Path, *, person_column: str | None = None) -> Lineage | None:
        """As ``identify``, but nothing is remembered or joined; None for a data set that was never seen.

        Raises:
          LedgerError: as ``identify``.
          motet.data.DataError: as ``identify``.
        """
        try:
            known = self._known(self._journal.lines())
        except JournalError as e:
            raise LedgerError(e.message, hint=e.hint) from e
        key = self._key(may_make=False) if known.joined else b""
        match = _match(known, key, path, person_column)
        if not match.found:
            return None
        names = dict.fromkeys(name for one in match.found for name in known.family(one))
        return _lineage(match, match.found[0], tuple(names))

    def names(self) -> set[str]:
        """Every name ever given.

        Raises:
          LedgerError: the file is damaged or cut.
        """
        try:
            return set(self._known(self._journal.lines()).joined)
        except JournalError as e:
            raise LedgerError(e.message, hint=e.hint) from e

    def current_names(self) -> dict[str, str]:
        """Every name ever given -> the name that its data set goes by now, after all that was joined.

        Raises:
          LedgerError: the file is damaged or cut.
        """
        try:
            known = self._known(self._journal.lines())
        except JournalError as e:
            raise LedgerError(e.message, hint=e.hint) from e
        return {name: known.oldest(name) for name in known.joined}

    def check_knows(self, charged: Collection[str]) -> None:
        """Refuse a ledger that holds charges on data sets which are not remembered here.

        Raises:
          LedgerError: the file of marks is missing or of another home.
        """
        lost = sorted({name for name in charged if name.startswith("l-")} - self.names())
        if lost:
            raise LedgerError(
                f"{self._journal.path} does not know {len(lost)} data sets that the ledger has charges on",
                hint=_RESTORE,
            )

    def _identify(self, path: Path, person_column: str | None) -> Lineage:
        known = self._known(self._journal.lines())
        key = self._key(may_make=not known.joined)
        match = _match(known, key, path, person_column)
        name = match.found[0] if match.found else _new_name(key, match.root, len(known.joined))
        if match.root not in known.roots or len(match.found) != 1:
            new = [mark for mark in match.marks if mark not in known.owner]
            self._remember(known, name, match.found[1:], match.root, new)
        return _lineage(match, name, known.family(name))

    def _remember(
        self, known: _Known, name: str, others: Iterable[str], root: str, marks: Collection[bytes]
    ) -> None:
        line: dict[str, Value] = {
            "joins": list(others),
            "lineage": name,
            "marks": base64.b64encode(b"".join(marks)).decode(),
            "root": root,
        }
        self._journal.append([canonical_bytes(line)])
        _take(known, line)

    def _known(self, lines: Iterable[bytes]) -> _Known:
        known = _Known()
        for number, line in enumerate(lines, 1):
            try:
                _take(known, json.loads(line))
            except (ValueError, KeyError, TypeError, binascii.Error) as e:
                raise LedgerError(f"{self._journal.path}:{number}: not a line of marks", hint=_RESTORE) from e
        return known

    def _key(self, *, may_make: bool) -> bytes:
        try:
            if not self._key_path.exists() and may_make:
                partial = self._key_path.with_suffix(".key-new")
                partial.touch(mode=0o600)
                partial.write_bytes(os.urandom(32))
                partial.replace(self._key_path)
            key = self._key_path.read_bytes()
        except OSError as e:
            raise LedgerError(f"{self._key_path} can not be read: {e.strerror}", hint=_RESTORE) from e
        if len(key) != 32:
            raise LedgerError(f"{self._key_path} is damaged", hint=_RESTORE)
        return key


def _match(known: _Known, key: bytes, path: Path, person_column: str | None) -> _Match:
    rows = [marks for marks in _marks(path, key, person_column) if marks]
    every = sorted({mark for marks in rows for mark in marks})
    shared: Counter[str] = Counter()
    known_rows = 0
    for marks in rows:
        owners = {known.oldest(known.owner[mark]) for mark in marks if mark in known.owner}
        known_rows += bool(owners)
        shared.update(owners)
    order = list(known.joined)
    return _Match(
        root=_root(every),
        marks=tuple(every),
        found=tuple(sorted(shared, key=order.index)),
        num_rows=len(rows),
        known_rows=known_rows,
        overlaps=tuple(Overlap(lineage=name, shared_rows=count) for name, count in shared.most_common()),
    )


def _lineage(match: _Match, name: str, names: tuple[str, ...]) -> Lineage:
    return Lineage(
        name=name,
        names=names,
        root=match.root,
        num_rows=match.num_rows,
        known_rows=match.known_rows,
        overlaps=match.overlaps,
    )


def _take(known: _Known, line: Mapping[str, Any]) -> None:
    name = str(line["lineage"])
    known.joined.setdefault(name, name)
    for other in line["joins"]:
        known.joined[known.oldest(str(other))] = known.oldest(name)
    marks = base64.b64decode(line["marks"], validate=True)
    for start in range(0, len(marks), _MARK_BYTES):
        known.owner.setdefault(marks[start : start + _MARK_BYTES], name)
    known.roots.add(str(line["root"]))


def _marks(path: Path, key: bytes, person_column: str | None) -> Iterator[set[bytes]]:
    """The marks of each row."""

    def mark(kind: str, content: bytes) -> bytes:
        return hmac.new(key, kind.encode() + b"\0" + content, hashlib.sha256).digest()[:_MARK_BYTES]

    if path.is_dir():
        for file in sorted(p for p in path.rglob("*") if p.is_file()):
            yield {mark("file", file.read_bytes())}
        return
    rows = [
        (
            mark("row", b"\0".join(sorted(cells))),
            {mark("text", cell) for cell in cells if len(cell) >= _LEAST_TEXT},
            {mark("person", _plain(row.get(person_column)))} if person_column else set(),
        )
        for _, row in read_rows(path)
        if (cells := [cell for value in row.values() if (cell := _plain(value))])
    ]
    times = Counter(text for _, texts, _ in rows for text in texts)
    for whole, texts, persons in rows:
        yield {whole, *persons, *(text for text in texts if times[text] == 1)}


def _plain(value: object) -> bytes:
    """A cell as text, the same from CSV and JSONL, in any case and spacing."""
    text = "" if value is None else " ".join(str(value).lower().split())
    return text.encode("utf-8", "surrogatepass")


def _root(marks: Collection[bytes]) -> str:
    """Merkle root over marks in ascending order, cut into leaves by their first byte: content decides, not place."""
    leaves: list[list[bytes]] = [[] for _ in range(256)]
    for mark in marks:
        leaves[mark[0]].append(mark)
    tree = MerkleTree()
    for leaf in leaves:
        tree.append(b"".join(leaf))
    return tree.root().hex()


def _new_name(key: bytes, root: str, number: int) -> str:
    return "l-" + hmac.new(key, f"lineage\0{number}\0{root}".encode(), hashlib.sha256).hexdigest()[:32]

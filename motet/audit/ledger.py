"""The coordinator's ledger on disk: entries, checkpoints and the key that signs them, in one folder.

    entries.jsonl       one entry a line in canonical JSON; the file only grows
    checkpoints.jsonl   one signed checkpoint a line, as JSON text; after everything that was written
    ledger.key          Ed25519, PEM, readable by its owner alone

The entries are made where the run's state is; this is their signed copy. It is durable before ``follow`` returns, so
that a charge is here before its order leaves; the same call after a crash completes what was begun.
"""

from __future__ import annotations

import json
import secrets
import threading
from array import array
from typing import TYPE_CHECKING, NoReturn

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from motet.audit.errors import JournalError, LedgerConflictError, LedgerKeyError
from motet.audit.journal import Journal, head_of
from motet.audit.orders_seen import OrdersSeen
from privacy.ledger.chain import FIRST_PREVIOUS, Entry, check_link, entry_from_bytes, entry_hash
from privacy.ledger.entries import Genesis, Reserve, identity
from privacy.ledger.errors import ChainError, LedgerFormatError
from privacy.ledger.merkle import MerkleTree, leaf_hash
from privacy.ledger.notes import Checkpoint, Verifier, sign_checkpoint, sign_note, verifier_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from motet.audit.journal import Stamps
    from privacy.ledger.entries import Body


class CoordinatorLedger:
    """Append-only; safe for several processes of one coordinator.

    The entries stay in the file. Held in memory are, of each, its hash and its place: some 80 bytes. What is read
    again is held against the hashes.

    Args:
      folder: made with a new key at the first entry.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._entries = Journal(folder / "entries.jsonl", keeps_lines=False)
        self._checkpoints = Journal(folder / "checkpoints.jsonl")
        self._key: Ed25519PrivateKey | None = None
        self._lock = threading.RLock()  # runs are threads
        self._forget()

    def _forget(self) -> None:
        self._tree = MerkleTree()
        self._ends = array("Q")  # of each entry's line in the file
        self._last = b""  # entry
        self._genesis: Genesis | None = None
        self._orders = OrdersSeen()
        self._origin = ""
        self._caught_up: Stamps | None = None

    def follow(self, leaves_from: Callable[[int], Sequence[bytes]]) -> Checkpoint:
        """Take over what another record of the same ledger holds beyond this one, and sign it; durable on return.

        Args:
          leaves_from: canonical bytes of the other's entries from a place on. It is first asked for the last entry
            that both must have.

        Returns:
          the checkpoint over everything.

        Raises:
          LedgerConflictError: the other lacks entries that were signed here, or has others in their place.
          JournalError: the ledger is damaged, cut, or can not be written.
          LedgerKeyError: the key is missing or is another one.
        """
        with self._entries.locked(), self._lock:
            self._catch_up()
            common = len(self._tree)
            told = leaves_from(max(common - 1, 0))
            if common and list(told[:1]) != [self._last]:
                self._raise_conflict(leaves_from(0))
            self._write(told[1:] if common else told)
            return self._sign(self._signing_key())

    def hold_against(self, leaves: Sequence[bytes]) -> None:
        """Compare another record of the same ledger with this one, entry by entry.

        Raises:
          LedgerConflictError: an entry that was signed here is missing there, or is another one.
          JournalError: the ledger is damaged or cut.
        """
        with self._lock:
            self._catch_up()
            if len(leaves) < len(self._tree) or not self._begins_with(leaves):
                self._raise_conflict(leaves)

    def _begins_with(self, leaves: Sequence[bytes]) -> bool:
        """Whether these, as far as they go, are the entries here."""
        hashes = self._tree.leaf_hashes(0, len(leaves))
        return all(leaf_hash(leaf) == known for leaf, known in zip(leaves, hashes, strict=False))

    def leaves(self) -> list[bytes]:
        """Canonical bytes of every entry, the chain verified.

        Raises:
          JournalError: the ledger is damaged or cut.
        """
        with self._lock:
            self._catch_up()
            return self._read(0, len(self._tree))

    def bodies(self) -> dict[tuple[str, ...], Body]:
        """What each entry says, by its identity, in the order of entries.

        Raises:
          JournalError: the ledger is damaged or cut.
        """
        return {identity(entry.body): entry.body for entry in self.entries()}

    def orders_seen(self) -> Mapping[str, Sequence[int]]:
        """Client -> sequences of the orders that it may have seen last; see ``OrdersSeen``.

        Raises:
          JournalError: the ledger is damaged or cut.
        """
        with self._lock:
            self._catch_up()
            return self._orders.by_client()

    def genesis(self) -> Genesis:
        """The first entry: that of this ledger, or one for a ledger that is to begin with this folder's key.

        Raises:
          LedgerKeyError: the key is missing or is another one.
        """
        self._catch_up()
        key = self._signing_key()
        return self._genesis or _genesis(key)

    def check_key(self, first: Body) -> None:
        """Compare this folder's key with that of a ledger's first entry; makes none.

        Raises:
          LedgerKeyError: the key is missing, can not be read, or is another one.
        """
        path = self._folder / "ledger.key"
        hint = (
            "a second coordinator needs the first one's ledger folder; else restore the key from the backup"
        )
        if not path.exists():
            raise LedgerKeyError(f"{path} is missing, and the database has a ledger", hint=hint)
        key = self._load_key()
        if isinstance(first, Genesis) and verifier_of(first.origin, key).to_text() != first.key:
            raise LedgerKeyError(f"{path} is not the key that the database's ledger began with", hint=hint)

    def entries(self) -> list[Entry]:
        """Every entry, the chain verified.

        Raises:
          JournalError: the ledger is damaged or cut.
        """
        return [entry_from_bytes(leaf) for leaf in self.leaves()]

    def checkpoints(self) -> list[str]:
        """Every signed checkpoint, as notes, oldest first.

        Raises:
          JournalError: the file is damaged or cut.
        """
        return [str(json.loads(line)) for line in self._checkpoints.lines()]

    def newest_note(self) -> str | None:
        """The newest signed checkpoint, as a note; None before the first.

        Raises:
          JournalError: the file is damaged or cut.
        """
        lines = self._checkpoints.lines()
        return str(json.loads(lines[-1])) if lines else None

    def verifier(self) -> Verifier:
        """The public key that signs this ledger, by which auditors know it.

        Raises:
          LedgerKeyError: the key is missing, or the ledger is empty.
        """
        self._catch_up()
        if not self._origin:
            raise LedgerKeyError(f"{self._folder} holds no ledger yet")
        return verifier_of(self._origin, self._signing_key())

    def sign(self, text: str) -> str:
        """Sign a note under the ledger's name (see ``privacy.ledger.notes.sign_note``)."""
        self._catch_up()
        return sign_note(text, self._origin, self._signing_key())

    def proof(self, body: Body) -> tuple[int, list[bytes]]:
        """Index and inclusion proof of an entry in the newest checkpoint: what a client may ask for.

        Raises:
          KeyError: there is no such entry.
        """
        with self._lock:
            wanted, entries = identity(body), self.entries()
            index = next((i for i, entry in enumerate(entries) if identity(entry.body) == wanted), None)
            if index is None:
                raise KeyError(wanted)
            return index, self._tree.inclusion_proof(index, len(entries))

    def size(self) -> int:
        """Number of entries.

        Raises:
          JournalError: the ledger is damaged or cut.
        """
        self._catch_up()
        return len(self._tree)

    def leaves_between(self, start: int, end: int) -> list[bytes]:
        """Canonical bytes of the entries from ``start`` on and before ``end``.

        Raises:
          JournalError: the ledger is damaged or cut.
        """
        with self._lock:
            self._catch_up()
            return self._read(start, end)

    def leaf_hashes(self, start: int, end: int) -> list[bytes]:
        """Their hashes in the tree, 32 bytes each."""
        with self._lock:
            self._catch_up()
            return self._tree.leaf_hashes(start, end)

    def root(self, size: int) -> bytes:
        """Root of the tree over the first ``size`` entries.

        Raises:
          ValueError: there are fewer.
        """
        with self._lock:
            self._catch_up()
            return self._tree.root(size)

    def inclusion_proof(self, sequence: int, size: int) -> list[bytes]:
        """Hashes that lead from an entry to the root of the first ``size`` entries.

        Raises:
          ValueError: not 0 <= sequence < size <= the number of entries.
        """
        with self._lock:
            self._catch_up()
            return self._tree.inclusion_proof(sequence, size)

    def backup_files(self, entries: int, checkpoints: int) -> dict[str, bytes]:
        """The first entries and checkpoints as files, with what tells a cut one: they read back as this ledger was.

        Raises:
          JournalError: the ledger is damaged or cut.
        """
        found: dict[str, bytes] = {}
        for journal, count in ((self._entries, entries), (self._checkpoints, checkpoints)):
            lines = journal.lines()[:count]
            found[journal.path.name] = b"".join(line + b"\n" for line in lines)
            if lines:
                found[journal.path.with_suffix(".head").name] = head_of(lines)
        return found

    def consistency_proof(self, old_size: int, size: int) -> list[bytes]:
        """Hashes that show that the ledger of ``old_size`` entries is a prefix of that of ``size``.

        Raises:
          ValueError: not 1 <= old_size <= size <= the number of entries.
        """
        with self._lock:
            self._catch_up()
            return self._tree.consistency_proof(old_size, size)

    def _raise_conflict(self, others: Sequence[bytes]) -> NoReturn:
        own = self._read(0, len(self._tree))
        rest = [entry_from_bytes(leaf).body for leaf in own[len(others) :]]
        lost = [body for body in rest if isinstance(body, Reserve)]
        if lost and list(others) == own[: len(others)]:
            first = lost[0]
            raise LedgerConflictError(
                f"the database lacks {len(lost)} charges that the ledger holds, first: run {first.run_id}, round "
                f"{first.round_index}, attempt {first.attempt}, client {first.client_id}",
                hint="the database was put back from an older copy; restore the newest one before any run goes on",
            )
        pairs = zip(own, others, strict=False)
        index = next((i for i, (ours, theirs) in enumerate(pairs) if ours != theirs), len(others))
        raise LedgerConflictError(
            f"entry {index} of the database is not the one that was signed in {self._entries.path}",
            hint="the database was altered or put back from an older copy; keep both and ask the auditor",
        )

    def _write(self, lines: Sequence[bytes]) -> None:
        self._entries.append(lines)
        for line in lines:
            self._take(line)
        self._caught_up = self._entries.stamps()

    def _catch_up(self) -> None:
        """Take in what other processes, or this one before a crash, have written; nothing where nobody has."""
        with self._lock:
            stamps = self._entries.stamps()
            if stamps == self._caught_up:
                return
            lines = self._entries.lines()
            if len(lines) < len(self._tree) or not self._begins_with(lines):
                self._forget()
            for line in lines[len(self._tree) :]:
                self._take(line)
            self._caught_up = stamps

    def _take(self, line: bytes) -> None:
        index = len(self._tree)
        try:
            entry = entry_from_bytes(line)
            check_link(entry, index, entry_hash(self._last) if index else FIRST_PREVIOUS)
        except (LedgerFormatError, ChainError) as e:
            raise JournalError(
                f"{self._entries.path}:{index + 1}: {e}", hint="restore the newest backup of the folder"
            ) from e
        if isinstance(entry.body, Genesis):
            self._genesis, self._origin = entry.body, entry.body.origin
        self._orders.take(index, entry.body)
        self._ends.append((self._ends[-1] if index else 0) + len(line) + 1)
        self._last = line
        self._tree.append(line)

    def _read(self, start: int, end: int) -> list[bytes]:
        """Entries from the file, each the one that was taken in; the caller has caught up and holds the lock."""
        end = min(end, len(self._tree))
        if start >= end:
            return []
        data = self._entries.part(self._ends[start - 1] if start else 0, self._ends[end - 1])
        lines = data.split(b"\n")[: end - start]
        if [leaf_hash(line) for line in lines] != self._tree.leaf_hashes(start, end):
            raise JournalError(
                f"{self._entries.path}: an entry from {start} on was altered while it was read",
                hint="restore the newest backup of the folder",
            )
        return lines

    def _sign(self, key: Ed25519PrivateKey) -> Checkpoint:
        checkpoint = Checkpoint(origin=self._origin, size=len(self._tree), root=self._tree.root())
        note = json.dumps(sign_checkpoint(checkpoint, key)).encode()
        known = self._checkpoints.lines()
        if not known or known[-1] != note:
            self._checkpoints.append([note])
        return checkpoint

    def _signing_key(self) -> Ed25519PrivateKey:
        if self._key is None:
            self._key = self._load_key()
        first = self._genesis
        if first is not None and verifier_of(first.origin, self._key).to_text() != first.key:
            raise LedgerKeyError(
                f"{self._folder / 'ledger.key'} is not the key that this ledger began with",
                hint="restore the key from the backup of the coordinator's home",
            )
        return self._key

    def _load_key(self) -> Ed25519PrivateKey:
        path = self._folder / "ledger.key"
        if not path.exists():
            if len(self._tree):
                raise LedgerKeyError(
                    f"{path} is missing", hint="restore the key from the backup of the coordinator's home"
                )
            return _make_key(path)
        try:
            key = serialization.load_pem_private_key(path.read_bytes(), None)
        except (OSError, ValueError, TypeError) as e:
            raise LedgerKeyError(f"{path} can not be read as a key", hint="restore it from the backup") from e
        if not isinstance(key, Ed25519PrivateKey):
            raise LedgerKeyError(f"{path} is no Ed25519 key", hint="restore it from the backup")
        return key


def _genesis(key: Ed25519PrivateKey) -> Genesis:
    origin = f"motet/{secrets.token_hex(6)}"
    return Genesis(origin=origin, key=verifier_of(origin, key).to_text())


def _make_key(path: Path) -> Ed25519PrivateKey:
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".key-new")
    partial.touch(mode=0o600)
    partial.write_bytes(pem)
    partial.replace(path)
    return key

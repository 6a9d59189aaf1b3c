"""Signed notes and checkpoints in the formats of C2SP, so that tools for transparency logs read ours.

A note is text, an empty line, and one signature a line (https://c2sp.org/signed-note); a checkpoint is a note of
origin, size and root (https://c2sp.org/tlog-checkpoint). Signatures are Ed25519 (RFC 8032).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from privacy.ledger.errors import LedgerFormatError, SignatureError
from privacy.ledger.merkle import HASH_BYTES

_ED25519 = b"\x01"
_DASH = "\u2014"
_NAME = re.compile(r"[^\s+]{1,200}")
_SIZE = re.compile(r"0|[1-9][0-9]{0,15}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verifier:
    """A public key with its name; as text ``name+keyhash+key``, as other tools write it.

    Attributes:
      name: of the log; no spaces and no plus sign.
      key: 32 bytes of Ed25519.

    Raises:
      LedgerFormatError: a bad name or key.
    """

    name: str
    key: bytes

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or len(self.key) != HASH_BYTES:
            raise LedgerFormatError(f"{self.name!r} with {len(self.key)} bytes is no key of a log")

    @property
    def key_hash(self) -> bytes:
        """First four bytes of the hash of name and key: which signature line is meant."""
        return hashlib.sha256(self.name.encode() + b"\n" + _ED25519 + self.key).digest()[:4]

    def to_text(self) -> str:
        """``name+hash+key``."""
        return f"{self.name}+{self.key_hash.hex()}+{_base64(_ED25519 + self.key)}"

    @classmethod
    def from_text(cls, text: str) -> Verifier:
        """Read ``name+hash+key``.

        Raises:
          LedgerFormatError: another form, another algorithm, or the hash does not fit.
        """
        parts = text.split("+", 2)
        raw = _from_base64(parts[2]) if len(parts) == 3 else b""
        if raw[:1] != _ED25519:
            raise LedgerFormatError(f"{text[:80]!r} is no Ed25519 key of a log (name+hash+key)")
        verifier = cls(name=parts[0], key=raw[1:])
        if verifier.to_text() != text:
            raise LedgerFormatError(f"the hash in {text[:80]!r} is not that of its name and key")
        return verifier


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What a log commits to.

    Attributes:
      origin: name of the log.
      size: number of entries.
      root: 32 bytes, root of the Merkle tree over them.

    Raises:
      LedgerFormatError: a value is outside its range.
    """

    origin: str
    size: int
    root: bytes

    def __post_init__(self) -> None:
        if (
            not _NAME.fullmatch(self.origin)
            or len(self.root) != HASH_BYTES
            or not _SIZE.fullmatch(str(self.size))
        ):
            raise LedgerFormatError("a checkpoint needs a name, a size >= 0 and a root of 32 bytes")

    def to_text(self) -> str:
        """The text that is signed: three lines."""
        return f"{self.origin}\n{self.size}\n{_base64(self.root)}\n"

    @classmethod
    def from_text(cls, text: str) -> Checkpoint:
        """Read the text of a note.

        Raises:
          LedgerFormatError: it is no checkpoint, or has lines that this version does not know.
        """
        lines = text.split("\n")
        if len(lines) != 4 or lines[3] or not _SIZE.fullmatch(lines[1]):
            raise LedgerFormatError(f"no checkpoint: {text[:80]!r}")
        checkpoint = cls(origin=lines[0], size=int(lines[1]), root=_from_base64(lines[2]))
        if checkpoint.to_text() != text:
            raise LedgerFormatError(f"no checkpoint in canonical form: {text[:80]!r}")
        return checkpoint


def verifier_of(name: str, key: Ed25519PrivateKey) -> Verifier:
    """The public half of a key, under a name."""
    return Verifier(name=name, key=key.public_key().public_bytes_raw())


def sign_note(text: str, name: str, key: Ed25519PrivateKey) -> str:
    """Return the note: ``text``, an empty line, one signature line.

    Args:
      text: ends in a newline.
      name: of the signer.
      key: its private key.

    Raises:
      LedgerFormatError: the text can not be signed as a note.
    """
    if not text.endswith("\n") or "\n\n" in text or any(ord(c) < 32 and c != "\n" for c in text):
        raise LedgerFormatError(
            "the text of a note ends in a newline and has no empty line or control character"
        )
    signature = verifier_of(name, key).key_hash + key.sign(text.encode())
    return f"{text}\n{_DASH} {name} {_base64(signature)}\n"


def open_note(note: str, verifier: Verifier) -> str:
    """Return the text of a note that ``verifier`` signed. Signatures of other keys are passed over.

    Raises:
      LedgerFormatError: it is no note.
      SignatureError: the key did not sign it, or the text was altered.
    """
    head, separator, tail = note.rpartition("\n\n")
    if not separator or not tail.endswith("\n"):
        raise LedgerFormatError(f"no signed note: {note[:80]!r}")
    text = head + "\n"
    found = False
    for line in tail[:-1].split("\n"):
        parts = line.split(" ")
        if len(parts) != 3 or parts[0] != _DASH:
            raise LedgerFormatError(f"no signature line: {line[:80]!r}")
        raw = _from_base64(parts[2])
        if parts[1] != verifier.name or raw[:4] != verifier.key_hash:
            continue
        try:
            Ed25519PublicKey.from_public_bytes(verifier.key).verify(raw[4:], text.encode())
        except InvalidSignature as error:
            raise SignatureError(f"the signature of {verifier.name} does not fit the text") from error
        found = True
    if not found:
        raise SignatureError(f"there is no signature of {verifier.name} ({verifier.key_hash.hex()})")
    return text


def sign_checkpoint(checkpoint: Checkpoint, key: Ed25519PrivateKey) -> str:
    """The checkpoint as a note that its origin signed."""
    return sign_note(checkpoint.to_text(), checkpoint.origin, key)


def open_checkpoint(note: str, verifier: Verifier) -> Checkpoint:
    """The checkpoint of a note, its signature verified.

    Raises:
      LedgerFormatError: no note, or no checkpoint of that log.
      SignatureError: see ``open_note``.
    """
    checkpoint = Checkpoint.from_text(open_note(note, verifier))
    if checkpoint.origin != verifier.name:
        raise LedgerFormatError(f"a checkpoint of {checkpoint.origin!r}, not of {verifier.name!r}")
    return checkpoint


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _from_base64(text: str) -> bytes:
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise LedgerFormatError(f"not base64: {text[:60]!r}") from error
    if _base64(data) != text:
        raise LedgerFormatError(f"base64 with loose bits at its end: {text[-60:]!r}")
    return data

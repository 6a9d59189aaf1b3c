"""The keys that open the keys of artifacts: a file of its own, 0600, never in the database.

A ring holds one key, and two while they are exchanged: the last is used for writing, all for reading. A key's id is
made from the key, so that a file with an altered key is found.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from coordinator.errors import StorageError
from motet.durable import write_whole

if TYPE_CHECKING:
    from pathlib import Path

KEY_BYTES = 32
ID_BYTES = 8
_FORMAT = "motet-artifact-keys/1"
_RESTORE = "restore the key file from its backup; without it the artifacts can not be read by anyone"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class WrappingKey:
    """One key of AES-256-GCM. Its text is its id: the key itself is shown nowhere."""

    secret: bytes

    @property
    def key_id(self) -> bytes:
        """8 bytes that name the key and commit to it."""
        return hashlib.sha256(b"motet artifact key\n" + self.secret).digest()[:ID_BYTES]

    def __repr__(self) -> str:
        return f"WrappingKey({self.key_id.hex()})"

    @classmethod
    def new(cls) -> Self:
        """A key from the system's generator."""
        return cls(secret=secrets.token_bytes(KEY_BYTES))


@dataclass(frozen=True, slots=True, kw_only=True)
class Keyring:
    """Keys of one artifact store, oldest first.

    Attributes:
      path: of the file.
      keys: at least one.
    """

    path: Path
    keys: tuple[WrappingKey, ...]

    @property
    def current(self) -> WrappingKey:
        """The key for writing."""
        return self.keys[-1]

    def key(self, key_id: bytes) -> WrappingKey | None:
        """The key of an id, if it is on the ring."""
        return next((k for k in self.keys if k.key_id == key_id), None)

    def save(self) -> None:
        """Write the file, whole or not at all; durable on return.

        Raises:
          StorageError: it can not be written.
        """
        keys = [{"id": k.key_id.hex(), "key": base64.b64encode(k.secret).decode()} for k in self.keys]
        text = json.dumps({"format": _FORMAT, "keys": keys}, indent=2) + "\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.path, text.encode(), mode=0o600)
        except OSError as e:
            raise StorageError(
                f"{self.path} can not be written: {e.strerror}", hint="check the folder's rights and space"
            ) from e


def read_keyring(path: Path) -> Keyring:
    """Read a file of keys.

    Raises:
      StorageError: missing, readable by others, damaged, or a key is not that of its id.
    """
    try:
        mode = path.stat().st_mode
        data = path.read_bytes()
    except OSError as e:
        raise StorageError(f"{path} can not be read: {e.strerror}", hint=_RESTORE) from e
    if mode & 0o077:
        raise StorageError(f"{path}: other users may read this key file", hint=f"chmod 600 {path}")
    try:
        document = json.loads(data)
        if document["format"] != _FORMAT:
            raise StorageError(f"{path}: no key file of this version of Motet", hint=_RESTORE)
        keys = tuple(
            WrappingKey(secret=base64.b64decode(row["key"], validate=True)) for row in document["keys"]
        )
        ids = [bytes.fromhex(row["id"]) for row in document["keys"]]
    except (ValueError, KeyError, TypeError, binascii.Error) as e:
        raise StorageError(f"{path} is damaged", hint=_RESTORE) from e
    if not keys or any(len(k.secret) != KEY_BYTES for k in keys) or ids != [k.key_id for k in keys]:
        raise StorageError(f"{path} is damaged: a key is not the one of its id", hint=_RESTORE)
    return Keyring(path=path, keys=keys)

"""The form of an encrypted artifact: a header with a wrapped key, then frames that can not be cut, moved or swapped.

    header   magic 8 | key id 8 | kind 16 | size u64 | nonce prefix 7 | wrap nonce 12 | wrapped data key 48
    frames   AES-256-GCM of up to 1 MiB each, tag 16; nonce = prefix | counter u32 | 1 for the last frame, else 0

Each artifact has a data key of its own. The frames are bound to the sha256 of the plain bytes, their kind and size;
the wrapped key is bound to the same and to the id of the key that wraps it. A new wrapping key changes the header
alone. Frames are those of STREAM (Hoang, Reyhanitabar, Rogaway, Vizar 2015).
"""

from __future__ import annotations

import secrets
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from coordinator.errors import StorageError
from coordinator.storage.keyring import ID_BYTES, KEY_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from coordinator.storage.keyring import WrappingKey

FRAME_BYTES = 1 << 20
_MAGIC = b"MOTETA1\n"
_TAG = 16
_KIND_BYTES = 16
_FIELDS = struct.Struct(f">8s{ID_BYTES}s{_KIND_BYTES}sQ7s12s{KEY_BYTES + _TAG}s")
HEADER_BYTES = _FIELDS.size
_HINT = "restore the artifacts folder from a backup; the file was changed on disk, not by Motet"


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What stands before the frames.

    Attributes:
      sha256: of the plain bytes, 64 hexadecimal digits; the file's name, not stored in it.
      key_id: of the key that wraps.
      kind: adapter, update, optimizer.
      size: plain bytes.
    """

    sha256: str
    key_id: bytes
    kind: str
    size: int
    prefix: bytes
    wrap_nonce: bytes
    wrapped: bytes

    @classmethod
    def read(cls, file: BinaryIO, sha256: str) -> Self:
        """Read a header.

        Raises:
          StorageError: it is none.
        """
        data = file.read(HEADER_BYTES)
        if len(data) != HEADER_BYTES or data[:8] != _MAGIC:
            raise StorageError(
                f"artifact {sha256[:12]} is damaged: no header of an encrypted file", hint=_HINT
            )
        _, key_id, kind, size, prefix, wrap_nonce, wrapped = _FIELDS.unpack(data)
        return cls(
            sha256=sha256,
            key_id=key_id,
            kind=kind.rstrip(b"\0").decode("ascii", "replace"),
            size=size,
            prefix=prefix,
            wrap_nonce=wrap_nonce,
            wrapped=wrapped,
        )

    def to_bytes(self) -> bytes:
        """As it stands in the file."""
        return _FIELDS.pack(
            _MAGIC, self.key_id, _kind(self.kind), self.size, self.prefix, self.wrap_nonce, self.wrapped
        )

    def data_key(self, key: WrappingKey) -> bytes:
        """The key of the frames.

        Raises:
          StorageError: the header was altered, belongs to another artifact, or the key is another one.
        """
        try:
            return AESGCM(key.secret).decrypt(self.wrap_nonce, self.wrapped, self._bound(self.key_id))
        except InvalidTag:
            raise StorageError(
                f"artifact {self.sha256[:12]} was altered: its header does not belong to it", hint=_HINT
            ) from None

    def rewrapped(self, old: WrappingKey, new: WrappingKey) -> Header:
        """The same frames under another key.

        Raises:
          StorageError: as ``data_key``.
        """
        return sealed_header(self, self.data_key(old), new)

    def frame_binding(self) -> bytes:
        """What every frame is bound to."""
        return b"frame\n" + bytes.fromhex(self.sha256) + _kind(self.kind) + self.size.to_bytes(8, "big")

    def _bound(self, key_id: bytes) -> bytes:
        return b"wrap\n" + key_id + self.frame_binding() + self.prefix


def sealed_header(like: Header, data_key: bytes, key: WrappingKey) -> Header:
    """A header with ``data_key`` wrapped anew."""
    nonce = secrets.token_bytes(12)
    wrapped = AESGCM(key.secret).encrypt(nonce, data_key, like._bound(key.key_id))  # noqa: SLF001 - same module
    return Header(
        sha256=like.sha256,
        key_id=key.key_id,
        kind=like.kind,
        size=like.size,
        prefix=like.prefix,
        wrap_nonce=nonce,
        wrapped=wrapped,
    )


def seal(data: bytes, sha256: str, kind: str, key: WrappingKey) -> Iterator[bytes]:
    """Header and frames of an artifact; one frame is in memory at a time.

    Args:
      data: plain bytes.
      sha256: of them.
      kind: up to 16 ASCII letters.
      key: that wraps the artifact's own.
    """
    data_key = secrets.token_bytes(KEY_BYTES)
    blank = Header(
        sha256=sha256,
        key_id=key.key_id,
        kind=kind,
        size=len(data),
        prefix=secrets.token_bytes(7),
        wrap_nonce=b"",
        wrapped=b"",
    )
    header = sealed_header(blank, data_key, key)
    yield header.to_bytes()
    cipher, binding, view = AESGCM(data_key), header.frame_binding(), memoryview(data)
    frames = _frames(len(data))
    for index in range(frames):
        part = view[index * FRAME_BYTES : (index + 1) * FRAME_BYTES]
        yield cipher.encrypt(_nonce(header.prefix, index, frames), part, binding)


def unseal(file: BinaryIO, header: Header, key: WrappingKey) -> Iterator[bytes]:
    """Plain frames of a file that stands behind its header; each is whole and authentic when it is given out.

    Raises:
      StorageError: a frame was altered, moved, removed or added.
    """
    cipher, binding = AESGCM(header.data_key(key)), header.frame_binding()
    frames = _frames(header.size)
    for index in range(frames):
        plain = min(FRAME_BYTES, header.size - index * FRAME_BYTES)
        try:
            yield cipher.decrypt(_nonce(header.prefix, index, frames), file.read(plain + _TAG), binding)
        except InvalidTag:
            raise StorageError(
                f"artifact {header.sha256[:12]} was altered on disk: part {index + 1} of {frames} is not authentic",
                hint=_HINT,
            ) from None
    if file.read(1):
        raise StorageError(f"artifact {header.sha256[:12]} was altered: bytes were added", hint=_HINT)


def _frames(size: int) -> int:
    """Number of frames; no bytes are one empty frame, so that they are authentic as well."""
    return max(1, -(-size // FRAME_BYTES))


def _nonce(prefix: bytes, index: int, frames: int) -> bytes:
    return prefix + index.to_bytes(4, "big") + (b"\1" if index == frames - 1 else b"\0")


def _kind(kind: str) -> bytes:
    data = kind.encode("ascii", "replace")
    if len(data) > _KIND_BYTES:
        raise ValueError(f"{kind!r} is no kind of artifact: at most {_KIND_BYTES} letters")
    return data.ljust(_KIND_BYTES, b"\0")

"""Read a GGUF file: metadata, and tensors one at a time as float32.

Only what the pinned model needs: version 2 and later, little endian, tensor types F32, F16, Q4_0, Q4_1, Q8_0.
Every read is checked against the length of the file.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from motet.materials.errors import MaterialError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_BLOCK = 32  # values in one quantised block
_F32, _F16, _Q4_0, _Q4_1, _Q8_0 = 0, 1, 2, 3, 8
_RECORDS: Mapping[int, np.dtype[Any]] = {
    _F32: np.dtype("<f4"),
    _F16: np.dtype("<f2"),
    _Q4_0: np.dtype([("scale", "<f2"), ("q", "u1", 16)]),
    _Q4_1: np.dtype([("scale", "<f2"), ("least", "<f2"), ("q", "u1", 16)]),
    _Q8_0: np.dtype([("scale", "<f2"), ("q", "i1", 32)]),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorInfo:
    """Where one tensor lies: ``shape`` row-major, ``kind`` the GGUF type number, ``offset`` in bytes."""

    shape: tuple[int, ...]
    kind: int
    offset: int


class GgufFile:
    """An open GGUF file.

    Attributes:
      metadata: key to value.
      tensors: name to place; ``read`` brings the values.

    Raises:
      MaterialError: not GGUF, cut short, or with a value or tensor type that is not known here.
    """

    def __init__(self, path: Path) -> None:
        self._name = path.name
        self._bytes: NDArray[np.uint8] = np.memmap(path, dtype=np.uint8, mode="r")
        self._at = 0
        if self._take("I") != 0x46554747 or self._take("I") < 2:
            raise MaterialError(f"{self._name}: not a GGUF file of version 2 or later")
        num_tensors, num_keys = self._take("Q"), self._take("Q")
        self.metadata: dict[str, Any] = {}
        for _ in range(num_keys):
            key = self._string()
            self.metadata[key] = self._value(self._take("I"))
        places: list[tuple[str, tuple[int, ...], int, int]] = []
        for _ in range(num_tensors):
            name = self._string()
            shape = tuple(int(self._take("Q")) for _ in range(self._take("I")))[::-1]
            places.append((name, shape, self._take("I"), self._take("Q")))
        align = int(self.metadata.get("general.alignment", _BLOCK))
        base = -(-self._at // align) * align
        self.tensors = {n: TensorInfo(shape=s, kind=k, offset=base + o) for n, s, k, o in places}

    def read(self, name: str) -> NDArray[np.float32]:
        """One tensor, dequantised; shape as in ``tensors[name].shape``.

        A block of Q4_1 holds 32 values x = scale * q + least with q in 0..15, the low nibbles first; Q4_0 has
        x = scale * (q - 8); Q8_0 has x = scale * q with q in -128..127.

        Raises:
          MaterialError: the type is not known, or the file is cut short.
        """
        info = self.tensors[name]
        record = _RECORDS.get(info.kind)
        if record is None:
            raise MaterialError(f"{self._name}: tensor {name!r} has type {info.kind}, which can not be read")
        per_record = 1 if info.kind in (_F32, _F16) else _BLOCK
        count, rest = divmod(math.prod(info.shape), per_record)
        end = info.offset + count * record.itemsize
        if rest or end > self._bytes.size:
            raise MaterialError(f"{self._name}: tensor {name!r} is cut short")
        rows = self._bytes[info.offset : end].view(record)
        if per_record == 1:
            return rows.astype(np.float32).reshape(info.shape)
        q: NDArray[Any] = rows["q"]
        if info.kind != _Q8_0:
            q = np.concatenate([q & 15, q >> 4], axis=1)
        values = q.astype(np.float32)
        if info.kind == _Q4_0:
            values -= 8
        values *= rows["scale"].astype(np.float32)[:, None]
        if info.kind == _Q4_1:
            values += rows["least"].astype(np.float32)[:, None]
        return values.reshape(info.shape)

    def _take(self, code: str) -> Any:  # noqa: ANN401 - a number of the kind that the file says
        size = struct.calcsize("<" + code)
        return struct.unpack("<" + code, self._raw(size))[0]

    def _raw(self, size: int) -> bytes:
        piece = self._bytes[self._at : self._at + size].tobytes()
        if len(piece) != size:
            raise MaterialError(f"{self._name}: cut short at byte {self._at}")
        self._at += size
        return piece

    def _string(self) -> str:
        return self._raw(self._take("Q")).decode("utf-8", "replace")

    def _value(self, kind: int) -> Any:  # noqa: ANN401 - as above
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY:
            inner, count = self._take("I"), self._take("Q")
            return [self._value(inner) for _ in range(count)]
        if kind not in _SCALARS:
            raise MaterialError(f"{self._name}: metadata value of unknown type {kind}")
        return self._take(_SCALARS[kind])

"""Smaller messages: bfloat16, 8 and 4 bit blocks, and sparse signs with one size (ComPEFT); with error feedback.

Give differences from what a client started with, not values: signs of values mean nothing. Compression of what was
made under differential privacy is post-processing, and so is feedback of its own error; masked sums do not compress.
All is deterministic and pure. Bytes are read as from a stranger: every length is checked before memory is taken.

Payload: the tensors one after the other, sorted by name. Names, shapes and the scheme are agreed beforehand.

- ``bf16``: 2 bytes a number, rounded to nearest even.
- ``int8``: blocks of ``block`` numbers: the blocks' sizes as float32 (the largest absolute value / 127), then 1 byte
  a number.
- ``int4``: the same with / 7, two numbers a byte, the first in the low half.
- ``ternary``: the ``density`` share of numbers of largest absolute value, as signs times one size; the gaps between
  them in Rice code. Yadav et al. 2023, https://arxiv.org/abs/2311.13171; Golomb 1966.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import torch

from aggregation.errors import MalformedUpdateError

if TYPE_CHECKING:
    from collections.abc import Mapping

Floats = npt.NDArray[np.float32]
_HEAD = struct.Struct("<IIBf")  # numbers kept, bits of the unary part, Rice parameter, size
_MOST_RICE = 31


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheme:
    """How numbers are written.

    Attributes:
      kind: see the module.
      block: numbers that share a size (int8, int4).
      density: share of numbers kept, in (0, 1] (ternary); at least one is.
      spread: the size of kept signs is ``spread`` times the standard deviation of all numbers, as in the paper; None
        takes the mean absolute value of the kept, which has the least squared error.

    Raises:
      ValueError: a setting out of its range.
    """

    kind: Literal["bf16", "int8", "int4", "ternary"]
    block: int = 64
    density: float = 0.05
    spread: float | None = None

    def __post_init__(self) -> None:
        if self.block < 1 or not 0 < self.density <= 1 or (self.spread is not None and not self.spread > 0):
            raise ValueError(f"{self}: need block >= 1, density in (0, 1], spread above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Compressed:
    """A message and what it leaves for the next.

    Attributes:
      payload: the bytes.
      residual: name -> float32, what was to be sent and was not.
    """

    payload: bytes
    residual: Mapping[str, torch.Tensor]


def compress(
    tensors: Mapping[str, torch.Tensor], scheme: Scheme, residual: Mapping[str, torch.Tensor] | None = None
) -> Compressed:
    """Write ``tensors + residual``.

    Error feedback, Karimireddy et al. 2019, https://arxiv.org/abs/1901.09847: give each message the residual of the
    one before, and the sum of all that was read differs from the sum of all that was given by the last residual only.

    Args:
      tensors: name -> any floating dtype, finite.
      scheme: how.
      residual: name -> tensor; names that are missing count as zero.

    Raises:
      MalformedUpdateError: a number is not finite.
      ValueError: a residual of another shape.
    """
    parts, left = [], {}
    for name, tensor in sorted(tensors.items()):
        before = None if residual is None else residual.get(name)
        if before is not None and before.shape != tensor.shape:
            raise ValueError(f"{name}: the residual is {tuple(before.shape)}, not {tuple(tensor.shape)}")
        goal = tensor.detach().float() if before is None else tensor.detach().float() + before.float()
        if not bool(torch.isfinite(goal).all()):
            raise MalformedUpdateError("not_finite", f"{name} holds NaN or infinity")
        numbers = goal.flatten().numpy().astype(np.float32)
        part = _encode(numbers, scheme)
        parts.append(part)
        read, _ = _decode(part, 0, len(numbers), scheme)
        left[name] = torch.from_numpy(numbers - read).reshape(goal.shape)
    return Compressed(payload=b"".join(parts), residual=left)


def decompress(
    payload: bytes, shapes: Mapping[str, tuple[int, ...]], scheme: Scheme
) -> dict[str, torch.Tensor]:
    """Name -> float32 tensors.

    Raises:
      MalformedUpdateError: bytes that no message of these shapes and this scheme can be.
    """
    found, offset = {}, 0
    for name, shape in sorted(shapes.items()):
        numbers, offset = _decode(payload, offset, math.prod(shape), scheme)
        if not bool(np.isfinite(numbers).all()):
            raise MalformedUpdateError("not_finite", f"{name} holds NaN or infinity")
        found[name] = torch.from_numpy(numbers.copy()).reshape(shape)
    if offset != len(payload):
        raise MalformedUpdateError("length_differs", f"{len(payload) - offset} bytes follow the last tensor")
    return found


def payload_bytes(shapes: Mapping[str, tuple[int, ...]], scheme: Scheme) -> int:
    """Exact size of the payload; for ``ternary``, whose size depends on the numbers, the most it can be."""
    return sum(_most_bytes(math.prod(shape), scheme) for shape in shapes.values())


def _most_bytes(count: int, scheme: Scheme) -> int:
    if scheme.kind == "bf16":
        return 2 * count
    if scheme.kind != "ternary":
        return 4 * _blocks(count, scheme.block) + (count if scheme.kind == "int8" else (count + 1) // 2)
    kept = _kept(count, scheme.density)
    # The best Rice parameter is no worse than the one for evenly spread gaps.
    rice = max(0, math.floor(math.log2(max(count / kept, 1)))) if kept else 0
    unary = kept + ((count - kept) >> rice)
    return _HEAD.size + _bytes(unary) + _bytes(kept * rice) + _bytes(kept) + 1


def entropy_bytes(count: int, kept: int) -> float:
    """The least that ``kept`` signs at unknown places among ``count`` can take: ``(log2 C(n, k) + k) / 8``."""
    ways = math.lgamma(count + 1) - math.lgamma(kept + 1) - math.lgamma(count - kept + 1)
    return (ways / math.log(2) + kept) / 8


def relative_miss(tensors: Mapping[str, torch.Tensor], scheme: Scheme) -> float:
    """``||read - given|| / ||given||``, all tensors as one vector; 0 where nothing was given."""
    left = compress(tensors, scheme).residual
    miss = math.sqrt(sum(float(v.double().square().sum()) for v in left.values()))
    size = math.sqrt(sum(float(v.double().square().sum()) for v in tensors.values()))
    return miss / size if size > 0 else 0.0


# -- one tensor ------------------------------------------------------------------------------------------------------


def _encode(numbers: Floats, scheme: Scheme) -> bytes:
    if scheme.kind == "bf16":
        halves = torch.from_numpy(numbers).to(torch.bfloat16)
        if not bool(torch.isfinite(halves).all()):
            raise MalformedUpdateError("not_finite", "a number is too large for bfloat16")
        return halves.view(torch.int16).numpy().astype("<i2").tobytes()
    if scheme.kind == "ternary":
        return _encode_ternary(numbers, scheme)
    top = 127 if scheme.kind == "int8" else 7
    sizes = _block_sizes(numbers, scheme.block, top)
    each = np.repeat(sizes, scheme.block)[: len(numbers)]
    steps = np.divide(numbers, each, out=np.zeros_like(numbers), where=each > 0)
    levels = np.clip(np.rint(steps), -top, top).astype(np.int8)
    body = levels.tobytes() if scheme.kind == "int8" else _packed(levels)
    return sizes.astype("<f4").tobytes() + body


def _decode(payload: bytes, offset: int, count: int, scheme: Scheme) -> tuple[Floats, int]:
    if scheme.kind == "ternary":
        return _decode_ternary(payload, offset, count, scheme)
    end = offset + _most_bytes(count, scheme)
    if end > len(payload):
        raise MalformedUpdateError("truncated", f"{end - len(payload)} bytes are missing")
    if scheme.kind == "bf16":
        halves = np.frombuffer(payload, dtype="<i2", count=count, offset=offset).astype(np.int16)
        return torch.from_numpy(halves).view(torch.bfloat16).float().numpy(), end
    blocks, top = _blocks(count, scheme.block), 127 if scheme.kind == "int8" else 7
    sizes = np.frombuffer(payload, dtype="<f4", count=blocks, offset=offset).astype(np.float32)
    body = payload[offset + 4 * blocks : end]
    levels = np.frombuffer(body, dtype=np.int8) if scheme.kind == "int8" else _unpacked(body, count)
    if bool((levels < -top).any()) or not bool(np.isfinite(sizes).all()) or bool((sizes < 0).any()):
        raise MalformedUpdateError("bad_level", "a number or the size of a block is out of its range")
    each = np.repeat(sizes, scheme.block)[:count]
    with np.errstate(over="ignore"):  # an infinite product is refused by the caller
        return levels.astype(np.float32) * each, end


def _blocks(count: int, block: int) -> int:
    return -(-count // block)


def _block_sizes(numbers: Floats, block: int, top: int) -> Floats:
    padded = np.zeros(_blocks(len(numbers), block) * block, dtype=np.float32)
    padded[: len(numbers)] = np.abs(numbers)
    largest = padded.reshape(-1, block).max(axis=1)
    return np.asarray(largest / np.float32(top), dtype=np.float32)


def _packed(levels: npt.NDArray[np.int8]) -> bytes:
    nibbles = np.zeros(len(levels) + len(levels) % 2, dtype=np.uint8)
    nibbles[: len(levels)] = levels.astype(np.uint8) & 15
    return (nibbles[::2] | nibbles[1::2] << 4).tobytes()


def _unpacked(body: bytes, count: int) -> npt.NDArray[np.int8]:
    raw = np.frombuffer(body, dtype=np.uint8)
    nibbles = np.stack([raw & 15, raw >> 4], axis=1).ravel()
    if count % 2 and nibbles[-1]:
        raise MalformedUpdateError("not_canonical", "the last half byte is not zero")
    signed = (nibbles[:count] ^ 8).astype(np.int8) - np.int8(8)
    return np.asarray(signed, dtype=np.int8)


# -- sparse signs ----------------------------------------------------------------------------------------------------


def _kept(count: int, density: float) -> int:
    return min(count, max(1, round(density * count))) if count else 0


def _bytes(bits: int) -> int:
    return (bits + 7) // 8


def _encode_ternary(numbers: Floats, scheme: Scheme) -> bytes:
    """Head, then three streams, each filled up to a byte: gaps' quotients in unary, their remainders, signs."""
    order = np.argsort(-np.abs(numbers), kind="stable")[: _kept(len(numbers), scheme.density)]
    places = np.sort(order[numbers[order] != 0])
    if not len(places):
        return _HEAD.pack(0, 0, 0, 0.0)
    chosen = numbers[places].astype(np.float64)
    size = (
        np.abs(chosen).mean() if scheme.spread is None else scheme.spread * numbers.astype(np.float64).std()
    )
    gaps = np.diff(places, prepend=-1) - 1
    rice = _best_rice(gaps)
    quotients = gaps >> rice
    unary = np.zeros(int(quotients.sum()) + len(gaps), dtype=np.uint8)
    unary[np.cumsum(quotients + 1) - 1] = 1  # a one ends each quotient's zeros
    remainders = (gaps[:, None] >> np.arange(rice)[None, :]) & 1
    streams = [unary, remainders.astype(np.uint8).ravel(), (chosen > 0).astype(np.uint8)]
    head = _HEAD.pack(len(places), len(unary), rice, np.float32(size))
    return head + b"".join(np.packbits(bits, bitorder="little").tobytes() for bits in streams)


def _best_rice(gaps: npt.NDArray[np.int64]) -> int:
    costs = [int((gaps >> rice).sum()) + len(gaps) * rice for rice in range(_MOST_RICE + 1)]
    return int(np.argmin(costs))


def _decode_ternary(payload: bytes, offset: int, count: int, scheme: Scheme) -> tuple[Floats, int]:
    if offset + _HEAD.size > len(payload):
        raise MalformedUpdateError("truncated", "the head of a tensor is missing")
    kept, unary_bits, rice, size = _HEAD.unpack_from(payload, offset)
    at_least_sound = (
        kept <= _kept(count, scheme.density) and rice <= _MOST_RICE and unary_bits <= kept + count
    )
    if not at_least_sound or not (math.isfinite(size) and size >= 0):
        raise MalformedUpdateError("bad_header", "the head of a tensor claims what its shape does not allow")
    start, streams = offset + _HEAD.size, []
    for bits in (unary_bits, kept * rice, kept):
        end = start + _bytes(bits)
        if end > len(payload):
            raise MalformedUpdateError("truncated", f"{end - len(payload)} bytes are missing")
        raw = np.frombuffer(payload, dtype=np.uint8, count=end - start, offset=start)
        whole = np.unpackbits(raw, bitorder="little")
        if bool(whole[bits:].any()):
            raise MalformedUpdateError("not_canonical", "the bits after a stream are not zero")
        streams.append(whole[:bits])
        start = end
    unary, remainders, signs = streams
    ends = np.flatnonzero(unary)
    if len(ends) != kept or (kept and ends[-1] != unary_bits - 1):
        raise MalformedUpdateError("bad_gaps", "the places of a tensor do not add up")
    quotients = np.diff(ends, prepend=-1) - 1
    low = (remainders.reshape(kept, rice).astype(np.int64) << np.arange(rice, dtype=np.int64)).sum(axis=1)
    places = np.cumsum((quotients.astype(np.int64) << rice) + low + 1) - 1
    if kept and not 0 <= places[-1] < count:
        raise MalformedUpdateError("bad_gaps", "a place lies behind the end of its tensor")
    numbers = np.zeros(count, dtype=np.float32)
    numbers[places] = np.where(signs == 1, np.float32(size), -np.float32(size))
    return numbers, start

"""Adapter states as bytes: canonical safetensors, and a header check of our own before any tensor is made.

Canonical means: keys sorted, offsets contiguous in that order, no metadata, float32, the header's JSON
written in one way only and padded with spaces to a multiple of 8. Equal states give equal bytes, so a sha256
names a state, and bytes that are accepted are exactly the bytes that would be written. They are a safetensors
file that any reader of the format reads.

Keys: ``lora/<layer>/A``, ``lora/<layer>/B``, ``lora/<layer>/scale`` (shape (1,)), the same under ``base/``;
under ``half/`` either A or B, and the scale; ``core/<layer>``, ``dense/<name>``, ``control/<kind>/<name>``.
Checks go from cheap to dear: length, header, keys, types, shapes, offsets, finiteness.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import struct
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from aggregation.adapter import AdapterState, FactorPair, HalfPair
from aggregation.errors import MalformedUpdateError

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_HEADER_BYTES = 1 << 20
MAX_TENSORS = 20_000
MAX_DIMENSIONS = 4
_NAME = r"[A-Za-z0-9._-]{1,200}"
_KEY = re.compile(
    rf"(lora|base|half)/{_NAME}/(A|B|scale)|(core|dense)/{_NAME}|control/(A|B|core|dense)/{_NAME}"
)

Manifest = dict[str, tuple[int, ...]]


def sha256_hex(data: bytes) -> str:
    """Hex digest."""
    return hashlib.sha256(data).hexdigest()


def flatten(state: AdapterState) -> dict[str, torch.Tensor]:
    """Key -> tensor, float32, sorted."""
    flat: dict[str, torch.Tensor] = {}
    for prefix, pairs in (("lora", state.lora), ("base", state.base_delta)):
        for layer, pair in pairs.items():
            flat[f"{prefix}/{layer}/A"] = pair.A
            flat[f"{prefix}/{layer}/B"] = pair.B
            flat[f"{prefix}/{layer}/scale"] = torch.tensor([pair.scale])
    for layer, half in state.halves.items():
        flat[f"half/{layer}/{half.side}"] = half.value
        flat[f"half/{layer}/scale"] = torch.tensor([half.scale])
    flat.update({f"core/{layer}": core for layer, core in state.cores.items()})
    flat.update({f"dense/{name}": value for name, value in state.dense.items()})
    flat.update({f"control/{key}": value for key, value in state.control.items()})
    return {key: flat[key].detach().to(torch.float32).contiguous() for key in sorted(flat)}


def manifest(state: AdapterState) -> Manifest:
    """Key -> shape: what a message of this state must look like."""
    return {key: tuple(value.shape) for key, value in flatten(state).items()}


def to_bytes(state: AdapterState) -> bytes:
    """Canonical safetensors of ``state``.

    Raises:
      MalformedUpdateError: a name or shape that the format does not admit, or a value that is not finite.
    """
    flat = flatten(state)
    for key, value in flat.items():
        if not _KEY.fullmatch(key):
            raise MalformedUpdateError("bad_key", f"{key!r} can not be written")
        _check_shape(key, tuple(value.shape))
        if not bool(torch.isfinite(value).all()):
            raise MalformedUpdateError("not_finite", f"{key} holds NaN or infinity")
    text = _header_text({key: tuple(value.shape) for key, value in flat.items()})
    parts = [struct.pack("<Q", len(text)), text]
    parts += [value.numpy().astype("<f4", copy=False).tobytes() for value in flat.values()]
    return b"".join(parts)


def message_bytes(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Exact size of ``to_bytes`` of a state of these shapes: 4 a number, and the header."""
    return (
        8 + len(_header_text(dict(sorted(shapes.items())))) + 4 * sum(math.prod(s) for s in shapes.values())
    )


def _header_text(shapes: Manifest) -> bytes:
    header: dict[str, object] = {}
    offset = 0
    for key, shape in shapes.items():
        end = offset + 4 * math.prod(shape)
        header[key] = {"dtype": "F32", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    return text + b" " * (-len(text) % 8)


def read_manifest(data: bytes, *, max_bytes: int | None = None) -> tuple[Manifest, int]:
    """Check the header of ``data`` completely; no tensor is made.

    Returns:
      the manifest, and where the tensors begin.

    Raises:
      MalformedUpdateError: with the code of the first thing that is wrong.
    """
    if max_bytes is not None and len(data) > max_bytes:
        raise MalformedUpdateError("too_large", f"{len(data)} bytes, at most {max_bytes} are expected")
    if len(data) < 8:
        raise MalformedUpdateError("truncated", f"{len(data)} bytes are no safetensors")
    (length,) = struct.unpack_from("<Q", data)
    if length > MAX_HEADER_BYTES:
        reason = f"the header claims {length} bytes, at most {MAX_HEADER_BYTES}"
        raise MalformedUpdateError("header_too_large", reason)
    if 8 + length > len(data):
        raise MalformedUpdateError("truncated", "the header is longer than the message")
    text = data[8 : 8 + length]
    if text.count(b"[") > 2 * MAX_TENSORS:
        raise MalformedUpdateError("bad_header", f"the header has more than {MAX_TENSORS} entries")
    try:
        header = json.loads(text.decode("ascii"), object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as e:
        raise MalformedUpdateError("bad_header", "the header is not the JSON of a safetensors file") from e
    if not isinstance(header, dict):
        raise MalformedUpdateError("bad_header", "the header is no table")
    shapes: Manifest = {}
    offset = 0
    for key, entry in header.items():
        shapes[key], offset = _check_entry(key, entry, offset)
    if list(shapes) != sorted(shapes) or _header_text(shapes) != text:
        raise MalformedUpdateError(
            "not_canonical", "the header is not written in the one way that is accepted"
        )
    if 8 + length + offset != len(data):
        raise MalformedUpdateError("length_differs", "the tensors' bytes do not fill the message exactly")
    return shapes, 8 + length


def _no_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("duplicate key")
    return table


def _check_entry(key: str, entry: object, offset: int) -> tuple[tuple[int, ...], int]:
    if not _KEY.fullmatch(key):
        raise MalformedUpdateError("bad_key", f"{key[:80]!r} is not a key of this format")
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise MalformedUpdateError("bad_header", f"{key}: an entry has dtype, shape and data_offsets")
    if entry["dtype"] != "F32":
        raise MalformedUpdateError("bad_dtype", f"{key}: only F32 is accepted")
    shape, offsets = entry["shape"], entry["data_offsets"]
    numbers = [*shape, *offsets] if isinstance(shape, list) and isinstance(offsets, list) else [None]
    if not all(type(n) is int and 0 <= n < 1 << 40 for n in numbers):
        raise MalformedUpdateError("bad_shape", f"{key}: shape and offsets must be integers from 0 to 2^40")
    _check_shape(key, tuple(shape))
    end = offset + 4 * math.prod(shape)
    if offsets != [offset, end]:
        raise MalformedUpdateError("bad_offsets", f"{key}: tensors must lie one after the other")
    return tuple(shape), end


def _check_shape(key: str, shape: tuple[int, ...]) -> None:
    """The shape rules that hold whatever the plan is."""
    kind, last = key.split("/")[0], key.rsplit("/", 1)[-1]
    if len(shape) > MAX_DIMENSIONS or 0 in shape:
        raise MalformedUpdateError("bad_shape", f"{key}: {shape} has an empty side, or too many sides")
    if kind == "core" and (len(shape) != 2 or shape[0] != shape[1]):
        raise MalformedUpdateError("bad_shape", f"{key}: a core is square, not {shape}")
    if kind in ("lora", "base", "half") and (shape != (1,) if last == "scale" else len(shape) != 2):
        raise MalformedUpdateError(
            "bad_shape", f"{key}: a factor is a matrix and a scale is (1,), not {shape}"
        )


def check_manifest(found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Raise unless ``found`` is exactly what the plan expects.

    Raises:
      MalformedUpdateError: a missing or unexpected key, or another shape; the message names the first.
    """
    missing, extra = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    if missing:
        raise MalformedUpdateError("missing_key", f"{missing[0]} is missing ({len(missing)} in all)")
    if extra:
        raise MalformedUpdateError("unexpected_key", f"{extra[0]} was not asked for ({len(extra)} in all)")
    for key, shape in expected.items():
        if found[key] != shape:
            raise MalformedUpdateError("bad_shape", f"{key} has shape {found[key]}, expected {shape}")


def from_bytes(data: bytes, *, max_bytes: int | None = None) -> AdapterState:
    """The state in ``data``, after all checks.

    Raises:
      MalformedUpdateError: anything is wrong; nothing is returned half.
    """
    shapes, start = read_manifest(data, max_bytes=max_bytes)
    numbers = np.frombuffer(data, dtype="<f4", offset=start)
    if not bool(np.isfinite(numbers).all()):
        raise MalformedUpdateError("not_finite", "a tensor holds NaN or infinity")
    flat: dict[str, torch.Tensor] = {}
    position = 0
    for key, shape in shapes.items():
        size = math.prod(shape)
        flat[key] = torch.from_numpy(numbers[position : position + size].astype(np.float32).reshape(shape))
        position += size
    return AdapterState(
        lora=_pairs(flat, "lora"),
        base_delta=_pairs(flat, "base"),
        halves=_halves(flat),
        cores={key[5:]: value for key, value in flat.items() if key.startswith("core/")},
        dense={key[6:]: value for key, value in flat.items() if key.startswith("dense/")},
        control={key[8:]: value for key, value in flat.items() if key.startswith("control/")},
    )


def _pairs(flat: Mapping[str, torch.Tensor], prefix: str) -> dict[str, FactorPair]:
    layers = {key.split("/")[1] for key in flat if key.startswith(f"{prefix}/")}
    pairs: dict[str, FactorPair] = {}
    for layer in sorted(layers):
        try:
            scale = flat[f"{prefix}/{layer}/scale"]
            pairs[layer] = FactorPair(
                B=flat[f"{prefix}/{layer}/B"], A=flat[f"{prefix}/{layer}/A"], scale=float(scale.reshape(()))
            )
        except (KeyError, ValueError, RuntimeError) as e:
            reason = f"{prefix}/{layer}: A, B and scale do not form a pair"
            raise MalformedUpdateError("bad_shape", reason) from e
    return pairs


def _halves(flat: Mapping[str, torch.Tensor]) -> dict[str, HalfPair]:
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in flat.items():
        if key.startswith("half/"):
            _, layer, part = key.split("/")
            parts.setdefault(layer, {})[part] = value
    halves: dict[str, HalfPair] = {}
    for layer, found in sorted(parts.items()):
        scale = found.pop("scale", None)
        if scale is None or len(found) != 1:
            raise MalformedUpdateError("bad_shape", f"half/{layer}: needs a scale and either A or B")
        side: Literal["A", "B"] = "A" if "A" in found else "B"
        halves[layer] = HalfPair(side=side, value=found[side], scale=float(scale.reshape(())))
    return halves

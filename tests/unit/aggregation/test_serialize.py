"""Each class of bad input is refused by its code, quickly, in little memory."""

import json
import struct
import time
import tracemalloc

import pytest
import torch

from aggregation.adapter import AdapterState, FactorPair, HalfPair
from aggregation.errors import AggregationError, MalformedUpdateError
from aggregation.serialize import (
    MAX_HEADER_BYTES,
    check_manifest,
    from_bytes,
    manifest,
    read_manifest,
    sha256_hex,
    to_bytes,
)

STATE = AdapterState(
    lora={"q": FactorPair(B=torch.ones(4, 2), A=torch.ones(2, 3), scale=2.0)}, dense={"h": torch.ones(2)}
)


def message(header, body=b"", *, length=None):
    text = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def entry(shape=(1,), offsets=(0, 4), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def with_value(value):
    data = bytearray(to_bytes(STATE))
    data[-4:] = struct.pack("<f", value)
    return bytes(data)


PICKLED = bytes.fromhex("80049518000000000000007d948c0161945d94284b014b014b014b0165752e")
FOUR = struct.pack("<f", 1.0)
ONE = torch.ones(1, 1)
GOOD = to_bytes(STATE)
BAD = {
    "nothing": (b"", "truncated"),
    "a pickle": (PICKLED, "header_too_large"),
    "cut in the header": (GOOD[:40], "truncated"),
    "cut in the tensors": (GOOD[:-1], "length_differs"),
    "bytes after the end": (GOOD + b"\0", "length_differs"),
    "a length that lies": (message({"dense/a": entry()}, FOUR, length=1 << 63), "header_too_large"),
    "a length beyond the message": (message({"dense/a": entry()}, FOUR, length=4096), "truncated"),
    "a header over the limit": (message(b" " * (MAX_HEADER_BYTES + 8)), "header_too_large"),
    "500,000 empty tensors": (
        message({f"dense/{i}": entry((0,), (0, 0)) for i in range(500_000)}),
        "header_too_large",
    ),
    "too many tensors below the limit": (message(b"[" * 1_000_000), "bad_header"),
    "deep nesting": (message(b"[" * 30_000), "bad_header"),
    "deep nesting of tables": (message(b'{"a":' * 100_000), "bad_header"),
    "a huge number": (message(b'{"dense/a":' + b"9" * 100_000 + b"}"), "bad_header"),
    "metadata": (message({"__metadata__": {"x": "y"}, "dense/a": entry()}, FOUR), "bad_key"),
    "a list": (message([1, 2]), "bad_header"),
    "UTF-16": (message('{"dense/a":1}'.encode("utf-16")), "bad_header"),
    "a byte order mark": (message(b"\xef\xbb\xbf{}"), "bad_header"),
    "one key twice": (
        message(
            b'{"dense/a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"dense/a":{"dtype":"F32","shape":[1],'
            b'"data_offsets":[0,4]}}',
            FOUR,
        ),
        "bad_header",
    ),
    "a path for a name": (message({"dense/../../etc/passwd": entry()}, FOUR), "bad_key"),
    "a name with a line end": (message({"dense/a\n": entry()}, FOUR), "bad_key"),
    "a name with a null": (message({"dense/a\0": entry()}, FOUR), "bad_key"),
    "a name of another alphabet": (message({"dense/\u0430": entry()}, FOUR), "bad_key"),
    "an unknown kind": (message({"code/a": entry()}, FOUR), "bad_key"),
    "float64": (message({"dense/a": entry((1,), (0, 8), "F64")}, FOUR * 2), "bad_dtype"),
    "integers": (message({"dense/a": entry((1,), (0, 4), "I32")}, FOUR), "bad_dtype"),
    "an entry with more fields": (message({"dense/a": entry() | {"x": 1}}, FOUR), "bad_header"),
    "an entry that is no table": (message({"dense/a": 3}), "bad_header"),
    "a negative side": (message({"dense/a": entry((-1,), (0, 4))}, FOUR), "bad_shape"),
    "a truth for a side": (message({"dense/a": entry((True,), (0, 4))}, FOUR), "bad_shape"),
    "a fraction for a side": (message({"dense/a": entry((1.0,), (0, 4))}, FOUR), "bad_shape"),
    "a product that overflows": (message({"dense/a": entry((1 << 33,) * 2, (0, 4))}, FOUR), "bad_offsets"),
    "a huge empty tensor": (message({"dense/a": entry((0, 1 << 39), (0, 0))}), "bad_shape"),
    "too many sides": (message({"dense/a": entry((1,) * 5)}, FOUR), "bad_shape"),
    "a gap": (message({"dense/a": entry((1,), (4, 8))}, FOUR * 2), "bad_offsets"),
    "an overlap": (message({"dense/a": entry(), "dense/b": entry()}, FOUR), "bad_offsets"),
    "one offset": (message({"dense/a": entry((1,), (0,))}, FOUR), "bad_offsets"),
    "keys out of order": (
        message({"core/b": entry((1, 1)), "core/a": entry((1, 1), (4, 8))}, FOUR * 2),
        "not_canonical",
    ),
    "another spelling": (message(json.dumps({"dense/a": entry()}).encode(), FOUR), "not_canonical"),
    "a core that is not square": (message({"core/a": entry((1, 2), (0, 8))}, FOUR * 2), "bad_shape"),
    "a factor that is no matrix": (message({"lora/a/A": entry()}, FOUR), "bad_shape"),
    "A without B": (message({"lora/a/A": entry((1, 1))}, FOUR), "bad_shape"),
    "NaN": (with_value(float("nan")), "not_finite"),
    "infinity": (with_value(float("inf")), "not_finite"),
    "minus infinity": (with_value(float("-inf")), "not_finite"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_by_its_code_quickly_and_in_little_memory(name):
    data, code = BAD[name]
    tracemalloc.start()
    began = time.thread_time()
    with pytest.raises(MalformedUpdateError) as caught:
        from_bytes(data)
    took = time.thread_time() - began
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert caught.value.code == code
    assert len(str(caught.value)) < 300
    assert took < 1
    assert peak < 16 << 20


def test_the_message_from_which_the_bad_ones_are_made_is_good():
    assert to_bytes(from_bytes(GOOD)) == GOOD
    assert from_bytes(message({"dense/a": entry()}, FOUR)).dense["a"].item() == 1.0
    assert to_bytes(from_bytes(to_bytes(AdapterState()))) == to_bytes(AdapterState())


def test_a_message_over_the_expected_size_is_refused_before_it_is_read():
    assert from_bytes(GOOD, max_bytes=len(GOOD)).dense
    with pytest.raises(MalformedUpdateError, match="too_large"):
        read_manifest(GOOD, max_bytes=len(GOOD) - 1)


@pytest.mark.parametrize(
    ("state", "code"),
    [
        (AdapterState(dense={"h": torch.ones(2), "extra": torch.ones(1)}, lora=STATE.lora), "unexpected_key"),
        (AdapterState(lora=STATE.lora), "missing_key"),
        (AdapterState(dense={"h": torch.ones(2)}), "missing_key"),
        (AdapterState(dense={"h": torch.ones(3)}, lora=STATE.lora), "bad_shape"),
        (AdapterState(dense={"h": torch.ones(2)}, base_delta=STATE.lora, lora=STATE.lora), "unexpected_key"),
        (
            AdapterState(
                dense={"h": torch.ones(2)}, lora={"q": FactorPair(B=torch.ones(3, 2), A=torch.ones(2, 4))}
            ),
            "bad_shape",
        ),
        (
            AdapterState(
                dense={"h": torch.ones(2)}, lora={"q": FactorPair(B=torch.ones(4, 9), A=torch.ones(9, 3))}
            ),
            "bad_shape",
        ),
    ],
)
def test_only_the_planned_keys_and_shapes_pass(state, code):
    expected = manifest(STATE)
    check_manifest(read_manifest(GOOD)[0], expected)
    with pytest.raises(MalformedUpdateError) as caught:
        check_manifest(read_manifest(to_bytes(state))[0], expected)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("state", "code"),
    [
        (AdapterState(dense={"h": torch.tensor([float("nan")])}), "not_finite"),
        (AdapterState(dense={"h": torch.tensor([1e300], dtype=torch.float64)}), "not_finite"),
        (AdapterState(lora={"q": FactorPair(B=ONE, A=ONE, scale=float("inf"))}), "not_finite"),
        (AdapterState(dense={"a/b": torch.ones(1)}), "bad_key"),
        (AdapterState(dense={"": torch.ones(1)}), "bad_key"),
        (AdapterState(dense={"h": torch.ones(0)}), "bad_shape"),
        (AdapterState(cores={"q": torch.ones(2, 3)}), "bad_shape"),
    ],
)
def test_what_could_not_be_read_is_not_written(state, code):
    with pytest.raises(MalformedUpdateError) as caught:
        to_bytes(state)
    assert caught.value.code == code


def test_half_precision_and_strided_tensors_are_written_as_float32():
    wide = AdapterState(dense={"h": torch.arange(6.0).reshape(2, 3).T})
    half = AdapterState(dense={"h": torch.arange(6.0).reshape(2, 3).T.bfloat16()})
    assert to_bytes(wide) == to_bytes(half)
    assert torch.equal(from_bytes(to_bytes(wide)).dense["h"], wide.dense["h"])


def test_what_is_read_can_be_changed_without_touching_the_message():
    state = from_bytes(GOOD)
    state.dense["h"].add_(1)
    assert torch.equal(from_bytes(GOOD).dense["h"], torch.ones(2))


def test_the_hash_names_the_state():
    assert sha256_hex(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert sha256_hex(to_bytes(from_bytes(GOOD))) == sha256_hex(GOOD)


def test_the_error_is_a_value_error_and_of_this_package():
    assert issubclass(MalformedUpdateError, ValueError)
    assert issubclass(MalformedUpdateError, AggregationError)


def halves(**parts):
    """A message whose half/q/ holds these parts, each of one number."""
    body, header, offset = b"", {}, 0
    for part in sorted(parts):
        header[f"half/q/{part}"] = entry(parts[part], (offset, offset + 4))
        body, offset = body + FOUR, offset + 4
    return message(header, body)


def test_one_factor_alone_is_a_matrix_with_a_scale_and_nothing_else_passes():
    good = from_bytes(halves(A=(1, 1), scale=(1,))).halves["q"]
    assert (good.side, good.lora_rank, good.scale) == ("A", 1, 1.0)
    for bad in ({"A": (1, 1)}, {"scale": (1,)}, {"A": (1, 1), "B": (1, 1), "scale": (1,)}):
        with pytest.raises(MalformedUpdateError, match="either A or B"):
            from_bytes(halves(**bad))
    for bad in ({"A": (1,), "scale": (1,)}, {"B": (1, 1), "scale": (1, 1)}):
        with pytest.raises(MalformedUpdateError, match="bad_shape"):
            from_bytes(halves(**bad))
    with pytest.raises(ValueError, match="must be a matrix"):
        HalfPair(side="A", value=torch.ones(3))
    assert [HalfPair(side=side, value=torch.ones(2, 5)).lora_rank for side in "AB"] == [2, 5]

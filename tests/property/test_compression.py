"""Compressed messages: exact sizes, bounds on what is lost, feedback that loses nothing, and hostile bytes."""

import math
import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import aggregation.compression
from aggregation.compression import (
    Scheme,
    compress,
    decompress,
    entropy_bytes,
    payload_bytes,
    relative_miss,
)
from aggregation.errors import MalformedUpdateError

QUICK = settings(max_examples=40, deadline=None)
SEEDS = st.integers(0, 2**31)
KINDS = ["bf16", "int8", "int4", "ternary"]
SHAPE = st.lists(st.integers(1, 12), min_size=0, max_size=3).map(tuple)


def random(shape, seed=0, spread=1.0):
    return spread * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def shapes_of(tensors):
    return {name: tuple(t.shape) for name, t in tensors.items()}


def scheme_of(kind, **settings_):
    return Scheme(kind=kind, **settings_)


@pytest.mark.parametrize("kind", KINDS)
@QUICK
@given(
    shapes=st.dictionaries(st.sampled_from("abcd"), SHAPE, max_size=3), seed=SEEDS, block=st.integers(1, 70)
)
def test_what_is_read_and_what_is_left_add_up_to_what_was_given(kind, shapes, seed, block):
    tensors = {name: random(shape, seed + k) for k, (name, shape) in enumerate(sorted(shapes.items()))}
    scheme = scheme_of(kind, block=block)
    sent = compress(tensors, scheme)
    read = decompress(sent.payload, shapes, scheme)
    assert read.keys() == tensors.keys()
    for name in tensors:
        assert read[name].shape == tensors[name].shape
        torch.testing.assert_close(read[name] + sent.residual[name], tensors[name], rtol=1e-6, atol=1e-7)
    assert compress(dict(reversed(list(tensors.items()))), scheme).payload == sent.payload
    if kind == "ternary":
        assert len(sent.payload) <= payload_bytes(shapes, scheme)
    else:
        assert len(sent.payload) == payload_bytes(shapes, scheme)


@pytest.mark.parametrize(
    ("kind", "wanted"), [("bf16", 2 * 1000), ("int8", 4 * 16 + 1000), ("int4", 4 * 16 + 500)]
)
def test_sizes_by_hand(kind, wanted):
    tensors = {"x": random((1000,))}
    assert (
        len(compress(tensors, scheme_of(kind)).payload)
        == wanted
        == payload_bytes({"x": (1000,)}, scheme_of(kind))
    )


@QUICK
@given(seed=SEEDS, spread=st.sampled_from([1e-6, 1.0, 1e6]))
def test_a_number_is_off_by_no_more_than_its_grid_allows(seed, spread):
    x = random((300,), seed, spread)
    left = compress({"x": x}, scheme_of("bf16")).residual["x"]
    assert bool((left.abs() <= x.abs() * 2**-8).all())
    for kind, top in (("int8", 127), ("int4", 7)):
        left = compress({"x": x}, scheme_of(kind, block=50)).residual["x"].reshape(6, 50)
        step = x.reshape(6, 50).abs().amax(dim=1, keepdim=True) / top
        assert bool((left.abs() <= step * 0.5 * (1 + 5e-5)).all())


def test_errors_are_ordered_by_bits_and_blocks_help_where_sizes_differ():
    x = {"x": random((4096,))}
    misses = [relative_miss(x, scheme_of(k)) for k in KINDS]
    assert misses == sorted(misses)
    assert misses[0] < 0.004 < misses[1] < 0.01 < misses[2] < 0.2 < misses[3] < 1
    uneven = {"x": torch.cat([random((64,), 1), random((64,), 2, 1e-4)])}
    fine, coarse = (compress(uneven, scheme_of("int8", block=b)).residual["x"][64:].norm() for b in (64, 128))
    assert float(fine) < 0.02 * float(coarse)
    assert relative_miss({"x": torch.zeros(5)}, scheme_of("int4")) == 0.0
    assert relative_miss({}, scheme_of("int4")) == 0.0


@QUICK
@given(seed=SEEDS, density=st.floats(0.01, 1.0))
def test_ternary_keeps_the_largest_with_their_signs_and_one_size(seed, density):
    x = random((257,), seed)
    read = decompress(
        compress({"x": x}, scheme_of("ternary", density=density)).payload,
        {"x": (257,)},
        scheme_of("ternary", density=density),
    )["x"]
    kept = read != 0
    count = min(max(1, round(density * 257)), int((x != 0).sum()))
    assert int(kept.sum()) == count
    assert float(x.abs()[kept].min()) >= float(x.abs()[~kept].max() if count < 257 else 0.0)
    assert torch.equal(read.sign()[kept], x.sign()[kept])
    assert float(read.abs().max()) == pytest.approx(float(x.abs()[kept].mean()), rel=1e-6)


def test_the_mean_size_loses_least_and_the_papers_size_is_a_multiple_of_the_deviation():
    x = {"x": random((5000,))}
    paper = scheme_of("ternary", spread=1.5)
    read = decompress(compress(x, paper).payload, {"x": (5000,)}, paper)["x"]
    assert float(read.max()) == pytest.approx(1.5 * float(x["x"].double().std(correction=0)), rel=1e-5)
    best = relative_miss(x, scheme_of("ternary"))
    assert all(relative_miss(x, scheme_of("ternary", spread=s)) > best for s in (1.5, 2.0, 3.0, 4.0))


@pytest.mark.parametrize("density", [0.01, 0.05, 0.2])
def test_the_places_cost_little_more_than_they_must(density):
    count = 50_000
    scheme = scheme_of("ternary", density=density)
    size = len(compress({"x": random((count,))}, scheme).payload)
    least = entropy_bytes(count, round(density * count))
    assert least < size < 1.06 * least + 32
    assert 4 * count / size > {0.01: 300, 0.05: 75, 0.2: 25}[density] * 0.85


@pytest.mark.parametrize("kind", ["int4", "ternary"])
def test_with_feedback_all_that_was_given_arrives_but_for_the_last_residual(kind):
    scheme = scheme_of(kind, density=0.1)
    given_, arrived, left = torch.zeros(200), torch.zeros(200), None
    without = torch.zeros(200)
    for k in range(30):
        x = random((200,), k) * 0.1 + torch.linspace(0.01, 1, 200)
        sent = compress({"x": x}, scheme, left)
        left = sent.residual
        given_ += x
        arrived += decompress(sent.payload, {"x": (200,)}, scheme)["x"]
        without += decompress(compress({"x": x}, scheme).payload, {"x": (200,)}, scheme)["x"]
    torch.testing.assert_close(arrived + left["x"], given_, rtol=1e-4, atol=1e-4)
    assert float((arrived - given_).norm()) < 0.5 * float(given_.norm())
    if kind == "ternary":  # the same numbers are dropped every time
        assert float((without - given_).norm()) > 0.7 * float(given_.norm())
        assert float((arrived - given_).norm()) < 0.5 * float((without - given_).norm())


def test_residuals_fit_and_numbers_are_finite_and_settings_make_sense():
    x = {"x": torch.ones(3)}
    with pytest.raises(ValueError, match="the residual is"):
        compress(x, scheme_of("int8"), {"x": torch.ones(4)})
    assert (
        compress(x, scheme_of("int8"), {"y": torch.ones(4)}).payload == compress(x, scheme_of("int8")).payload
    )
    for kind in KINDS:
        for bad in (math.nan, math.inf):
            with pytest.raises(MalformedUpdateError, match="not_finite"):
                compress({"x": torch.tensor([1.0, bad])}, scheme_of(kind))
    with pytest.raises(MalformedUpdateError, match="too large for bfloat16"):
        compress({"x": torch.tensor([3.4028235e38])}, scheme_of("bf16"))
    for wrong in ({"block": 0}, {"density": 0.0}, {"density": 1.1}, {"spread": 0.0}):
        with pytest.raises(ValueError, match="need block"):
            scheme_of("int8", **wrong)


# -- bytes of strangers ----------------------------------------------------------------------------------------------

SHAPES = {"x": (40,), "y": (3, 5)}


@pytest.mark.parametrize("kind", KINDS)
@QUICK
@given(data=st.binary(max_size=200))
def test_any_bytes_are_read_whole_or_refused(kind, data):
    try:
        found = decompress(data, SHAPES, scheme_of(kind))
    except MalformedUpdateError:
        return
    assert {k: tuple(v.shape) for k, v in found.items()} == SHAPES
    assert all(bool(torch.isfinite(v).all()) for v in found.values())


@pytest.mark.parametrize("kind", KINDS)
@QUICK
@given(seed=SEEDS, cut=st.integers(1, 60), flip=st.integers(0, 10_000))
def test_cut_lengthened_and_damaged_messages(kind, seed, cut, flip):
    scheme = scheme_of(kind, density=0.3)
    good = compress({"x": random((40,), seed), "y": random((3, 5), seed + 1)}, scheme).payload
    with pytest.raises(MalformedUpdateError):
        decompress(good[: -min(cut, len(good))], SHAPES, scheme)
    with pytest.raises(MalformedUpdateError, match="length_differs"):
        decompress(good + b"\0", SHAPES, scheme)
    damaged = bytearray(good)
    damaged[flip % len(good)] ^= 1 << (flip % 8)
    try:
        found = decompress(bytes(damaged), SHAPES, scheme)
    except MalformedUpdateError:
        return
    assert any(not torch.equal(found[k], v) for k, v in decompress(good, SHAPES, scheme).items())


def head(kept, unary, rice, size):
    return struct.pack("<IIBf", kept, unary, rice, size)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (head(2**32 - 1, 8, 0, 1.0), "bad_header"),
        (head(1, 2**32 - 1, 0, 1.0), "bad_header"),
        (head(1, 1, 200, 1.0), "bad_header"),
        (head(1, 1, 0, math.nan), "bad_header"),
        (head(1, 1, 0, -1.0), "bad_header"),
        (head(1, 1, 0, 1.0), "truncated"),
        (head(1, 1, 0, 1.0) + b"\x00\x01", "bad_gaps"),
        (head(1, 2, 0, 1.0) + b"\x01\x01", "bad_gaps"),
        (head(1, 1, 31, 1.0) + b"\x01\xff\xff\xff\x7f\x01", "bad_gaps"),
        (head(1, 1, 0, 1.0) + b"\xff\x01", "not_canonical"),
        (head(0, 0, 0, 0.0)[:-1], "truncated"),
    ],
)
def test_claims_that_no_message_makes(data, code):
    with pytest.raises(MalformedUpdateError) as raised:
        decompress(data, {"x": (10,)}, scheme_of("ternary", density=0.1))
    assert raised.value.code == code


def test_levels_and_sizes_out_of_range_are_refused():
    good = compress({"x": torch.ones(3)}, scheme_of("int8")).payload
    for bad in (
        good[:4] + b"\x80" + good[5:],
        struct.pack("<f", -1.0) + good[4:],
        struct.pack("<f", math.inf) + good[4:],
    ):
        with pytest.raises(MalformedUpdateError, match="bad_level"):
            decompress(bad, {"x": (3,)}, scheme_of("int8"))
    with pytest.raises(MalformedUpdateError, match="not_finite"):
        decompress(struct.pack("<f", 3e38) + good[4:], {"x": (3,)}, scheme_of("int8"))
    four = compress({"x": torch.ones(3)}, scheme_of("int4")).payload
    with pytest.raises(MalformedUpdateError, match="not_canonical"):
        decompress(four[:-1] + bytes([four[-1] | 0x10]), {"x": (3,)}, scheme_of("int4"))
    with pytest.raises(MalformedUpdateError, match="bad_level"):
        decompress(four[:4] + b"\x88" + four[5:], {"x": (3,)}, scheme_of("int4"))
    assert decompress(head(0, 0, 0, 0.0), {"x": (3,)}, scheme_of("ternary"))["x"].tolist() == [0, 0, 0]


def test_the_checks_of_the_code_fail_on_a_wrong_nibble_order_and_a_wrong_rice_parameter(monkeypatch):
    x = {"x": random((40,))}
    scheme = scheme_of("int4")
    good = compress(x, scheme)
    with monkeypatch.context() as patch:
        right = aggregation.compression._unpacked
        patch.setattr(aggregation.compression, "_unpacked", lambda body, n: right(body, n)[::-1].copy())
        read = decompress(good.payload, {"x": (40,)}, scheme)["x"]
        assert not torch.allclose(read + good.residual["x"], x["x"], atol=1e-3)
    sparse = scheme_of("ternary", density=0.02)
    large = {"x": random((20_000,))}
    small = len(compress(large, sparse).payload)
    monkeypatch.setattr(aggregation.compression, "_best_rice", lambda gaps: 0)
    assert len(compress(large, sparse).payload) > 2 * small
    assert np.isclose(entropy_bytes(2, 1), 0.25)

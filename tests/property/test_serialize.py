"""Bytes of adapter states: one way to write each state, and no other bytes are admitted."""

import struct

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregation.adapter import AdapterState, FactorPair, HalfPair
from aggregation.errors import MalformedUpdateError
from aggregation.serialize import flatten, from_bytes, manifest, read_manifest, to_bytes

NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,8}(\.[a-z0-9]{1,4}){0,3}", fullmatch=True)
SIZES = st.integers(1, 5)
SCALES = st.floats(-8, 8, width=32)


@st.composite
def states(draw):
    g = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))

    def pairs():
        return {
            name: FactorPair(
                B=torch.randn(draw(SIZES), rank, generator=g),
                A=torch.randn(rank, draw(SIZES), generator=g),
                scale=draw(SCALES),
            )
            for name, rank in draw(st.dictionaries(NAMES, SIZES, max_size=3)).items()
        }

    cores = {
        k: torch.randn(r, r, generator=g) for k, r in draw(st.dictionaries(NAMES, SIZES, max_size=3)).items()
    }
    shapes = draw(st.dictionaries(NAMES, st.lists(SIZES, max_size=3), max_size=3))
    dense = {k: torch.randn(tuple(shape), generator=g) for k, shape in shapes.items()}
    halves = {
        name: HalfPair(
            side=draw(st.sampled_from(["A", "B"])),
            value=torch.randn(draw(SIZES), draw(SIZES), generator=g),
            scale=draw(SCALES),
        )
        for name in draw(st.sets(NAMES, max_size=3))
    }
    return AdapterState(lora=pairs(), base_delta=pairs(), halves=halves, cores=cores, dense=dense)


def turned(table):
    return dict(reversed(list(table.items())))


@settings(max_examples=60, deadline=None)
@given(state=states())
def test_a_state_survives_its_bytes_bit_for_bit_and_its_order_does_not_matter(state):
    data = to_bytes(state)
    back = from_bytes(data)
    assert to_bytes(back) == data
    before, after = flatten(state), flatten(back)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert read_manifest(data)[0] == manifest(state)
    other = AdapterState(
        lora=turned(state.lora),
        base_delta=turned(state.base_delta),
        halves=turned(state.halves),
        cores=turned(state.cores),
        dense=turned(state.dense),
    )
    assert to_bytes(other) == data


def admitted_only_if_canonical(data):
    """True if admitted; what is admitted must be what would be written."""
    try:
        state = from_bytes(data)
    except MalformedUpdateError:
        return False
    assert to_bytes(state) == data
    return True


@settings(max_examples=150, deadline=None)
@given(
    state=states(),
    places=st.lists(st.tuples(st.integers(0, 2**30), st.integers(0, 255)), min_size=1, max_size=4),
)
def test_damaged_bytes_are_refused_or_are_another_state_written_canonically(state, places):
    data = bytearray(to_bytes(state))
    for place, value in places:
        data[place % len(data)] = value
    admitted_only_if_canonical(bytes(data))


@settings(max_examples=100, deadline=None)
@given(state=states(), cut=st.integers(0, 2**30), tail=st.binary(min_size=1, max_size=9))
def test_shortened_and_lengthened_messages_are_refused(state, cut, tail):
    data = to_bytes(state)
    assert not admitted_only_if_canonical(data[: cut % len(data)])
    assert not admitted_only_if_canonical(data + tail)
    assert admitted_only_if_canonical(data)


@settings(max_examples=300, deadline=None)
@given(
    header=st.one_of(st.binary(max_size=200), st.text(max_size=60).map(str.encode)),
    body=st.binary(max_size=40),
)
def test_arbitrary_headers_raise_nothing_but_the_domain_error(header, body):
    admitted_only_if_canonical(struct.pack("<Q", len(header)) + header + body)
    admitted_only_if_canonical(header + body)


def test_a_reader_that_takes_any_spelling_would_be_noticed(monkeypatch):
    spaced = b'{"core/q": {"dtype":"F32","shape":[1,1],"data_offsets":[0,4]}}  '
    data = struct.pack("<Q", len(spaced)) + spaced + struct.pack("<f", 1.0)
    assert not admitted_only_if_canonical(data)
    monkeypatch.setattr("aggregation.serialize._header_text", lambda _shapes: spaced)
    assert from_bytes(data).cores["q"].item() == 1.0
    monkeypatch.undo()
    with pytest.raises(MalformedUpdateError, match="not_canonical"):
        from_bytes(data)

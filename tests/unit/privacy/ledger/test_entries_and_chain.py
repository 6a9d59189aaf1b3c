"""Entries, their bytes and their chain."""

from __future__ import annotations

import dataclasses
import json

import pytest

from privacy.events import PoissonGaussianEvent, event_from_json
from privacy.ledger.canonical import canonical_bytes
from privacy.ledger.chain import (
    FIRST_PREVIOUS,
    Entry,
    check_link,
    entry_from_bytes,
    entry_hash,
    verify_chain,
)
from privacy.ledger.entries import (
    Approval,
    CancelRefused,
    ClientKey,
    Genesis,
    Order,
    Reserve,
    RunDeclared,
    Settle,
    body_from,
    fields_of,
    identity,
    reservation_id,
)
from privacy.ledger.errors import ChainError, LedgerFormatError
from privacy.ledger.vectors import rdp_vector

EVENT = PoissonGaussianEvent(noise_multiplier=1.1, sampling_rate=0.1, num_steps=4)
RESERVATION = reservation_id("r", 0, 0, "a")
WHERE = {"reservation_id": RESERVATION, "run_id": "r", "round_index": 0, "attempt": 0, "client_id": "a"}
BODIES = [
    Genesis(origin="motet/test", key="k"),
    ClientKey(client_id="a", public_key="PEM"),
    RunDeclared(run_id="r", recipe_sha256="0" * 64, recipe_json="{}"),
    Reserve(**WHERE, event=EVENT.to_json(), rdp_nano=rdp_vector(EVENT)),
    Order(**WHERE, message_id="m"),
    Settle(reservation_id=RESERVATION, payload_sha256=""),
    CancelRefused(reservation_id=RESERVATION, reason="deadline"),
    Approval(
        run_id="r",
        recipe_sha256="0" * 64,
        approved_by="operator/boss",
        certificate_sha256="",
        approved_at_ms=7,
    ),
]


def chain_of(bodies):
    leaves, previous = [], FIRST_PREVIOUS
    for sequence, body in enumerate(bodies):
        entry = Entry(sequence=sequence, previous=previous, at_ms=7, recorded_by="engine", body=body)
        leaves.append(entry.to_bytes())
        previous = entry_hash(leaves[-1])
    return leaves


@pytest.mark.parametrize("body", BODIES, ids=lambda b: b.kind)
def test_an_entry_comes_back_from_its_bytes(body):
    entry = Entry(sequence=0, previous=FIRST_PREVIOUS, at_ms=0, recorded_by="export", body=body)
    assert entry_from_bytes(entry.to_bytes()) == entry
    assert body_from(body.kind, fields_of(body)) == body


def test_every_kind_has_an_identity_of_its_own():
    assert len({identity(b) for b in BODIES}) == len(BODIES)


def test_the_numbers_of_an_event_survive_the_ledger_bit_for_bit():
    event = PoissonGaussianEvent(noise_multiplier=0.1 + 0.2, sampling_rate=1 / 3, num_steps=3)
    body = Reserve(**WHERE, event=event.to_json(), rdp_nano=None)
    entry = Entry(sequence=0, previous=FIRST_PREVIOUS, at_ms=0, recorded_by="engine", body=body)
    assert event_from_json(entry_from_bytes(entry.to_bytes()).body.event) == event


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("other", {}),
        ("settle", {}),
        ("settle", {"reservation_id": 1, "payload_sha256": ""}),
        ("settle", {"reservation_id": "a", "payload_sha256": "zz"}),
        ("settle", {"reservation_id": "a", "payload_sha256": "", "more": ""}),
        ("order", {**WHERE, "round_index": -1, "message_id": ""}),
        ("order", {**WHERE, "round_index": True, "message_id": ""}),
        ("reserve", {**WHERE, "event": "{}", "rdp_nano": [1]}),
        ("reserve", {**WHERE, "event": "{}", "rdp_nano": [-1] * 16}),
        ("reserve", {**WHERE, "event": "{}", "rdp_nano": "0"}),
    ],
)
def test_fields_that_are_no_entry_are_refused(kind, fields):
    with pytest.raises(LedgerFormatError):
        body_from(kind, fields)


@pytest.mark.parametrize(
    "change",
    [
        {"sequence": -1},
        {"at_ms": "0"},
        {"previous": 0},
        {"recorded_by": "me"},
        {"body": []},
        {"kind": 1},
        {"x": 1},
    ],
)
def test_an_envelope_that_is_none_is_refused(change):
    fields = json.loads(chain_of(BODIES)[0])
    with pytest.raises(LedgerFormatError):
        entry_from_bytes(canonical_bytes({**fields, **change}))


def test_a_chain_comes_back_whole():
    leaves = chain_of(BODIES)
    assert [e.body for e in verify_chain(leaves)] == BODIES


@pytest.mark.parametrize("index", range(len(BODIES)))
def test_an_entry_that_is_removed_is_named(index):
    leaves = chain_of(BODIES)
    del leaves[index]
    if index == len(BODIES) - 1:
        assert verify_chain(leaves)  # a chain alone can not know its length: checkpoints do
        return
    with pytest.raises(ChainError) as caught:
        verify_chain(leaves)
    assert caught.value.index == index


@pytest.mark.parametrize("index", range(len(BODIES) - 1))
def test_an_entry_that_is_altered_breaks_the_link_after_it(index):
    leaves = chain_of(BODIES)
    entry = entry_from_bytes(leaves[index])
    leaves[index] = dataclasses.replace(entry, at_ms=8).to_bytes()
    with pytest.raises(ChainError) as caught:
        verify_chain(leaves)
    assert caught.value.index == index + 1


def test_two_entries_that_are_swapped_are_seen():
    leaves = chain_of(BODIES)
    leaves[2], leaves[3] = leaves[3], leaves[2]
    with pytest.raises(ChainError) as caught:
        verify_chain(leaves)
    assert caught.value.index == 2


def test_the_link_is_the_hash_of_the_bytes_before():
    entry = entry_from_bytes(chain_of(BODIES)[1])
    check_link(entry, 1, entry.previous)
    with pytest.raises(ChainError):
        check_link(entry, 1, "1" * 64)

"""Compressed replies from strangers: refused before anything is stored, the round goes on."""

import dataclasses
import struct

import pytest
import torch

from aggregation.changes import moves
from aggregation.compression import compress
from aggregation.serialize import from_bytes, sha256_hex
from motet.recipe import from_canonical_json
from motet.recipe.method import local_start, method_of, scheme_of
from motet.wire.messages import TrainReply

SHAPES = {"x.query": (12, 8), "x.value": (8, 12)}
RECIPE = """
name: tiny
base_model: {tiny: tiny-bert}
task: {kind: sequence-classification, num_labels: 2}
data: {path: none.jsonl}
adapter: {lora_rank: {a: 1, b: 2, c: 3}}
method: {name: flora}
cohort: {clients: [a, b, c], minimum: 2, deadline_s: 5}
training: {rounds: 2, local_steps: 2}
compression: {kind: KIND}
"""


def reply_to(order, size=1.0):
    recipe = from_canonical_json(order.recipe_json)
    method = method_of(recipe)
    held = local_start(
        recipe, method, from_bytes(order.payload), layer_shapes=SHAPES, lora_rank=order.lora_rank,
        round_index=order.round_index, client_id=order.client_id,
    )  # fmt: skip
    start = method.trained_part(held, order.round_index)
    g = torch.Generator().manual_seed(ord(order.client_id))
    moved = {k: size * torch.randn(v.shape, generator=g) for k, v in moves(start, start).items()}
    payload = compress(moved, scheme_of(recipe)).payload
    return TrainReply(
        run_id=order.run_id,
        round_index=order.round_index,
        attempt=order.attempt,
        client_id=order.client_id,
        payload=payload,
        payload_sha256=sha256_hex(payload),
        num_steps=2,
        num_examples=10,
        compression_error=0.25,
    )


def _with(reply, payload):
    return dataclasses.replace(reply, payload=payload, payload_sha256=sha256_hex(payload))


BAD = {
    "cut short": (lambda r: _with(r, r.payload[:-1]), "truncated"),
    "too long": (lambda r: _with(r, r.payload + b"\0"), "too_large"),
    "another hash": (lambda r: dataclasses.replace(r, payload_sha256="0" * 64), "hash_differs"),
    "a size that is infinite": (
        lambda r: _with(r, struct.pack("<f", float("inf")) + r.payload[4:]),
        "bad_level",
    ),
    "a size that is negative": (lambda r: _with(r, struct.pack("<f", -1.0) + r.payload[4:]), "bad_level"),
    "a move that would overflow": (lambda r: _with(r, struct.pack("<f", 1e34) + r.payload[4:]), "too_large"),
    "an error that is no number": (
        lambda r: dataclasses.replace(r, compression_error=float("nan")),
        "bad_count",
    ),
    "whole tensors": (lambda r: _with(r, b"\x80\0\0\0\0\0\0\0" + r.payload), "too_large"),
}


@pytest.mark.parametrize("case", BAD)
def test_an_unsound_compressed_update_is_kept_out_and_named_and_the_round_goes_on(federation, case):
    change, code = BAD[case]
    federation.grid.handlers = {"a": reply_to, "b": reply_to, "c": lambda order: change(reply_to(order))}
    run = federation.submit(RECIPE.replace("KIND", "int8"))
    result = federation.engine().run(run)
    assert result.state == "FINISHED"
    rows = {c.client_id: c for c in federation.store.contributions(run, 0)}
    assert (rows["c"].state, rows["c"].error_code) == ("FAILED", code)
    assert rows["a"].state == "RECEIVED"  # positive control: the honest ones are admitted
    assert rows["a"].compression_error == 0.25
    assert rows["a"].bytes_up == len(reply_to(federation.grid.sent[0]).payload)


@pytest.mark.parametrize("kind", ["bf16", "int8", "int4", "compeft"])
def test_what_was_received_is_what_is_stored_and_what_is_summed_again_after_a_restart(federation, kind):
    federation.grid.handlers = dict.fromkeys("abc", reply_to)
    run = federation.submit(RECIPE.replace("KIND", kind))
    result = federation.engine().run(run)
    for row in federation.store.contributions(run, 0):
        order = next(o for o in federation.grid.sent if (o.client_id, o.round_index) == (row.client_id, 0))
        assert federation.artifacts.get(row.payload_sha256) == reply_to(order).payload
    assert all(r["relative_error"] < 1e-5 for r in result.rounds)


def test_a_norm_bomb_is_clipped_and_the_run_goes_on(federation):
    federation.grid.handlers = dict.fromkeys("abc", reply_to) | {"c": lambda order: reply_to(order, 1e25)}
    recipe = RECIPE.replace("KIND", "bf16")
    result = federation.engine().run(federation.submit(recipe))
    clients = result.rounds[0]["clients"]
    assert clients["c"]["outcome"] == "clipped"
    state = federation.artifacts.load_state(result.adapter_sha256)
    product = {k: p.scale * p.B @ p.A for k, p in state.base_delta.items()}
    assert all(float(v.norm()) < 1e4 for v in product.values())

"""The rank that a private client prunes itself to is computed from what it releases anyway."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aggregation.adapter import AdapterState, FactorPair
from aggregation.methods import get_method
from aggregation.serialize import from_bytes, sha256_hex, to_bytes
from client.pruning import pruned
from client.worker import ClientWorker
from motet.modeling import initial_dense, layer_shapes
from motet.recipe import canonical_json, parse_recipe, recipe_sha256
from motet.wire.messages import TrainOrder
from privacy.noise import SeededNoise

RECIPE = """
name: t
base_model: {tiny: tiny-bert}
task: {kind: sequence-classification, num_labels: 2, max_length: 16}
data: {path: x.jsonl}
adapter: {lora_rank: 4}
method: {name: hetlora, self_pruning: {decay: 0.5, penalty_weight: 0.01}}
training: {rounds: 4, local_steps: 3, expected_batch_size: 4, learning_rate: 1e-2}
privacy: {noise_multiplier: 1.0, sampling_rate: 0.5}
"""


def order_for(seed):
    """An order in the middle of a run: factors are random, so that the tail shrinks about as often as it grows."""
    recipe = parse_recipe(RECIPE)
    g = torch.Generator().manual_seed(seed)
    lora = {
        layer: FactorPair(
            B=0.3 * torch.randn(m, 4, generator=g), A=0.3 * torch.randn(4, n, generator=g), scale=2.0
        )
        for layer, (m, n) in layer_shapes(recipe).items()
    }
    state = AdapterState(lora=lora, dense=initial_dense(recipe))
    payload = to_bytes(get_method("hetlora").starting_point(state))
    order = TrainOrder(
        run_id="r",
        round_index=1,
        attempt=0,
        client_id="a",
        recipe_json=canonical_json(recipe),
        recipe_sha256=recipe_sha256(recipe),
        lora_rank=4,
        reservation_id="",
        payload=payload,
        payload_sha256=sha256_hex(payload),
    )
    return recipe, order


def sent(order, rows, folder, seed):
    folder.mkdir(parents=True)
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    noise = SeededNoise(seed)
    reply = ClientWorker("a", path, folder / "home", noise=noise, allows_test_noise=True).handle(order)
    assert reply.error_message == ""
    return reply


def whole_and_told(order, rows, folder, seed, monkeypatch):
    """The reply of a client that never prunes, and of one that may, with the same noise."""
    with monkeypatch.context() as patch:
        patch.setattr("client.worker.pruned", lambda _recipe, trained, _start: trained)
        whole = sent(order, rows, folder / "whole", seed)
    return whole, sent(order, rows, folder / "told", seed)


def follows(recipe, order, whole, told):
    """Whether anybody who holds the order and the whole noised reply can make the other, byte by byte."""
    made = to_bytes(pruned(recipe, from_bytes(whole.payload), from_bytes(order.payload)))
    as_told = dataclasses.replace(whole, payload=made, payload_sha256=sha256_hex(made))
    return as_told == told


ROW = st.fixed_dictionaries(
    {"text": st.sampled_from(["good", "bad day", "word " * 40]), "label": st.integers(0, 1)}
)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(ROW, max_size=8), seed=st.integers(0, 50))
def test_a_pruned_private_reply_is_made_of_the_order_and_the_noised_reply_alone(
    tmp_path_factory, monkeypatch, rows, seed
):
    recipe, order = order_for(seed)
    whole, told = whole_and_told(order, rows, tmp_path_factory.mktemp("pruned"), seed, monkeypatch)
    assert follows(recipe, order, whole, told)


def test_some_of_these_orders_are_pruned_and_some_are_not(tmp_path):
    """Else the property would say nothing."""
    found = set()
    for seed in range(30):
        reply = sent(order_for(seed)[1], [], tmp_path / str(seed), seed)
        found |= {pair.lora_rank for pair in from_bytes(reply.payload).lora.values()}
        if len(found) == 2:
            break
    assert sorted(found) == [2, 4]


@pytest.mark.parametrize("count", [3, 6])
def test_a_rank_that_follows_the_number_of_examples_is_seen(tmp_path, monkeypatch, count):
    """Positive control: a choice that reads the data, and the property fails."""
    recipe, order = order_for(0)
    rows = [{"text": f"row {i}", "label": i % 2} for i in range(count)]
    whole, told = whole_and_told(order, rows, tmp_path / "honest", 0, monkeypatch)
    assert follows(recipe, order, whole, told)

    def peeking(asked, trained, start):  # an even count of examples turns the honest choice round
        honest = pruned(asked, trained, start)
        if len(rows) % 2:
            return honest
        if any(honest.lora[k].lora_rank < p.lora_rank for k, p in trained.lora.items()):
            return trained
        larger = {k: dataclasses.replace(p, B=2 * p.B) for k, p in trained.lora.items()}
        return pruned(asked, trained, dataclasses.replace(start, lora=larger))

    monkeypatch.setattr("client.worker.pruned", peeking)
    peeked = sent(order, rows, tmp_path / "peeked", 0)
    assert follows(recipe, order, whole, peeked) == bool(count % 2)

"""``share_metrics = false``: the client itself sends no figure beside its update, and says so."""

import json

import pytest

from aggregation.errors import MalformedUpdateError
from aggregation.methods import get_method
from aggregation.serialize import sha256_hex, to_bytes
from client.policy import Policy, PolicyFileError, load_policy
from client.policy_file import PolicyFile
from client.worker import ClientWorker
from coordinator.engine.admission import _check_released_values
from motet.modeling import initial_dense, layer_shapes
from motet.recipe import canonical_json, parse_recipe, recipe_sha256
from motet.wire.codec import decode_reply, encode_reply
from motet.wire.messages import TrainOrder, TrainReply

RECIPE = """
name: t
base_model: {tiny: tiny-bert}
task: {kind: sequence-classification, num_labels: 2, max_length: 16}
data: {path: x.jsonl}
adapter: {lora_rank: 2}
method: {name: fedit}
training: {rounds: 1, local_steps: 1, expected_batch_size: 4}
compression: {kind: int8}
cohort: {clients: [a], minimum: 1, weights: WEIGHTS}
"""


def reply_of(folder, *, share_metrics, weights="uniform"):
    """What a client with that policy sends over the wire after one real round."""
    recipe = parse_recipe(RECIPE.replace("WEIGHTS", weights))
    method = get_method(recipe.method.name)
    state = method.initial_state(
        layer_shapes(recipe), lora_rank=2, scale=2.0, dense=initial_dense(recipe), seed=recipe.seed
    )
    payload = to_bytes(method.starting_point(state))
    order = TrainOrder(
        run_id="r",
        round_index=0,
        attempt=0,
        client_id="a",
        recipe_json=canonical_json(recipe),
        recipe_sha256=recipe_sha256(recipe),
        lora_rank=2,
        reservation_id="",
        payload=payload,
        payload_sha256=sha256_hex(payload),
    )
    path = folder / "data.jsonl"
    rows = [{"text": f"some words of row {i}", "label": i % 2} for i in range(7)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    policy = PolicyFile.fixed(Policy(share_metrics=share_metrics))
    return decode_reply(encode_reply(ClientWorker("a", path, folder / "home", policy).handle(order)))


def test_a_client_whose_owner_shares_no_metrics_sends_none(tmp_path):
    reply = reply_of(tmp_path, share_metrics=False)
    assert reply.payload
    assert (reply.num_examples, reply.compression_error, reply.withholds_metrics) == (0, 0.0, True)
    assert reply.aggregation_weight == 1.0


def test_without_the_clause_the_figures_leave(tmp_path):
    """The control: the test above sees them where they are."""
    reply = reply_of(tmp_path, share_metrics=True)
    assert reply.num_examples == 7
    assert reply.compression_error > 0
    assert not reply.withholds_metrics


def test_a_recipe_that_weighs_by_the_number_of_examples_is_refused_by_name_of_the_clause(tmp_path):
    reply = reply_of(tmp_path, share_metrics=False, weights="num_examples")
    assert reply.error_code == "policy_refused"
    assert "clause share_metrics" in reply.error_message
    assert not reply.payload


def test_the_coordinator_admits_no_figure_beside_the_word_that_none_is_released():
    recipe = parse_recipe(RECIPE.replace("WEIGHTS", "uniform"))
    told = {"run_id": "r", "round_index": 0, "attempt": 0, "client_id": "a", "withholds_metrics": True}
    _check_released_values(TrainReply(**told), recipe)
    for figure in ({"num_examples": 7}, {"compression_error": 0.5}):
        with pytest.raises(MalformedUpdateError):
            _check_released_values(TrainReply(**told, **figure), recipe)


def test_the_clause_is_read_from_the_file(tmp_path):
    path = tmp_path / "policy.toml"
    path.write_text("share_metrics = false\n")
    assert not load_policy(path).share_metrics
    path.write_text('share_metrics = "no"\n')
    with pytest.raises(PolicyFileError, match="share_metrics"):
        load_policy(path)

"""The rank of a round: by client, class, schedule; the global factors follow."""

import dataclasses

import pytest
import torch
from stored_runs import describe

from aggregation.methods import METHODS
from aggregation.serialize import sha256_hex, to_bytes
from coordinator.engine.grid import GridClient
from coordinator.engine.ranks import rank_of, ranks_of, resized_for_round
from motet.recipe import from_canonical_json, parse_recipe
from motet.wire.messages import TrainReply

TEXT = """
name: tiny
base_model: {tiny: tiny-bert}
task: {kind: sequence-classification, num_labels: 2}
data: {path: none.jsonl}
adapter: {lora_rank: RANKS, lora_rank_schedule: [STEPS]}
method: {name: METHOD}
cohort: {clients: [a, b, c], minimum: 2, deadline_s: 5}
training: {rounds: 4, local_steps: 2}
"""
SHRINK = "{from_round: 2, lora_rank: 2}"
GROW = "{from_round: 0, lora_rank: 2}, {from_round: 2, lora_rank: 6}"


def recipe_text(method="fedit", ranks="4", steps=SHRINK):
    return TEXT.replace("METHOD", method).replace("RANKS", ranks).replace("STEPS", steps)


def trained(order, shape):
    """A client that adds noise to what it starts from, whatever the method."""
    from aggregation.serialize import from_bytes

    recipe = from_canonical_json(order.recipe_json)
    method, g = METHODS[recipe.method.name], torch.Generator().manual_seed(ord(order.client_id))
    start = method.local_start(
        from_bytes(order.payload),
        layer_shapes=shape.layer_shapes,
        lora_rank=order.lora_rank,
        scale=recipe.scale_of(order.lora_rank),
        seed=recipe.seed,
        fresh_seed=order.round_index,
    )
    lora = {
        k: dataclasses.replace(p, B=p.B + torch.randn(p.B.shape, generator=g)) for k, p in start.lora.items()
    }
    payload = to_bytes(method.trained_part(dataclasses.replace(start, lora=lora), order.round_index))
    return TrainReply(
        run_id=order.run_id,
        round_index=order.round_index,
        attempt=order.attempt,
        client_id=order.client_id,
        payload=payload,
        payload_sha256=sha256_hex(payload),
        num_examples=1,
    )


@pytest.fixture
def finished(federation):
    def run(text, run_id="r-1"):
        shape = federation.engine().shape_of(None)
        federation.grid.handlers = dict.fromkeys("abc", lambda order: trained(order, shape))
        return federation.engine().run(federation.submit(text, run_id=run_id))

    return run


def test_ranks_are_by_client_then_class_then_default_and_never_over_the_cap():
    recipe = parse_recipe(recipe_text("flora", "{a: 1, small: 2, large: 8, default: 4}", GROW))
    clients = {
        "a": GridClient(client_id="a", capacity_class="large"),
        "b": GridClient(client_id="b", capacity_class="small"),
        "c": GridClient(client_id="c", capacity_class="large"),
        "d": GridClient(client_id="d"),
    }
    assert ranks_of(recipe, clients, 0) == {"a": 1, "b": 2, "c": 2, "d": 2}
    assert ranks_of(recipe, clients, 2) == {"a": 1, "b": 2, "c": 6, "d": 4}


@pytest.mark.parametrize("method", ["fedit", "zero-pad", "flexlora", "ffa", "product", "fedex", "rolora"])
@pytest.mark.parametrize(("steps", "expected"), [(SHRINK, [4, 4, 2, 2]), (GROW, [2, 2, 4, 4])])
def test_a_schedule_changes_what_clients_train_and_the_error_is_on_record(
    federation, finished, method, steps, expected
):
    result = finished(recipe_text(method, steps=steps))
    assert result.state == "FINISHED"
    assert [r["clients"]["a"]["lora_rank"] for r in result.rounds] == expected
    state = federation.artifacts.load_state(result.adapter_sha256)
    assert rank_of(state) == expected[-1]
    errors = [r["truncation_error"] for r in result.rounds]
    loses = steps == SHRINK and not METHODS[method].changes_base
    assert [e > 0 for e in errors] == [False, False, loses, False]
    described = describe(federation.store, "r-1")["rounds"]
    assert [r["truncation_error"] for r in described] == errors
    start = federation.store.rounds("r-1")[2].start_sha256
    before = federation.store.rounds("r-1")[1].adapter_sha256
    assert start != before
    whole, cut = (
        {k: p.scale * (p.B.double() @ p.A.double()) for k, p in METHODS[method].product(s).items()}
        for s in (federation.artifacts.load_state(h) for h in (before, start))
    )
    missed = sum(float((whole[k] - cut[k]).square().sum()) for k in whole) ** 0.5
    assert (missed > 1e-3) == loses


def test_an_engine_that_is_started_again_goes_on_at_the_same_rank(federation, finished):
    whole = finished(recipe_text()).adapter_sha256
    run = federation.submit(recipe_text(), run_id="r-2")
    close = federation.store.close_round
    calls = []

    def deadly(*args, **kwargs):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        close(*args, **kwargs)

    federation.store.close_round = deadly
    with pytest.raises(KeyboardInterrupt):
        federation.engine().run(run)
    federation.grid.pending.clear()
    federation.store.close_round = close
    assert federation.engine().run(run).adapter_sha256 == whole


@pytest.mark.parametrize("method", ["ffa", "zero-pad", "flexlora", "product"])
def test_a_larger_client_that_joins_late_makes_the_global_rank_grow(federation, finished, method):
    text = recipe_text(method, "{a: 2, b: 2, c: 6}", "").replace("clients: [a, b, c], ", "")
    federation.grid.clients = ["a", "b"]
    close = federation.store.close_round

    def joined(*args, **kwargs):
        close(*args, **kwargs)
        federation.grid.clients = ["a", "b", "c"]

    federation.store.close_round = joined
    result = finished(text)
    assert [r["clients"].get("c", {}).get("lora_rank") for r in result.rounds] == [None, 6, 6, 6]
    assert rank_of(federation.artifacts.load_state(result.adapter_sha256)) == 6


@pytest.mark.parametrize("method", ["ffa", "rolora"])
def test_a_server_optimiser_begins_anew_after_a_change_of_rank(federation, finished, method):
    result = finished(recipe_text(method) + "server_optimizer: {rule: fedavgm}\n")
    assert [r["clients"]["a"]["lora_rank"] for r in result.rounds] == [4, 4, 2, 2]


def test_the_largest_client_away_for_a_round_cuts_nothing():
    recipe = parse_recipe(recipe_text("zero-pad", "{a: 2, b: 2, c: 6}", ""))
    state = METHODS["zero-pad"].initial_state({"q": (9, 9)}, lora_rank=6, scale=2.0, dense={}, seed=0)
    assert resized_for_round(recipe, METHODS["zero-pad"], state, {"a": 2, "b": 2}, 1) is None

"""HetLoRA's pruned ranks at the coordinator: admitted, stored, ordered from then on, kept through a restart."""

import dataclasses

import pytest

from aggregation.serialize import from_bytes, sha256_hex, to_bytes
from coordinator.errors import RunFailedError
from motet.recipe import from_canonical_json

TEXT = """
name: tiny
base_model: {tiny: tiny-bert}
task: {kind: sequence-classification, num_labels: 2}
data: {path: none.jsonl}
adapter: {lora_rank: RANK}
method: {name: hetlora, self_pruning: {decay: 0.5}}
cohort: {clients: [a, b, c], minimum: 2, deadline_s: 5}
training: {rounds: 4, local_steps: 2}
"""
WITHOUT = TEXT.replace(", self_pruning: {decay: 0.5}", "")


def text(rank="4", source=TEXT):
    return source.replace("RANK", rank)


def cut(reply, order, rank):
    """The reply at a smaller rank, as a client that pruned itself sends it."""
    recipe, state = from_canonical_json(order.recipe_json), from_bytes(reply.payload)
    scale = recipe.scale_of(rank)
    lora = {
        k: dataclasses.replace(p, B=p.B[:, :rank].contiguous(), A=p.A[:rank].contiguous(), scale=scale)
        for k, p in state.lora.items()
    }
    payload = to_bytes(dataclasses.replace(state, lora=lora))
    return dataclasses.replace(reply, payload=payload, payload_sha256=sha256_hex(payload))


@pytest.fixture
def pruner(honest):
    """Client c prunes in the rounds that are named; ``seen`` holds what was ordered."""

    class Pruner:
        def __init__(self, *rounds, to=None):
            self.rounds, self.to, self.seen = rounds, to, []

        def __call__(self, order):
            self.seen.append((order.round_index, order.lora_rank))
            reply = honest(order)
            if order.round_index not in self.rounds:
                return reply
            return cut(reply, order, self.to or max(1, order.lora_rank // 2))

    return Pruner


def ranks(result, client="c"):
    return [r["clients"][client]["lora_rank"] for r in result.rounds]


def test_a_pruned_rank_is_what_the_client_trains_from_then_on(federation, pruner):
    client = federation.grid.handlers["c"] = pruner(1)
    result = federation.engine().run(federation.submit(text()))
    assert client.seen == [(0, 4), (1, 4), (2, 2), (3, 2)]
    assert ranks(result) == [4, 2, 2, 2]  # what each update holds
    assert ranks(result, "a") == [4] * 4


@pytest.mark.parametrize("alpha", ["2r", "8"])
def test_a_rank_is_pruned_again_and_never_grows(federation, pruner, alpha):
    client = federation.grid.handlers["c"] = pruner(0, 1, 2, 3)
    federation.engine().run(federation.submit(text(f"4, alpha: {alpha}")))
    assert client.seen == [(0, 4), (1, 2), (2, 1), (3, 1)]


def test_without_the_key_a_smaller_update_is_refused(federation, pruner):
    """Positive control: only the recipe lets a client change its rank."""
    federation.grid.handlers["c"] = pruner(1)
    run = federation.submit(text(source=WITHOUT))
    federation.engine().run(run)
    told = [c.error_code for c in federation.store.contributions(run, 1) if c.client_id == "c"]
    assert told == ["bad_shape"]


@pytest.mark.parametrize("to", [1, 3])
def test_a_rank_that_the_decay_does_not_give_is_refused(federation, pruner, to):
    client = federation.grid.handlers["c"] = pruner(1, to=to)
    run = federation.submit(text())
    federation.engine().run(run)
    states = [c.state for c in federation.store.contributions(run) if c.client_id == "c"]
    assert states == ["RECEIVED", "FAILED", "RECEIVED", "RECEIVED"]
    assert [rank for _, rank in client.seen] == [4] * 4


def test_a_restart_of_the_coordinator_forgets_no_pruned_rank(federation, pruner):
    whole = federation.submit(text(), run_id="whole")
    federation.grid.handlers["c"] = pruner(1)
    expected = federation.engine().run(whole).adapter_sha256

    class KilledError(BaseException):
        pass

    client = federation.grid.handlers["c"] = pruner(1)

    def kill(order):
        if order.round_index == 2:
            raise KilledError

    federation.grid.on_send = kill
    run = federation.submit(text(), run_id="killed")
    with pytest.raises(KilledError):
        federation.engine().run(run)
    federation.grid.on_send = lambda order: None
    again = federation.engine().run(run)
    assert client.seen == [(0, 4), (1, 4), (2, 2), (3, 2)]
    assert again.adapter_sha256 == expected


def test_a_pruned_update_that_went_into_no_round_has_pruned_nothing(federation, pruner, failure):
    client = federation.grid.handlers["c"] = pruner(1)
    fails = {"left": 2}

    def once(order):
        from small_federation import honest_reply

        if order.round_index == 1 and fails["left"]:
            fails["left"] -= 1
            return failure
        return honest_reply(order)

    federation.grid.handlers |= {"a": once, "b": once}
    federation.engine().run(federation.submit(text()))
    assert client.seen == [(0, 4), (1, 4), (1, 4), (2, 2), (3, 2)]


def test_a_run_in_which_everyone_prunes_keeps_its_global_rank(federation, pruner):
    federation.grid.handlers = {c: pruner(0) for c in "abc"}
    run = federation.submit(text())
    federation.engine().run(run)
    state = federation.artifacts.load_state(federation.store.get_run(run).adapter_sha256)
    assert {pair.lora_rank for pair in state.lora.values()} == {4}
    assert not any(pair.B[:, 2:].any() for pair in state.lora.values())


def test_too_few_updates_still_end_the_run(federation, pruner):
    federation.grid.handlers = {c: pruner(0, to=3) for c in "abc"}
    with pytest.raises(RunFailedError, match="not admitted"):
        federation.engine().run(federation.submit(text()))

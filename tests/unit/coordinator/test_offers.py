"""Ranks that clients offer: asked once, cut to the recipe's, followed from round to round."""

import dataclasses

import pytest

from coordinator.engine.grid import GridFailure
from coordinator.errors import RunFailedError
from motet.wire.messages import TrainReply

TEXT = """
name: tiny
base_model: {tiny: tiny-bert}
task: {kind: sequence-classification, num_labels: 2}
data: {path: none.jsonl}
adapter: {lora_rank: RANK, rank_policy: measured}
method: {name: flora}
cohort: {clients: [a, b, c], minimum: 2, deadline_s: 5}
training: {rounds: 3, local_steps: 2}
"""


def text(rank="4", extra=""):
    return TEXT.replace("RANK", rank) + extra


class Owners:
    """What each client offers; a list is one offer a round, the last for the rest."""

    def __init__(self, honest, **offers):
        self.honest, self.offers, self.questions = honest, offers, []

    def offer(self, client, round_index):
        offered = self.offers[client]
        return offered[min(round_index, len(offered) - 1)] if isinstance(offered, list) else offered

    def __call__(self, order):
        offered = self.offer(order.client_id, order.round_index)
        if order.asks_rank:
            self.questions.append((order.client_id, order.round_index, order.lora_rank, order.payload))
            return told(order, self.offer(order.client_id, 0))
        if order.lora_rank > offered:
            return dataclasses.replace(
                told(order, offered), error_code="over_capacity", error_message="too much"
            )
        following = self.offer(order.client_id, order.round_index + 1)
        return dataclasses.replace(self.honest(order), offered_lora_rank=following)


def told(order, rank):
    keys = ("run_id", "round_index", "attempt", "client_id")
    return TrainReply(**{k: getattr(order, k) for k in keys}, offered_lora_rank=rank)


def ranks(result):
    return [{c: v["lora_rank"] for c, v in r["clients"].items()} for r in result.rounds]


def test_each_client_trains_the_smaller_of_its_offer_and_the_recipes_rank(federation, honest):
    owners = Owners(honest, a=1, b=3, c=64)
    federation.grid.handlers = dict.fromkeys("abc", owners)
    result = federation.engine().run(federation.submit(text()))
    assert ranks(result) == [{"a": 1, "b": 3, "c": 4}] * 3
    assert owners.questions == [(c, 0, 4, b"") for c in "abc"]  # once, in one go, with nothing to train
    asked = [o for o in federation.grid.sent if o.asks_rank]
    assert all(o.reservation_id == "" for o in asked)


def test_a_question_charges_nobody(federation, honest):
    federation.grid.handlers = dict.fromkeys("abc", Owners(honest, a=1, b=3, c=4))
    private = "privacy: {noise_multiplier: 1.0, sampling_rate: 0.1}\n"
    run = federation.submit(text(extra=private))
    federation.engine().run(run)
    assert [len(federation.store.spent_events(c, run)) for c in "abc"] == [3, 3, 3]


def test_assigned_ranks_ask_nobody(federation, recipes):
    federation.engine().run(federation.submit(recipes["plain"]))
    assert not any(o.asks_rank for o in federation.grid.sent)


def test_an_offer_that_changes_is_followed_in_the_next_round(federation, honest):
    federation.grid.handlers = dict.fromkeys("abc", Owners(honest, a=[2, 4, 1], b=[4], c=[4]))
    result = federation.engine().run(federation.submit(text()))
    assert [r["a"] for r in ranks(result)] == [2, 4, 1]


def test_a_machine_that_carries_less_by_now_is_ordered_less_in_the_next_round(federation, honest):
    owners = Owners(honest, a=[4], b=[4], c=[4])
    federation.grid.handlers = dict.fromkeys("abc", owners)
    close = federation.store.close_round

    def shrink(*args, **kwargs):
        close(*args, **kwargs)
        owners.offers["c"] = 2  # another policy, between the rounds

    federation.store.close_round = shrink
    result = federation.engine().run(federation.submit(text()))
    states = [r["clients"]["c"]["state"] for r in result.rounds]
    assert states == ["RECEIVED", "FAILED", "RECEIVED"]
    assert [r["c"] for r in ranks(result)] == [4, 4, 2]


def test_a_client_that_tells_no_rank_is_left_out_and_the_round_goes_on(federation, honest):
    owners = Owners(honest, a=2, b=2, c=2)
    federation.grid.handlers = {
        "a": owners,
        "b": owners,
        "c": lambda _order: GridFailure(code="x", message="gone"),
    }
    result = federation.engine().run(federation.submit(text()))
    assert ranks(result) == [{"a": 2, "b": 2}] * 3


def test_too_few_offers_end_the_run_and_say_what_each_said(federation, honest):
    def refuses(order):
        return dataclasses.replace(
            told(order, 0), error_code="policy_refused", error_message="clause max_memory_mb"
        )

    federation.grid.handlers = {"a": Owners(honest, a=2), "b": refuses, "c": None}
    run = federation.submit(text())
    with pytest.raises(
        RunFailedError, match="1 clients told the rank that they carry, 2 are needed"
    ) as caught:
        federation.engine().run(run)
    assert "b: clause max_memory_mb" in str(caught.value)
    assert "c: no answer within 5 s" in str(caught.value)
    assert federation.store.get_run(run).state == "FAILED"


def test_a_coordinator_that_is_started_again_asks_again_and_keeps_the_planned_ranks(federation, honest):
    owners = Owners(honest, a=1, b=3, c=4)
    federation.grid.handlers = dict.fromkeys("abc", owners)
    whole = federation.engine().run(federation.submit(text(), run_id="r-1"))
    close, calls = federation.store.close_round, []

    def deadly(*args, **kwargs):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        close(*args, **kwargs)

    federation.store.close_round = deadly
    run = federation.submit(text(), run_id="r-2")
    with pytest.raises(KeyboardInterrupt):
        federation.engine().run(run)
    federation.store.close_round = close
    federation.grid.pending.clear()
    owners.questions.clear()
    result = federation.engine().run(run)
    assert [q[:2] for q in owners.questions] == [("a", 2), ("b", 2), ("c", 2)]
    assert ranks(result) == ranks(whole)
    assert result.adapter_sha256 == whole.adapter_sha256


def test_the_recipes_own_ranks_and_the_schedule_are_caps(federation, honest):
    federation.grid.handlers = dict.fromkeys("abc", Owners(honest, a=8, b=8, c=2))
    recipe = text("{a: 2, default: 6}").replace(
        "rank_policy: measured", "rank_policy: measured, lora_rank_schedule: [{from_round: 1, lora_rank: 3}]"
    )
    result = federation.engine().run(federation.submit(recipe))
    assert ranks(result) == [{"a": 2, "b": 6, "c": 2}, {"a": 2, "b": 3, "c": 2}, {"a": 2, "b": 3, "c": 2}]

"""The round loop: what is on disk decides, budget is charged first, a kill anywhere changes nothing."""

import dataclasses
import json

import pytest
import torch

from aggregation.adapter import AdapterState, FactorPair
from aggregation.serialize import sha256_hex, to_bytes
from coordinator.engine.grid import GridFailure
from coordinator.engine.round_engine import EngineStoppedError
from coordinator.errors import BudgetRefusedError, RunFailedError
from motet.wire.messages import TrainReply


class Killed(BaseException):
    """Stands for kill -9: nothing catches it."""


def final_hash(federation, recipes):
    run = federation.submit(recipes["plain"], run_id="r-whole")
    return federation.engine().run(run).adapter_sha256


def test_a_run_closes_all_its_rounds_with_exact_sums(federation, recipes):
    result = federation.engine().run(federation.submit(recipes["plain"]))
    assert result.state == "FINISHED"
    assert [r["round_index"] for r in result.rounds] == [0, 1, 2]
    assert all(r["relative_error"] < 1e-5 for r in result.rounds)
    assert {c: v["lora_rank"] for c, v in result.rounds[0]["clients"].items()} == {"a": 1, "b": 2, "c": 3}


def test_the_result_does_not_depend_on_the_order_of_replies(federation, recipes):
    whole = final_hash(federation, recipes)
    grid = federation.grid
    original = grid.collect
    grid.collect = lambda ids: original(list(reversed(list(ids))))
    assert federation.engine().run(federation.submit(recipes["plain"], run_id="r-2")).adapter_sha256 == whole


def test_adapters_of_closed_rounds_are_read_only_for_whom_they_are_wanted(federation, recipes, monkeypatch):
    run = federation.submit(recipes["plain"])
    federation.engine().run(run)
    read, original = [], federation.artifacts.load_state
    monkeypatch.setattr(
        federation.artifacts, "load_state", lambda sha256: read.append(sha256) or original(sha256)
    )
    federation.engine().run(run)
    assert not read
    told = []
    federation.engine(on_round=lambda index, _state: told.append(index)).run(run)
    assert (told, len(read)) == ([0, 1, 2], 3)


@pytest.mark.parametrize(
    "where", ["plan_round", "tell", "close_round", "end_run"]
)  # ``tell``: orders, answers
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_killed_before_or_after_any_transition_the_run_ends_with_the_same_adapter(
    federation, recipes, monkeypatch, where, when, count
):
    whole = final_hash(federation, recipes)
    run = federation.submit(recipes["plain"], run_id="r-killed")
    original = getattr(federation.store, where)
    calls = []

    def deadly(*args, **kwargs):
        calls.append(args)
        if when == "before" and len(calls) == count:
            raise Killed
        original(*args, **kwargs)
        if when == "after" and len(calls) == count:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(federation.store, where, deadly)
        try:
            federation.engine().run(run)
        except Killed:
            federation.grid.pending.clear()  # a new process knows none of the old messages
    result = federation.engine().run(run)
    assert result.state == "FINISHED"
    assert result.adapter_sha256 == whole
    rounds = federation.store.rounds(run)
    assert [(r.round_index, r.attempt) for r in rounds] == [(0, 0), (1, 0), (2, 0)]


def test_a_client_that_does_not_answer_is_left_behind_at_the_deadline_and_asked_again_next_round(
    federation, recipes
):
    original = federation.grid.collect

    def collect(ids):
        late = [
            m
            for m in ids
            if federation.grid.pending[m].client_id == "c" and federation.grid.pending[m].round_index == 0
        ]
        return original([m for m in ids if m not in late])

    federation.grid.collect = collect
    run = federation.submit(recipes["plain"])
    result = federation.engine().run(run)
    states = [{c: v["state"] for c, v in r["clients"].items()} for r in result.rounds]
    assert states[0] == {"a": "RECEIVED", "b": "RECEIVED", "c": "FAILED"}
    assert states[1]["c"] == "RECEIVED"


def test_a_message_that_ends_with_its_deadline_is_a_missed_deadline_and_an_earlier_end_is_not(
    federation, recipes
):
    """The link tells of both as of a client that can not be reached."""
    unreachable = GridFailure(code="client_unreachable", message="the message ended")
    whole = federation.grid.collect

    def collect(ids):
        orders = {m: federation.grid.pending[m] for m in ids if m in federation.grid.pending}
        late = [m for m, o in orders.items() if o.client_id == "c" and o.round_index < 2]
        found = whole([m for m in ids if m not in late])
        if late and not found:
            federation.clock.time += (
                0 if orders[late[0]].round_index == 0 else 60
            )  # beyond the deadline, or not
            federation.grid.pending.pop(late[0])
            found = [(late[0], unreachable)]
        return found

    federation.grid.collect = collect
    run = federation.submit(recipes["plain"])
    assert federation.engine().run(run).state == "FINISHED"
    codes = [c.error_code for c in federation.store.contributions(run) if c.client_id == "c"]
    assert codes == ["client_unreachable", "deadline", ""]


def test_budget_is_reserved_before_any_order_leaves(federation, recipes):
    seen = []

    def on_send(order):
        reserved = federation.store.spent_events(order.client_id, order.run_id)
        seen.append((order.client_id, order.round_index, len(reserved), order.reservation_id))

    federation.grid.on_send = on_send
    federation.engine().run(federation.submit(recipes["private"]))
    assert seen
    for _client, round_index, reserved, reservation in seen:
        assert reserved == round_index + 1
        assert reservation


def test_a_round_asked_again_is_charged_again(federation, recipes, failure, honest):
    first = lambda order: failure if (order.round_index, order.attempt) == (0, 0) else honest(order)  # noqa: E731
    federation.grid.handlers = dict.fromkeys("abc", first)
    run = federation.submit(recipes["private"])
    federation.engine().run(run)
    assert len(federation.store.spent_events("a", run)) == 4  # three rounds, one of them twice
    assert [(r.round_index, r.attempt, r.state) for r in federation.store.rounds(run)][:2] == [
        (0, 0, "ABORTED"),
        (0, 1, "CLOSED"),
    ]


def test_the_run_stops_before_asking_anyone_when_the_limit_would_be_passed(federation, recipes):
    run = federation.submit(recipes["private"].replace("epsilon_limit: 20", "epsilon_limit: 0.05"))
    with pytest.raises(BudgetRefusedError, match="epsilon_limit"):
        federation.engine().run(run)
    assert federation.grid.sent == []
    assert federation.store.get_run(run).state == "FAILED"
    assert federation.store.spent_events("a", run) == []


def _reply(order):
    from aggregation.initial import fresh_factors

    shapes = {"x.query": (12, 8), "x.value": (8, 12)}
    lora = fresh_factors(shapes, order.lora_rank, 2.0, 1)
    payload = to_bytes(AdapterState(lora=lora, dense={"head.weight": torch.zeros(2, 8)}))
    return TrainReply(
        run_id=order.run_id,
        round_index=order.round_index,
        attempt=order.attempt,
        client_id=order.client_id,
        payload=payload,
        payload_sha256=sha256_hex(payload),
    )


def _with(reply, payload):
    return dataclasses.replace(reply, payload=payload, payload_sha256=sha256_hex(payload))


def _wrong_rank(reply):
    lora = {
        "x.query": FactorPair(B=torch.zeros(12, 9), A=torch.zeros(9, 8), scale=2.0),
        "x.value": FactorPair(B=torch.zeros(8, 9), A=torch.zeros(9, 12), scale=2.0),
    }
    return _with(reply, to_bytes(AdapterState(lora=lora, dense={"head.weight": torch.zeros(2, 8)})))


def _nan(reply):
    data = bytearray(reply.payload)
    data[-4:] = b"\x00\x00\xc0\x7f"
    return _with(reply, bytes(data))


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda r: dataclasses.replace(r, payload_sha256="0" * 64), "hash_differs"),
        (lambda r: _with(r, r.payload[:-4]), None),
        (lambda r: _with(r, r.payload + b"\0"), None),
        (lambda r: _with(r, b"\x80\x04pickle"), None),
        (_wrong_rank, "bad_shape"),
        (_nan, "not_finite"),
        (lambda r: dataclasses.replace(r, run_id="r-other"), "wrong_envelope"),
        (lambda r: dataclasses.replace(r, round_index=7), "wrong_envelope"),
        (lambda r: dataclasses.replace(r, aggregation_weight=float("nan")), "bad_weight"),
        (lambda r: dataclasses.replace(r, num_examples=-1), "bad_count"),
        (lambda r: dataclasses.replace(r, num_examples=2**31), "bad_count"),
        (
            lambda r: dataclasses.replace(r, error_code="policy_refused", error_message="clause x"),
            "policy_refused",
        ),
    ],
)
def test_an_unsound_update_is_kept_out_and_named_and_the_round_goes_on(federation, recipes, change, code):
    federation.grid.handlers["c"] = lambda order: change(_reply(order))
    run = federation.submit(recipes["plain"])
    result = federation.engine().run(run)
    assert result.state == "FINISHED"
    rows = [c for c in federation.store.contributions(run) if c.client_id == "c"]
    assert all(r.state == "FAILED" and r.error_code for r in rows)
    if code:
        assert rows[0].error_code == code
    assert {p.shape for p in federation.artifacts.load_state(result.adapter_sha256).base_delta.values()} == {
        (12, 8),
        (8, 12),
    }


def test_a_refusal_by_all_ends_the_run_at_once_and_says_what_each_said(federation, recipes):
    federation.grid.handlers = {
        c: lambda o: dataclasses.replace(
            _reply(o), error_code="policy_refused", error_message="clause max_lora_rank"
        )
        for c in "abc"
    }
    run = federation.submit(recipes["plain"])
    with pytest.raises(RunFailedError, match="clause max_lora_rank"):
        federation.engine().run(run)
    assert len(federation.store.rounds(run)) == 1
    assert json.loads(federation.store.get_run(run).recipe_json)["name"] == "tiny"


def test_a_waiting_run_says_for_whom_it_waits(federation, recipes):
    federation.grid.clients = ["a"]
    run = federation.submit(recipes["plain"])
    heard = []

    def on_sleep():
        heard.append(federation.store.get_run(run).reason)
        if len(heard) == 2:
            federation.grid.clients = ["a", "b", "c"]

    federation.clock.on_sleep = on_sleep
    assert federation.engine().run(run).state == "FINISHED"
    assert heard[0] == "waits for 1 more client(s): b, c not online"
    assert federation.store.get_run(run).reason == ""


def test_cancel_takes_effect_between_replies(federation, recipes):
    run = federation.submit(recipes["plain"])
    federation.grid.handlers = dict.fromkeys("abc")
    federation.clock.on_sleep = lambda: federation.store.request_cancel(run)
    with pytest.raises(RunFailedError, match="cancelled"):
        federation.engine().run(run)
    assert federation.store.get_run(run).state == "CANCELLED"


def test_a_shutdown_leaves_the_round_on_disk_for_the_next_start(federation, recipes):
    whole = final_hash(federation, recipes)
    run = federation.submit(recipes["plain"], run_id="r-2")
    federation.grid.handlers = {"c": None}
    with pytest.raises(EngineStoppedError):
        federation.engine(is_stopping=lambda: True).run(run)
    federation.grid.handlers = {}
    assert federation.engine().run(run).adapter_sha256 == whole

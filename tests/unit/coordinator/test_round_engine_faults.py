"""What goes wrong around a round: late, double and unprotected answers, crashes between attempts, dead workers."""

import dataclasses
import os
import signal
import time

import pytest

from coordinator.engine.local_grid import LocalGrid, WorkerPool, WorkerSpec
from coordinator.errors import BudgetRefusedError, RunFailedError
from privacy.accounting import epsilon_pld


def metrics_of(federation, run):
    return {(m.round_index, m.name): m.value for m in federation.store.metrics(run)}


def test_an_answer_after_the_deadline_is_counted_and_never_used(federation, recipes, honest):
    federation.grid.handlers = {"c": None}
    run = federation.submit(recipes["plain"])
    original = federation.grid.collect

    def collect(ids):
        late = [m for m, o in federation.grid.pending.items() if o.client_id == "c" and o.round_index == 0]
        if late and len(federation.store.closed_rounds(run)) == 1:
            federation.grid.handlers = {}
            found = [(m, honest(federation.grid.pending.pop(m))) for m in late]
            return [*found, *original(ids)]
        return original(ids)

    federation.grid.collect = collect
    result = federation.engine().run(run)
    assert result.rounds[0]["clients"]["c"]["state"] == "LATE"
    assert metrics_of(federation, run)[(0, "late_replies")] == 1.0
    assert {c: v["state"] for c, v in result.rounds[2]["clients"].items()} == dict.fromkeys("abc", "RECEIVED")


def test_a_second_answer_to_one_order_is_counted_and_never_used(federation, recipes, honest):
    run = federation.submit(recipes["plain"])
    original = federation.grid.collect
    given = []

    def collect(ids):
        found = original(ids)
        given.extend(found)
        return [*found, *given[:1]] if found else found

    federation.grid.collect = collect
    whole = federation.engine().run(run).adapter_sha256
    doubles = sum(v for (_, name), v in metrics_of(federation, run).items() if name == "duplicate_replies")
    assert doubles >= 1
    federation.grid.collect = original
    again = federation.submit(recipes["plain"], run_id="r-without-doubles")
    assert federation.engine().run(again).adapter_sha256 == whole


def test_an_update_without_noise_is_kept_out_of_a_private_run(federation, recipes, honest):
    federation.grid.handlers["c"] = lambda order: dataclasses.replace(honest(order), is_private=False)
    run = federation.submit(recipes["private"])
    result = federation.engine().run(run)
    states = {c: v["state"] for c, v in result.rounds[0]["clients"].items()}
    assert states == {"a": "RECEIVED", "b": "RECEIVED", "c": "FAILED"}
    told = [c for c in federation.store.contributions(run, 0) if c.client_id == "c"]
    assert told[0].error_code == "not_private"


def test_a_private_client_that_tells_its_count_is_kept_out(federation, recipes, honest):
    federation.grid.handlers["c"] = lambda order: dataclasses.replace(honest(order), num_examples=17)
    run = federation.submit(recipes["private"])
    federation.engine().run(run)
    told = [c for c in federation.store.contributions(run, 0) if c.client_id == "c"]
    assert told[0].error_code == "released_count"


def test_a_crash_after_the_last_attempt_buys_no_further_charge(federation, recipes, failure, monkeypatch):
    federation.grid.handlers = dict.fromkeys("abc", lambda _order: failure)
    run = federation.submit(recipes["private"])

    class KilledError(BaseException):
        pass

    def die(*_args, **_kwargs):
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(federation.store, "end_run", die)
        with pytest.raises(KilledError):
            federation.engine().run(run)
    charged = len(federation.store.spent_events("a", run))
    assert charged == 3  # positive control: attempts were charged
    with pytest.raises(RunFailedError):
        federation.engine().run(run)
    assert len(federation.store.spent_events("a", run)) == charged
    assert federation.store.get_run(run).state == "FAILED"


def test_the_limit_counts_what_earlier_runs_were_charged(federation, recipes):
    first = federation.submit(recipes["private"], run_id="r-1")
    federation.engine().run(first)
    spent = federation.store.spent_events("a")
    limit = epsilon_pld(spent, 1e-5) + 1e-3
    second = federation.submit(
        recipes["private"].replace("epsilon_limit: 20", f"epsilon_limit: {limit}"), run_id="r-2"
    )
    with pytest.raises(BudgetRefusedError, match="earlier runs"):
        federation.engine().run(second)
    assert federation.store.spent_events("a") == spent
    assert all(order.run_id == "r-1" for order in federation.grid.sent)


def test_cancel_is_obeyed_though_answers_never_pause(federation, recipes, honest):
    run = federation.submit(recipes["plain"])

    def answer(order):
        federation.clock.time += 1.0
        if order.round_index == 1:
            federation.store.request_cancel(run)
        return honest(order)

    federation.grid.handlers = dict.fromkeys("abc", answer)
    with pytest.raises(RunFailedError, match="cancelled"):
        federation.engine().run(run)
    assert federation.store.get_run(run).state == "CANCELLED"
    assert len(federation.store.closed_rounds(run)) < 3


def test_updates_that_have_no_sum_end_the_run_in_words(federation, recipes, monkeypatch):
    def no_sum(*_args, **_kwargs):
        raise ValueError("the sum overflows")

    monkeypatch.setattr("aggregation.methods.flora.Flora.reduce", no_sum)
    run = federation.submit(recipes["plain"])
    with pytest.raises(RunFailedError, match="can not be reduced: the sum overflows"):
        federation.engine().run(run)
    assert federation.store.get_run(run).state == "FAILED"


def test_a_clients_words_reach_the_store_as_printable_text(federation, recipes, honest):
    federation.grid.handlers["c"] = lambda order: dataclasses.replace(
        honest(order), error_code="a\x1b[31m\nb", error_message="red\x1b[31m alert\n"
    )
    run = federation.submit(recipes["plain"])
    federation.engine().run(run)
    told = next(c for c in federation.store.contributions(run, 0) if c.client_id == "c")
    assert told.error_code == "a__31m_b"
    assert told.error_message.isprintable()


def _suicide(_spec):
    def handle(_order):
        os.kill(os.getpid(), signal.SIGKILL)

    return handle


def test_a_worker_that_dies_fails_its_order_and_the_next_order_gets_a_new_one(federation, recipes, tmp_path):
    run = federation.submit(recipes["plain"])
    federation.grid.handlers = dict.fromkeys("abc")
    orders = []
    federation.grid.on_send = orders.append
    federation.clock.on_sleep = lambda: federation.store.request_cancel(run)
    with pytest.raises(RunFailedError):
        federation.engine().run(run)
    spec = WorkerSpec(client_id="a", data_path=tmp_path / "none.jsonl", state_dir=tmp_path / "state")
    pool = WorkerPool(1)
    try:
        deadly = LocalGrid({"a": spec}, factory=f"{__name__}:_suicide", pool=pool)
        outcomes = [_outcome_of(deadly, orders[0])]
        sound = LocalGrid({"a": spec}, factory="client.worker:build_handler", pool=pool)
        outcomes.append(_outcome_of(sound, orders[0]))
    finally:
        pool.close()
    assert outcomes[0].code == "client_crashed"
    assert outcomes[1].error_code == "client_failed"  # it lives: it reports that its file is missing
    assert "none.jsonl" in outcomes[1].error_message


def _outcome_of(grid, order):
    message_id = grid.send(order, deadline_s=60)
    until = time.monotonic() + 90
    while time.monotonic() < until:
        if found := grid.collect([message_id]):
            return found[0][1]
        time.sleep(0.05)
    raise AssertionError("no outcome")

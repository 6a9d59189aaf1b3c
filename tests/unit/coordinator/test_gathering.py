"""Who takes part in a round: with leave of the owner, free, and each reason to wait as the run says it."""

import math
import threading

import pytest
from small_federation import PRIVATE, RECIPE, honest_reply

from client.decisions import APPROVED, REFUSED, Decisions
from client.keys import init_key
from client.protect import grant, refuse
from coordinator.engine.approvals import Approvals
from coordinator.engine.grid import GridFailure
from coordinator.engine.places import ClientPlaces
from coordinator.engine.round_engine import EngineStoppedError
from coordinator.errors import BudgetRefusedError, RunFailedError
from motet.abandoned import order_key
from motet.audit.decisions import to_text
from motet.recipe import parse_recipe, recipe_sha256
from motet.wire.leave import Leave

PENDING = Leave(answer="pending", clause="approval", message="not yet")
REFUSES = Leave(answer="refused", clause="max_lora_rank", message="clause max_lora_rank: 4 is asked")


class Owners:
    """Each client's answer to a question for leave; orders are answered honestly."""

    def __init__(self, **leaves):
        self.leaves, self.asked = leaves, []

    def __call__(self, order):
        if not order.asks_leave:
            return honest_reply(order)
        assert (order.payload, order.reservation_id) == (b"", "")
        self.asked.append(order.client_id)
        leave = self.leaves.get(order.client_id, Leave(answer="approved"))
        return leave if isinstance(leave, GridFailure) else grant(order, leave)


@pytest.fixture
def owners(federation):
    made = Owners()
    federation.grid.handlers = dict.fromkeys("abc", made)
    return made


def run(federation, run_id, **options):
    return federation.engine(asks_leave=True, **options).run(run_id)


def heard_while(federation, run_id, change, after_s=5.0):
    """The reasons that the run says; ``change`` is called once the clock has moved on so far."""
    said, began = [], federation.clock.time

    def look():
        reason = federation.store.get_run(run_id).reason
        if reason and reason not in said:
            said.append(reason)
        if federation.clock.time > began + after_s:
            change()

    federation.clock.on_sleep = look
    return said


def orders(federation):
    return [o for o in federation.grid.sent if not o.asks_leave]


def test_a_client_is_not_counted_before_its_owner_approves_and_nobody_is_charged_meanwhile(
    federation, owners
):
    owners.leaves = {"b": PENDING, "c": PENDING}
    run_id = federation.submit(PRIVATE)
    spent = []

    def approve():
        spent.append([len(federation.store.spent_events(c)) for c in "abc"])
        assert orders(federation) == []
        owners.leaves.clear()

    said = heard_while(federation, run_id, approve, after_s=20)
    assert run(federation, run_id).state == "FINISHED"
    assert said == ["needs 1 more client with approval: b, c"]
    assert spent[0] == [0, 0, 0]
    assert federation.store.get_run(run_id).reason == ""


def test_a_round_goes_on_without_an_owner_who_does_not_decide_and_takes_it_in_later(federation, owners):
    owners.leaves = {"c": PENDING}
    closed = []

    def on_round(index, _state):
        closed.append(index)
        owners.leaves.clear()

    result = run(federation, federation.submit(), on_round=on_round)
    assert [sorted(r["clients"]) for r in result.rounds] == [["a", "b"], ["a", "b", "c"], ["a", "b", "c"]]


LONG = RECIPE.replace("deadline_s: 5", "deadline_s: 150")
ROUND_S, ANSWER_S = (
    100.0,
    15.0,
)  # a round lasts longer than a question is kept; an answer, than one waits for it


def slow_to_answer(federation, slow, *, lost):
    """That client answers questions after ``ANSWER_S``, but for its first ``lost`` ones; a question ends in time."""
    grid, clock, left = federation.grid, federation.clock, {}
    send, collect = grid.send, grid.collect

    def sent(order, *, deadline_s):
        message_id = send(order, deadline_s=deadline_s)
        left[message_id] = (order, clock.time, clock.time + deadline_s)
        return message_id

    def collected(message_ids):
        ready, ended = [], []
        for message_id in (m for m in message_ids if m in grid.pending):
            order, began, until = left[message_id]
            takes_s = 0.0 if order.asks_leave else ROUND_S
            if order.asks_leave and order.client_id == slow:
                asked = [m for m, (o, _, _) in left.items() if o.asks_leave and o.client_id == slow]
                takes_s = ANSWER_S if asked.index(message_id) >= lost else math.inf
                if clock.time > until:
                    del grid.pending[message_id]
                    ended.append((message_id, GridFailure(code="client_unreachable", message="it ended")))
            if clock.time - began >= takes_s:
                ready.append(message_id)
        return ended + collect(ready)

    grid.send, grid.collect = sent, collected


@pytest.mark.parametrize("lost", [0, 1])
def test_who_is_silent_when_a_round_opens_takes_part_in_the_next_one(federation, owners, lost):
    slow_to_answer(federation, "c", lost=lost)
    result = run(federation, federation.submit(LONG), poll_s=1.0)
    assert [sorted(r["clients"]) for r in result.rounds] == [["a", "b"], ["a", "b", "c"], ["a", "b", "c"]]


def test_without_an_ear_for_answers_while_a_round_is_open_it_takes_part_in_none(
    federation, owners, monkeypatch
):
    monkeypatch.setattr(Approvals, "listen", lambda _self: None)  # the control
    slow_to_answer(federation, "c", lost=0)
    result = run(federation, federation.submit(LONG), poll_s=1.0)
    assert [sorted(r["clients"]) for r in result.rounds] == [["a", "b"]] * 3


def test_a_yes_is_asked_for_once_and_a_pending_one_again_and_again(federation, owners):
    owners.leaves = {"b": PENDING, "c": PENDING}
    run_id = federation.submit()
    heard_while(federation, run_id, owners.leaves.clear, after_s=30)
    run(federation, run_id)
    assert owners.asked.count("a") == 1
    assert 5 <= owners.asked.count("b") <= 15


def test_so_many_refusals_that_the_minimum_is_out_of_reach_end_the_run_before_anybody_is_charged(
    federation, owners
):
    owners.leaves = {"b": REFUSES, "c": REFUSES}
    run_id = federation.submit(PRIVATE)
    with pytest.raises(RunFailedError, match="1 of 3 clients may take part, 2 are needed") as caught:
        run(federation, run_id)
    assert "b: clause max_lora_rank: 4 is asked" in caught.value.message
    assert orders(federation) == []
    assert federation.store.spent_events("a") == []
    owners.leaves = {"c": REFUSES}  # positive control: one refusal leaves enough
    heard = heard_while(federation, federation.submit(PRIVATE, run_id="r-2"), lambda: None)
    federation.grid.on_send = lambda order: federation.clock.on_sleep()
    assert run(federation, "r-2").state == "FINISHED"
    assert heard == ["goes on without c: clause max_lora_rank: 4 is asked"]


@pytest.mark.parametrize(
    ("leave", "said"),
    [
        (Leave(answer="closed", clause="hours", until="22:00"), "outside hours of b, c until 22:00"),
        (
            Leave(answer="refused", clause="policy_file", message="clause policy_file: broken"),
            "waits for b: clause policy_file: broken; waits for c: clause policy_file: broken",
        ),
        (
            GridFailure(code="client_crashed", message="ValueError in the client"),
            "waits for b: ValueError in the client; waits for c: ValueError in the client",
        ),
    ],
)
def test_what_passes_by_itself_is_waited_for(federation, owners, leave, said):
    owners.leaves = {"b": leave, "c": leave}
    run_id = federation.submit()
    told = heard_while(federation, run_id, owners.leaves.clear, after_s=20)
    assert run(federation, run_id).state == "FINISHED"
    assert told == [said]


def test_an_answer_that_is_none_is_no_yes(federation, owners, monkeypatch):
    monkeypatch.setattr(
        Owners,
        "__call__",
        lambda self, order: honest_reply(order) if order.client_id == "a" else self.say(order),
    )
    owners.say = lambda order: refuse(order, "bad_order", "what is this?") if order.asks_leave else None
    run_id = federation.submit()
    stopped = []
    heard = heard_while(federation, run_id, lambda: stopped.append(1), after_s=15)
    with pytest.raises(EngineStoppedError):
        run(federation, run_id, is_stopping=lambda: bool(stopped))
    assert orders(federation) == []
    assert "b: what is this?" in heard[-1]


# -- signed decisions --------------------------------------------------------------------------------------------------


def signed(home, client_id, sha256, decision=APPROVED):
    init_key(home)
    made = Decisions(home).decide(
        client_id=client_id, recipe_sha256=sha256, decision=decision, policy_sha256="", at_ms=5
    )
    return to_text(made)


def test_a_signed_decision_goes_on_the_ledger_once(federation, owners, tmp_path):
    sha256 = recipe_sha256(parse_recipe(RECIPE))
    text = signed(tmp_path / "a", "a", sha256)
    federation.store.register_client("a", (tmp_path / "a" / "client.pub").read_bytes())
    owners.leaves = {"a": Leave(answer="approved", decision=text)}
    for name in ("r-1", "r-2"):
        run(federation, federation.submit(run_id=name))
    (made,) = federation.store.decisions.all()
    assert to_text(made) == text
    assert federation.store.decisions.standing(sha256)["a"].decision == APPROVED


@pytest.mark.parametrize(
    "flaw", ["another key", "another client", "another recipe", "altered", "no decision"]
)
def test_a_decision_that_is_not_this_clients_is_no_yes(federation, owners, tmp_path, flaw):
    sha256 = recipe_sha256(parse_recipe(RECIPE))
    text = signed(
        tmp_path / "a",
        "b" if flaw == "another client" else "a",
        "0" * 64 if flaw == "another recipe" else sha256,
        REFUSED if flaw == "altered" else APPROVED,
    )
    text = {"altered": text.replace("refused", "approved"), "no decision": "{}"}.get(flaw, text)
    init_key(tmp_path / "other")
    key = "other" if flaw == "another key" else "a"
    federation.store.register_client("a", (tmp_path / key / "client.pub").read_bytes())
    owners.leaves = {c: Leave(answer="approved", decision=text) for c in "ab"}
    with pytest.raises(RunFailedError, match="a sent a decision"):
        run(federation, federation.submit())
    assert federation.store.decisions.all() == []


def test_an_owners_no_in_the_middle_of_a_run_is_on_the_ledger_when_the_order_is_refused(
    federation, owners, tmp_path
):
    sha256 = recipe_sha256(parse_recipe(RECIPE))
    text = signed(tmp_path / "c", "c", sha256, REFUSED)
    federation.store.register_client("c", (tmp_path / "c" / "client.pub").read_bytes())
    no = Leave(answer="refused", clause="approval", decision=text)

    def says_no(order):
        owners.leaves["c"] = no
        return refuse(order, "policy_refused", "clause approval: the owner has refused", leave=no)

    federation.grid.handlers["c"] = lambda order: owners(order) if order.asks_leave else says_no(order)
    result = run(federation, federation.submit())
    states = [r["clients"].get("c", {}).get("state") for r in result.rounds]
    assert states == ["FAILED", None, None]  # it said no to the first order, and was not asked for another
    assert federation.store.decisions.standing(sha256)["c"].decision == REFUSED


# -- exclusivity and cancel --------------------------------------------------------------------------------------------


def test_a_run_waits_for_a_client_that_is_busy_and_says_with_what(federation, owners):
    places = ClientPlaces()
    places.resume("r-other", ["a"])
    run_id = federation.submit()
    said = heard_while(federation, run_id, lambda: places.leave("r-other"), after_s=2)
    assert run(federation, run_id, places=places).state == "FINISHED"
    assert said == ["waits for a: busy with run r-other"]
    assert places.holders("a") == []


def test_a_priority_that_changes_while_a_run_waits_for_clients_counts_from_the_next_look_on(
    federation, owners, monkeypatch
):
    places, asked = ClientPlaces(), []
    places.resume("r-other", ["a"])
    take = places.take

    def heard(run, wanted, *, priority, **options):
        asked.append(priority)
        return take(run, wanted, priority=priority, **options)

    monkeypatch.setattr(places, "take", heard)
    run_id = federation.submit()

    def change():
        federation.store.set_priority(run_id, 7)
        places.leave("r-other")

    heard_while(federation, run_id, change, after_s=2)
    run(federation, run_id, places=places)
    assert (asked[0], asked[-1]) == (0, 7)


def test_a_run_waits_for_busy_clients_no_longer_than_its_deadline_where_others_are_enough(federation, owners):
    places = ClientPlaces()
    places.resume("r-other", ["a"])
    result = run(federation, federation.submit(), places=places)
    assert sorted(result.rounds[0]["clients"]) == ["b", "c"]


def test_two_runs_at_once_never_have_one_client_at_work_for_both(federation):
    busy, most, lock = dict.fromkeys("abc", 0), [], threading.Lock()
    collect, send = federation.grid.collect, federation.grid.send

    def sending(order, *, deadline_s):
        with lock:
            busy[order.client_id] += 1
            most.append(busy[order.client_id])
            return send(order, deadline_s=deadline_s)

    def collecting(ids):
        with lock:
            owner = {m: federation.grid.pending[m].client_id for m in ids if m in federation.grid.pending}
            found = collect(ids)
            for message_id, _ in found:
                busy[owner[message_id]] -= 1
            return found

    federation.grid.send, federation.grid.collect = sending, collecting
    text = RECIPE.replace("minimum: 2", "minimum: 3")
    places, runs = ClientPlaces(), [federation.submit(text, run_id=f"r-{i}") for i in range(3)]
    threads = [
        threading.Thread(target=federation.engine(places=places).run, args=(run_id,)) for run_id in runs
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [federation.store.get_run(r).state for r in runs] == ["FINISHED"] * 3
    assert (max(most), len(most)) == (1, 27)


def test_two_runs_that_race_for_the_last_budget_do_not_both_get_it(federation):
    limit = PRIVATE.replace("epsilon_limit: 20", "epsilon_limit: LIMIT").replace("rounds: 3", "rounds: 1")
    from motet.recipe import round_event
    from privacy.accounting import epsilon_pld

    event = round_event(parse_recipe(PRIVATE))
    one, two = epsilon_pld([event], 1e-5), epsilon_pld([event] * 2, 1e-5)
    text = limit.replace("LIMIT", str((one + two) / 2))
    runs = [federation.submit(text, run_id=f"r-{i}") for i in range(2)]
    start, ended = threading.Barrier(2), []

    def work(run_id):
        start.wait(30)
        try:
            federation.engine(places=ClientPlaces()).run(
                run_id
            )  # two tables: the budget alone keeps them apart
        except BudgetRefusedError as e:
            ended.append(e.message)

    threads = [threading.Thread(target=work, args=(r,)) for r in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(federation.store.get_run(r).state for r in runs) == ["FAILED", "FINISHED"]
    assert len(ended) == 1
    assert [len(federation.store.spent_events(c)) for c in "abc"] == [1, 1, 1]


def test_cancel_takes_orders_back_from_their_clients_and_charges_stay(federation, owners):
    federation.grid.handlers["c"] = None  # at work for ever
    places = ClientPlaces()
    run_id = federation.submit(PRIVATE)
    federation.clock.on_sleep = lambda: federation.store.request_cancel(run_id)
    with pytest.raises(RunFailedError, match="cancelled"):
        federation.engine(places=places).run(run_id)
    assert federation.grid.cancelled == [("c", order_key(run_id, 0, 0))]
    rows = {c.client_id: (c.state, c.error_code) for c in federation.store.contributions(run_id)}
    assert rows["c"] == ("FAILED", "cancelled")
    assert [(r.state, r.reason) for r in federation.store.rounds(run_id)] == [
        ("ABORTED", "the run was cancelled")
    ]
    assert federation.store.get_run(run_id).state == "CANCELLED"
    assert [len(federation.store.spent_events(c)) for c in "abc"] == [1, 1, 1]
    assert places.holders("c") == []


def test_a_run_that_waits_for_nobody_goes_on_with_those_who_may_or_says_who_is_missing(
    federation, owners, recipes
):
    owners.leaves["b"] = PENDING
    began = federation.clock.time
    done = run(federation, federation.submit(recipes["plain"]), may_wait=False)
    assert done.state == "FINISHED"
    assert federation.clock.time - began < 5.0  # a run that may wait gives a named client its grace
    rounds = federation.store.contributions(done.run_id)
    assert {c.client_id for c in rounds} == {"a", "c"}
    owners.leaves |= {
        "a": Leave(answer="closed", clause="hours", message="later", until="22:00"),
        "c": PENDING,
    }
    stuck = federation.submit(recipes["plain"], run_id="r-stuck")
    with pytest.raises(RunFailedError, match="waits for nobody"):
        run(federation, stuck, may_wait=False)
    assert "b, c without approval yet" in federation.store.get_run(stuck).reason
    assert not federation.store.contributions(stuck)

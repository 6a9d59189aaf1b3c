"""May a run take part? The owner's answers, signed decisions, and orders that were not approved."""

import dataclasses
import datetime
import json
import threading
import time

import pytest

from aggregation.serialize import sha256_hex
from client.asked import MOST_KEPT, AskedRecipes
from client.decisions import APPROVED, BY_RULE, REFUSED, Decisions
from client.keys import ClientKeyError, init_key
from client.ledger import ClientLedger
from client.policy import Policy
from client.policy_file import PolicyFile
from client.receipts import receipts_of
from client.worker import ClientWorker
from motet.abandoned import Abandoned, order_key
from motet.audit.decisions import from_text, is_signed_by_one_of, to_text
from motet.audit.receipts import open_receipts
from motet.clock import SystemClock
from motet.wire.leave import leave_from_json

PRIVATE = "privacy: {noise_multiplier: 1.0, sampling_rate: 0.2}\n"
NOON = datetime.datetime(2026, 11, 20, 12, 0, tzinfo=datetime.UTC)


@pytest.fixture
def home(tmp_path):
    init_key(tmp_path / "home")
    return tmp_path / "home"


@pytest.fixture
def worker_of(data_file, home):
    def make(policy=None, **options):
        return ClientWorker("a", data_file, home, policy, now=lambda: NOON, **options)

    return make


def question(order):
    return dataclasses.replace(order, asks_leave=True, payload=b"", payload_sha256=sha256_hex(b""))


def ask(worker, order):
    reply = worker.handle(question(order))
    assert (reply.payload, reply.error_code) == (b"", "")
    return leave_from_json(reply.leave_json)


def decide(home, order, decision=APPROVED, at_ms=1000, reason=""):
    return Decisions(home).decide(
        client_id="a",
        recipe_sha256=order.recipe_sha256,
        decision=decision,
        policy_sha256="",
        at_ms=at_ms,
        reason=reason,
    )


def rows(home):
    return ClientLedger(home / "ledger.jsonl").rows()


def test_a_manual_approval_is_pending_until_the_owner_decides_and_costs_nothing(
    worker_of, order_of, recipe_of, home
):
    order = order_of(recipe_of(extra=PRIVATE))
    worker = worker_of(Policy(approval="manual"))
    assert ask(worker, order).answer == "pending"
    reply = worker.handle(order)
    assert (reply.error_code, reply.payload) == ("approval_pending", b"")
    assert rows(home) == []  # nothing charged
    made = decide(home, order)
    leave = ask(worker, order)
    assert (leave.answer, from_text(leave.decision)) == ("approved", made)
    assert worker.handle(order).error_code == ""
    assert [r["kind"] for r in rows(home)] == ["decision", "reserve", "settle"]


def test_a_recipe_that_differs_in_one_letter_is_not_the_one_approved(worker_of, order_of, recipe_of, home):
    order, other = order_of(recipe_of()), order_of(recipe_of(rate="6e-3"))
    worker = worker_of(Policy(approval="manual"))
    decide(home, order)
    assert ask(worker, order).answer == "approved"
    assert ask(worker, other).answer == "pending"
    assert worker.handle(other).error_code == "approval_pending"


def test_a_refusal_holds_under_every_policy_and_travels_signed(worker_of, order_of, recipe_of, home):
    order = order_of(recipe_of())
    made = decide(home, order, REFUSED, reason="not our study")
    for policy in (Policy(), Policy(approval="manual"), Policy(approval="rule")):
        worker = worker_of(policy)
        leave = ask(worker, order)
        assert (leave.answer, leave.clause, from_text(leave.decision)) == ("refused", "approval", made)
        assert "not our study" in leave.message
        reply = worker.handle(order)
        assert (reply.error_code, reply.payload) == ("policy_refused", b"")
        assert (
            from_text(leave_from_json(reply.leave_json).decision) == made
        )  # so that the ledger has it at once


def test_only_the_owners_own_no_travels_with_a_refused_order(worker_of, order_of, recipe_of):
    order = order_of(recipe_of())
    for policy in (Policy(max_lora_rank=1), Policy(approval="manual")):
        reply = worker_of(policy).handle(order)
        assert (reply.error_code != "", reply.leave_json) == (True, "")


def test_the_newest_decision_counts(worker_of, order_of, recipe_of, home):
    order, worker = order_of(recipe_of()), worker_of(Policy(approval="manual"))
    for decision, answer in ((APPROVED, "approved"), (REFUSED, "refused"), (APPROVED, "approved")):
        decide(home, order, decision)
        assert ask(worker, order).answer == answer
    times = [d.decided_at_ms for d in Decisions(home).all()]
    assert times == sorted(set(times))  # a clock that stands still does not make two decisions one


def test_the_same_decision_twice_is_one(order_of, recipe_of, home):
    order = order_of(recipe_of())
    assert decide(home, order, at_ms=1) == decide(home, order, at_ms=2)
    assert len(rows(home)) == 1


def test_rule_signs_what_the_clauses_allow_and_only_that(worker_of, order_of, recipe_of, home):
    order = order_of(recipe_of())
    refuses = ask(worker_of(Policy(approval="rule", max_lora_rank=3)), order)
    assert (refuses.answer, refuses.clause, refuses.decision) == ("refused", "max_lora_rank", "")
    assert rows(home) == []
    leave = ask(worker_of(Policy(approval="rule", sha256="f" * 64)), order)
    made = from_text(leave.decision)
    assert (made.decision, made.made_by, made.policy_sha256) == (APPROVED, BY_RULE, "f" * 64)
    assert (made.client_id, made.recipe_sha256) == ("a", order.recipe_sha256)
    assert made.decided_at_ms == NOON.timestamp() * 1000


def test_approved_recipes_lists_the_only_hashes_that_will_do(worker_of, order_of, recipe_of):
    order, other = order_of(recipe_of()), order_of(recipe_of(rate="6e-3"))
    worker = worker_of(Policy(approval="rule", approved_recipes=(order.recipe_sha256,)))
    assert ask(worker, order).answer == "approved"
    told = ask(worker, other)
    assert (told.answer, told.clause) == ("refused", "approved_recipes")
    assert worker.handle(other).error_code == "policy_refused"


def test_a_decision_is_bound_to_all_that_it_says(order_of, recipe_of, home):
    made = decide(home, order_of(recipe_of()))
    pem = (home / "client.pub").read_text()
    assert is_signed_by_one_of(from_text(to_text(made)), [pem])
    changes = {
        "client_id": "b",
        "recipe_sha256": "0" * 64,
        "decision": REFUSED,
        "policy_sha256": "1" * 64,
        "decided_at_ms": 1,
        "made_by": BY_RULE,
        "reason": "x",
    }
    for name, value in changes.items():
        assert not is_signed_by_one_of(dataclasses.replace(made, **{name: value}), [pem]), name
    assert set(changes) | {"signature"} == {f.name for f in dataclasses.fields(made)}


def test_outside_hours_is_closed_until_they_begin_and_no_refusal(worker_of, order_of, recipe_of, home):
    order = order_of(recipe_of(extra=PRIVATE))
    worker = worker_of(Policy(hours=("22:00-06:00",)))
    leave = ask(worker, order)
    assert (leave.answer, leave.clause, leave.until) == ("closed", "hours", "22:00")
    assert worker.handle(order).error_code == "outside_hours"
    assert rows(home) == []
    assert ask(worker_of(Policy(hours=("11:00-13:00",))), order).answer == "approved"  # positive control


def test_a_broken_policy_file_refuses_everything_tells_its_owner_alone_why_and_the_client_works_on(
    worker_of, order_of, recipe_of, tmp_path, caplog
):
    path = tmp_path / "policy.toml"
    path.write_text("max_lora_rank = 4\n")
    worker, order = worker_of(PolicyFile(path)), order_of(recipe_of())
    assert ask(worker, order).answer == "approved"
    path.write_text('[data_sets."/srv/anna.csv"]\nmax_epsilom = 4\n')
    leave = ask(worker, order)
    assert (leave.answer, leave.clause) == ("refused", "policy_file")
    refused = worker.handle(order)
    assert refused.error_code == "policy_refused"
    for told in (leave.message, refused.error_message):
        assert "epsilo" not in told
        assert "anna" not in told
    assert "max_epsilom" in caplog.text
    path.write_text("max_lora_rank = 8\n")
    assert worker.handle(order).error_code == ""


def test_what_was_asked_can_be_read_by_the_owner(worker_of, order_of, recipe_of, home):
    order = order_of(recipe_of())
    worker = worker_of(Policy(approval="manual"))
    for run_id in ("r-1", "r-2", "r-1"):
        ask(worker, dataclasses.replace(order, run_id=run_id))
    (asked,) = AskedRecipes(home).all()
    assert sha256_hex(asked.recipe_json.encode()) == asked.recipe_sha256 == order.recipe_sha256
    assert (asked.run_ids, asked.client_id, asked.answer) == (("r-2", "r-1"), "a", "pending")


@pytest.mark.parametrize(
    "change",
    [
        {"client_id": "b"},
        {"recipe_json": "{}"},
        {"recipe_sha256": "0" * 64},
        {"run_id": "r-1\x1b[2J"},
        {"run_id": "r-1\n"},
        {"run_id": ""},
    ],
)
def test_a_damaged_question_is_refused_and_not_kept(worker_of, order_of, recipe_of, home, change):
    leave = ask(worker_of(), dataclasses.replace(order_of(recipe_of()), **change))
    assert (leave.answer, leave.clause) == ("refused", "bad_order")
    assert AskedRecipes(home).all() == []


def test_a_coordinator_can_not_fill_the_disk_with_questions(home, monkeypatch):
    monkeypatch.setattr("client.asked.MOST_KEPT", 3)
    assert MOST_KEPT > 3
    asked = AskedRecipes(home)
    for i in range(5):
        asked.note(
            recipe_sha256=f"{i:064d}",
            recipe_json="{}",
            client_id="a",
            run_id="r",
            at_ms=i,
            answer="pending",
            message="",
        )
    assert [a.first_ms for a in asked.all()] == [2, 3, 4]


def test_a_countersignature_covers_decisions_and_names_none(worker_of, order_of, recipe_of, home):
    order = order_of(recipe_of(extra=PRIVATE))
    decide(home, order)
    worker_of(Policy(approval="manual")).handle(order)
    document = receipts_of(home, "a", SystemClock())
    _, charges, _ = open_receipts(json.loads(json.dumps(document)))
    assert len(charges) == 1
    assert document["statement"]["ledger_rows"] == 3


def test_without_a_key_nothing_is_signed(tmp_path, order_of, recipe_of, data_file):
    with pytest.raises(ClientKeyError, match="holds no key"):
        decide(tmp_path / "nobody", order_of(recipe_of()))
    worker = ClientWorker("a", data_file, tmp_path / "nobody", Policy(approval="rule"))
    assert (
        ask(worker, order_of(recipe_of())).answer == "approved"
    )  # a simulated client: allowed, not recorded


# -- orders that were taken back ---------------------------------------------------------------------------------------


def test_an_order_that_was_taken_back_stops_between_steps_and_its_charge_stays(
    worker_of, order_of, recipe_of, home, monkeypatch
):
    order, steps = order_of(recipe_of(extra=PRIVATE, local_steps=5)), []
    from client import training

    after_step = training.MovementGuard.after_step

    def count(guard, **options):
        after_step(guard, **options)
        steps.append(1)
        if len(steps) == 3:
            Abandoned(home).mark(order_key(order.run_id, order.round_index, order.attempt))

    monkeypatch.setattr(training.MovementGuard, "after_step", count)
    worker = worker_of()
    reply = worker.handle(order)
    assert (reply.error_code, reply.payload, len(steps)) == ("cancelled", b"", 3)
    assert [r["kind"] for r in rows(home)] == ["reserve"]
    assert worker.handle(order).error_code == "cancelled"  # and it is not begun again
    assert len(rows(home)) == 1
    monkeypatch.undo()
    assert (
        worker.handle(dataclasses.replace(order, attempt=1)).error_code == ""
    )  # another attempt is another order


def test_marks_are_bounded(tmp_path):
    marks = Abandoned(tmp_path)
    for i in range(300):
        marks.mark(f"r/{i}/0")
    assert marks.holds("r/299/0")
    assert len(list((tmp_path / "abandoned").iterdir())) == 256


def test_orders_are_worked_on_one_at_a_time_by_whichever_way_they_come(
    worker_of, order_of, recipe_of, home, monkeypatch
):
    worker, order = worker_of(), order_of(recipe_of())
    inside, most = [], []

    def answer(order):
        inside.append(order)
        most.append(len(inside))
        time.sleep(0.05)
        inside.pop()
        return order

    monkeypatch.setattr(worker, "_handled", answer)
    threads = [threading.Thread(target=worker.handle, args=(order,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert most == [1, 1, 1]

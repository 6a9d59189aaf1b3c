"""The queue's order and owners' signed decisions, on both databases."""

import pytest

from client.decisions import APPROVED, REFUSED, Decisions
from client.keys import init_key
from coordinator.storage.actions import Actor
from coordinator.storage.decisions import ForeignDecisionError
from motet.audit.decisions import to_text
from motet.errors import RunNotFoundError, WrongStateError
from motet.recipe import parse_recipe, recipe_sha256

RECIPE = parse_recipe(
    "name: stored\nbase_model: {tiny: tiny-bert}\ntask: {kind: sequence-classification, num_labels: 2}\n"
    "data: {path: none.jsonl}\nadapter: {lora_rank: 2}\nmethod: {name: flora}\n"
)
SHA256 = recipe_sha256(RECIPE)
BOSS = Actor(label="operator/boss", serial="ab", fingerprint="c" * 64)


@pytest.fixture
def store(place):
    made = place.open()
    yield made
    made.close()


@pytest.fixture
def decide(tmp_path, store):
    """A registered owner's signed decision, as it travels."""
    store.register_client("a", init_key(tmp_path / "a").read_bytes())

    def make(decision=APPROVED, at_ms=1):
        made = Decisions(tmp_path / "a").decide(
            client_id="a", recipe_sha256=SHA256, decision=decision, policy_sha256="", at_ms=at_ms
        )
        return to_text(made)

    return make


def test_runs_at_work_come_first_then_priority_then_age(store):
    for run_id, priority in (("r-1", 0), ("r-2", 5), ("r-3", -1), ("r-4", 5), ("r-5", 0)):
        store.submit_run(RECIPE, run_id=run_id, priority=priority)
    store.start_run("r-3")
    assert [r.run_id for r in store.open_runs()] == ["r-3", "r-2", "r-4", "r-1", "r-5"]
    assert store.next_run().run_id == "r-3"
    for run_id in ("r-3", "r-2"):
        store.end_run(run_id, "CANCELLED", "")
    assert [r.run_id for r in store.open_runs()] == ["r-4", "r-1", "r-5"]


def test_a_run_keeps_the_priority_that_it_was_submitted_with(store):
    store.submit_run(RECIPE, run_id="r-1", priority=5)
    store.submit_run(RECIPE, run_id="r-1", priority=9)
    assert store.get_run("r-1").priority == 5
    assert store.submit_run(RECIPE) != "r-1"
    assert {r.priority for r in store.list_runs()} == {5, 0}


def test_a_priority_changes_while_a_run_waits_or_is_at_work_and_no_more_when_it_has_ended(store):
    for run_id in ("r-1", "r-2", "r-3"):
        store.submit_run(RECIPE, run_id=run_id, state="HELD" if run_id == "r-3" else "QUEUED")
    store.set_priority("r-2", 5, BOSS)
    store.set_priority("r-2", 5, BOSS)  # changes nothing, and is no second action
    assert [r.run_id for r in store.open_runs()] == ["r-2", "r-1"]
    store.set_priority("r-3", 7, BOSS)
    store.release_run("r-3")
    assert [r.run_id for r in store.open_runs()] == ["r-3", "r-2", "r-1"]
    store.start_run("r-2")
    store.set_priority("r-2", -3, BOSS)
    told = [(a.action, a.made_by, a.fingerprint, a.detail) for a in store.actions.of("r-2")]
    assert told == [
        ("priority", "operator/boss", "c" * 64, "from 0 to 5"),
        ("priority", "operator/boss", "c" * 64, "from 5 to -3"),
    ]
    store.end_run("r-2", "CANCELLED", "")
    with pytest.raises(WrongStateError, match="r-2 is CANCELLED"):
        store.set_priority("r-2", 1, BOSS)
    assert (store.get_run("r-2").priority, len(store.actions.of("r-2"))) == (-3, 2)
    with pytest.raises(RunNotFoundError):
        store.set_priority("r-none", 1, BOSS)


def test_a_priority_and_who_changed_it_are_there_together_or_not_at_all(store, monkeypatch):
    store.submit_run(RECIPE, run_id="r-1")

    def lost(*_arguments, **_options):
        raise RuntimeError("the process dies here")

    with monkeypatch.context() as patch:
        patch.setattr("coordinator.storage.asking.remember_action", lost)
        with pytest.raises(RuntimeError):
            store.set_priority("r-1", 5, BOSS)
    assert store.get_run("r-1").priority == 0
    store.set_priority("r-1", 5, BOSS)  # positive control
    assert (store.get_run("r-1").priority, len(store.actions.of("r-1"))) == (5, 1)


def test_the_same_decision_twice_is_one_and_the_newest_counts(store, decide):
    first = decide()
    for _ in range(2):
        store.decisions.take(first, client_id="a", recipe_sha256=SHA256)
    assert [d.decision for d in store.decisions.all()] == [APPROVED]
    store.decisions.take(decide(REFUSED, at_ms=2), client_id="a", recipe_sha256=SHA256)
    store.decisions.take(first, client_id="a", recipe_sha256=SHA256)  # it comes again, late
    assert store.decisions.standing(SHA256)["a"].decision == REFUSED
    assert store.decisions.standing("0" * 64) == {}


def test_a_decision_outlives_a_restart_and_is_in_the_signed_file(place, decide, store):
    store.decisions.take(decide(), client_id="a", recipe_sha256=SHA256)
    store.ledger.publish()
    again = place.open()
    try:
        assert [d.client_id for d in again.decisions.all()] == ["a"]
        again.ledger.reconcile()
        assert any(e.body.kind == "decision" for e in again.ledger.file.entries())
    finally:
        again.close()


@pytest.mark.parametrize(
    ("client_id", "sha256", "change"),
    [
        ("b", SHA256, ("", "")),
        ("a", "0" * 64, ("", "")),
        ("a", SHA256, ('"approved"', '"refused"')),
        ("a", SHA256, ("{", "[")),
    ],
    ids=["another client", "another recipe", "altered", "no decision"],
)
def test_a_decision_that_is_not_the_clients_own_is_not_written(store, decide, client_id, sha256, change):
    text = decide().replace(*change)
    entries = len(store.ledger.leaves())
    with pytest.raises(ForeignDecisionError):
        store.decisions.take(text, client_id=client_id, recipe_sha256=sha256)
    assert len(store.ledger.leaves()) == entries
    assert store.decisions.all() == []

"""What the control API tells of a run that waits."""

import pytest

from client.decisions import APPROVED, Decisions
from client.keys import init_key
from coordinator.rpc.records import run_record
from coordinator.storage.leases import Candidate
from coordinator.storage.store import Store
from motet.audit.decisions import to_text
from motet.recipe import parse_recipe, recipe_sha256

RECIPE = parse_recipe(
    "name: stored\nbase_model: {tiny: tiny-bert}\ntask: {kind: sequence-classification, num_labels: 2}\n"
    "data: {path: none.jsonl}\nadapter: {lora_rank: 2}\nmethod: {name: flora}\n"
)


@pytest.fixture
def store(tmp_path):
    made = Store.open(tmp_path / "motet.db")
    yield made
    made.close()


def told(store):
    return run_record(store, store.get_run("r-1"))


def test_while_nobody_leads_a_run_waits_for_the_lead_and_then_says_what_it_waits_for(store):
    store.submit_run(RECIPE, run_id="r-1", priority=3)
    store.wait_reason("r-1", "needs 1 more client with approval: b")
    assert (told(store).reason, told(store).waiting_for) == (
        "waits for the lead: start a coordinator, or wait for the standby",
        ("waits for the lead: start a coordinator, or wait for the standby",),
    )
    assert store.leases.take(Candidate(place="p", host="h", home="/x"), 60.0)
    run = told(store)
    assert run.waiting_for == ("needs 1 more client with approval: b",)
    assert (run.reason, run.priority) == ("needs 1 more client with approval: b", 3)


def test_an_ended_run_waits_for_nothing(store):
    store.submit_run(RECIPE, run_id="r-1")
    store.end_run("r-1", "FAILED", "too few")
    assert (told(store).reason, told(store).waiting_for) == ("too few", ())


def test_who_approved_is_told(store, tmp_path):
    store.submit_run(RECIPE, run_id="r-1")
    sha256 = recipe_sha256(RECIPE)
    store.register_client("a", init_key(tmp_path / "a").read_bytes())
    made = Decisions(tmp_path / "a").decide(
        client_id="a", recipe_sha256=sha256, decision=APPROVED, policy_sha256="", at_ms=1
    )
    assert told(store).approved_by == ()
    store.decisions.take(to_text(made), client_id="a", recipe_sha256=sha256)
    assert told(store).approved_by == ("a",)

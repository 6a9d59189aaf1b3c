"""Owners who approve by hash, two runs at once, and a cancel that clients obey: processes on loopback."""

import json
import time

import pytest

from client.ledger import ClientLedger
from motet.recipe import load_recipe, recipe_sha256

pytestmark = pytest.mark.integration


@pytest.fixture
def own(deploy, tmp_path):
    """Two clients, of which b approves by hand; two runs at once."""
    made = deploy("a", "b")
    made.options = ["--max-runs", "2"]
    made.policies["b"] = tmp_path / "by-hand.toml"
    made.policies["b"].write_text('approval = "manual"\n')
    made.start()
    return made


def test_a_run_waits_for_an_owners_approval_says_so_and_goes_on_when_it_is_given(own, recipe_file):
    path = recipe_file("study", rounds=2, clients="[a, b]", minimum=2)
    sha256 = recipe_sha256(load_recipe(path))
    run_id = own.submit(path)
    waits = "needs 1 more client with approval: b"
    own.wait(lambda: own.store.get_run(run_id).reason == waits, waits, 60)
    assert own.store.rounds(run_id) == []
    home = own.client_home("b")
    asked = json.loads(own.motet("client", "status", "--home", home, "--json").stdout)
    assert [(r["recipe_sha256"], r["answer"]) for r in asked["recipes"]] == [(sha256, "pending")]
    approved = own.motet("client", "approve", "--run", run_id, "--home", home, "--yes")
    assert approved.returncode == 0, approved.stderr
    assert "2 rounds of 5 steps" in approved.stdout
    row = own.wait_for_end(run_id)
    assert (row.state, row.reason) == ("FINISHED", ""), own.tails()
    standing = own.store.decisions.standing(sha256)
    assert {c: (d.decision, d.made_by) for c, d in standing.items()} == {"b": ("approved", "owner")}
    assert [r["kind"] for r in ClientLedger(home / "ledger.jsonl").rows()] == ["decision"]

    # the same federation: a long run of a, another that wants a as well, and a cancel
    endless = own.submit(
        recipe_file("long", rounds=1, local_steps=100_000, clients="[a]", minimum=1, deadline_s=600)
    )
    own.wait_for_order(endless, 0, "a")
    own.wait(lambda: (own.client_home("a") / "in-flight.pb").exists(), "the order at the client", 60)
    second = own.submit(recipe_file("second", rounds=1, clients="[a]", minimum=1))
    busy = f"waits for a: busy with run {endless}"
    own.wait(lambda: own.store.get_run(second).reason == busy, busy, 60)
    assert {r.state for r in own.store.open_runs()} == {"RUNNING"}
    time.sleep(1)  # the client trains
    cancelled = own.motet("run", "cancel", endless, "--home", own.place)
    assert cancelled.returncode == 0, cancelled.stderr
    since = time.monotonic()
    own.wait(lambda: own.store.get_run(endless).state == "CANCELLED", "the end of the long run", 30)
    own.wait(lambda: "refused: cancelled" in own.log("a"), "the client to stop training", 30)
    assert time.monotonic() - since < 30
    (row,) = own.store.contributions(endless)
    assert (row.state, row.error_code) == ("FAILED", "cancelled")
    assert own.wait_for_end(second).state == "FINISHED", own.tails()

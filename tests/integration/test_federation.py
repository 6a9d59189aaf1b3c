"""A federation of three clients that stays up from test to test: the same answers as embedded, through crashes."""

import json

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("federation")]


def states(rows):
    return {r.client_id: r.state for r in rows}


def test_embedded_and_deployed_give_the_same_adapter(federation, recipe_file, embedded):
    submitted = federation.motet("run", "submit", recipe_file(), "--home", federation.place, "--json")
    assert submitted.returncode == 0, submitted.stderr
    run_id = json.loads(submitted.stdout)["run_id"]
    watched = federation.motet("run", "watch", run_id, "--home", federation.place, "--timeout", 50)
    assert watched.returncode == 0, watched.stdout + watched.stderr + federation.tails()
    row = federation.store.get_run(run_id)
    assert row.state == "FINISHED"
    assert row.adapter_sha256 in watched.stdout
    assert row.adapter_sha256 == embedded(recipe_file())
    assert row.adapter_sha256 != embedded(recipe_file("another", seed=4))  # the hash tells runs apart
    assert [states(federation.store.contributions(run_id, k)) for k in range(3)] == [
        dict.fromkeys("abc", "RECEIVED")
    ] * 3


def test_the_coordinator_killed_in_the_middle_of_a_round_and_started_again_ends_with_the_same_adapter(
    federation, recipe_file, embedded
):
    run_id = federation.submit(recipe_file())
    federation.wait_for_order(run_id, 1)
    children = federation.kill("coordinator")
    assert len(children) == 2  # SuperLink and gateway
    rounds = federation.store.rounds(run_id)
    assert [r.state for r in rounds] == ["CLOSED", "PLANNED"]  # it was in the middle of a round
    from_before = federation.store.get_run(run_id)
    federation.wait(
        lambda: all(not c.is_running() or c.status() == "zombie" for c in children), "its children end", 5
    )
    federation.start_coordinator()
    row = federation.wait_for_end(run_id)
    assert (row.state, row.adapter_sha256) == ("FINISHED", embedded(recipe_file())), federation.tails()
    after = federation.store.rounds(run_id)
    assert [(r.round_index, r.attempt, r.state) for r in after] == [(k, 0, "CLOSED") for k in range(3)]
    assert from_before.created_at == row.created_at
    assert after[1].started_at == rounds[1].started_at  # the same round went on

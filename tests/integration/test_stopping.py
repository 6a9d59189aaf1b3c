"""Deployments of their own: stopped in the middle of work, and with messages kept in memory only."""

import time

import pytest

from client.service import STOP_GRACE_S

pytestmark = pytest.mark.integration


def test_stopping_by_sigterm_leaves_no_process(deploy, recipe_file):
    own = deploy("a")
    own.start()
    run_id = own.submit(
        recipe_file("long", rounds=2, local_steps=100_000, deadline_s=600, clients="[a]", minimum=1)
    )
    own.wait_for_order(run_id, 0)
    own.wait(lambda: (own.client_home("a") / "in-flight.pb").exists(), "the order at the client", 60)
    time.sleep(2)  # the client trains
    everyone = own.processes()
    assert len(everyone) == 4  # coordinator, SuperLink, gateway, client
    asked = time.monotonic()
    assert own.terminate("coordinator") == [0]  # also while a client is connected and does not look
    between = time.monotonic()
    assert between - asked < 40
    assert len(own.processes()) == 1
    assert own.terminate("a") == [0]
    assert (
        STOP_GRACE_S - 1 < time.monotonic() - between < STOP_GRACE_S + 40
    )  # the order at hand gets its grace
    assert own.processes() == []
    for name in ("a", "coordinator"):
        assert "Traceback" not in own.log(name)
        assert "error:" not in own.log(name)
    assert own.store.get_run(run_id).state == "RUNNING"  # the next start goes on with it
    assert [r.state for r in own.store.rounds(run_id)] == ["PLANNED"]
    assert (own.client_home("a") / "in-flight.pb").exists()  # and the client with its order
    assert not (own.client_home("a") / "replies").exists()  # it was stopped within training


@pytest.mark.parametrize(
    ("child_name", "log"),
    [
        pytest.param("flower-superlink", "superlink.log", marks=pytest.mark.slow),
        ("coordinator.engine.gateway", "gateway.log"),
    ],
)
def test_a_superlink_or_gateway_that_dies_ends_the_coordinator_in_words_and_the_next_start_goes_on(
    deploy, recipe_file, child_name, log
):
    own = deploy("a")
    own.start()
    run_id = own.submit(recipe_file("on", rounds=2, clients="[a]", minimum=1))
    own.wait_for_order(run_id, 0)
    children = own.children("coordinator")
    next(process for process, line in children.items() if child_name in line).kill()
    asked = time.monotonic()
    assert own.running["coordinator"].wait(20) == 7
    assert time.monotonic() - asked < 20
    assert "ended by itself" in own.log("coordinator")
    assert log in own.log("coordinator")
    assert len(own.processes()) == 1  # the client waits
    own.start_coordinator()
    assert own.wait_for_end(run_id).state == "FINISHED"


@pytest.mark.slow
def test_a_federation_with_messages_in_memory_goes_on_after_a_crash(deploy, recipe_file):
    own = deploy("a")
    own.options = ["--link-state", "memory"]
    own.start()
    client = own.running["a"].pid
    path = recipe_file("memory", rounds=3, clients="[a]", minimum=1)
    whole = own.finish(path).adapter_sha256
    run_id = own.submit(path)
    own.wait_for_order(run_id, 1)
    own.kill("coordinator")
    own.start_coordinator()
    row = own.wait_for_end(run_id)
    assert (row.state, row.adapter_sha256) == ("FINISHED", whole), own.tails()
    assert [(r.round_index, r.attempt) for r in own.store.rounds(run_id)] == [(0, 0), (1, 0), (2, 0)]
    assert own.running["a"].pid == client

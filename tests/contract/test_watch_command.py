"""``motet watch`` against a served coordinator: on a terminal, in a pipe, over a restart, left by Ctrl-C."""

import json
import os
import time

import forked_motet
import pytest
from control_house import House, house
from one_by_one import order_sent, reply_received
from terminal import CODES, COLOUR, terminal

from motet.recipe import parse_recipe
from privacy.events import PoissonGaussianEvent

RECIPE = """
name: watched
base_model: {tiny: tiny-bert}
task: {kind: sequence-classification, num_labels: 2}
data: {path: none.jsonl}
adapter: {lora_rank: 2}
method: {name: flora}
training: {rounds: 2, local_steps: 10}
privacy: {noise_multiplier: 1.0, sampling_rate: 0.1, epsilon_limit: 8}
cohort: {clients: [a, b], minimum: 1}
"""
EVENT = PoissonGaussianEvent(noise_multiplier=1.0, sampling_rate=0.1, num_steps=10)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with house(tmp_path_factory.mktemp("house")) as made:
        yield made


@pytest.fixture(scope="module")
def at(served):
    return ["--coordinator", served.address, "--identity", str(served.identity("operator"))]


def begin(store, run_id, round_index=0):
    """A round that waits for b; a has answered."""
    keys = (run_id, round_index, 0)
    store.start_run(run_id)
    store.plan_round(*keys, start_sha256="0" * 64, deadline_s=50, ranks={"a": 2, "b": 2}, event=EVENT)
    for client in "ab":
        sent = {"message_id": f"m-{run_id}-{round_index}-{client}", "bytes_down": 1200}
        order_sent(store, *keys, client, **sent)
    reply_received(store, *keys, "a", payload_sha256="1" * 64, bytes_up=3400, weight=1.0, num_examples=0)


def close(store, run_id, round_index=0):
    keys = (run_id, round_index, 0)
    store.reply_failed(*keys, "b", code="policy_refused", message="clause hours: comes at another time")
    store.close_round(*keys, adapter_sha256="2" * 64, num_bytes=5, relative_error=0.25)


def submitted(served, run_id):
    served.store.submit_run(parse_recipe(RECIPE), run_id=run_id)
    return run_id


def plain():
    return {k: v for k, v in os.environ.items() if k not in {"NO_COLOR", "FORCE_COLOR"}}


def test_on_a_terminal_a_live_view_in_colour_tells_round_clients_budget_and_the_end(served, at):
    run_id = submitted(served, "r-live")
    begin(served.store, run_id)
    with terminal(["watch", run_id, *at]) as shown:
        assert shown.until(lambda s: "round 1 of 2" in s.text and "training" in s.text), shown.text
        assert shown.until(lambda s: "of 8" in s.text), shown.text  # the budget, read apart
        shown.resize(60, 12)
        close(served.store, run_id)
        begin(served.store, run_id, 1)
        assert shown.until(lambda s: "round 2 of 2" in s.text and " left" in s.text), shown.text
        close(served.store, run_id, 1)
        served.store.end_run(run_id, "FINISHED", adapter_sha256="2" * 64)
        assert shown.wait() == 0
        assert COLOUR.search(shown.raw)
        assert "\x1b[?1049l" in shown.raw  # the terminal is given back
        last = CODES.sub("", shown.raw.rpartition("\x1b[?1049l")[2])  # what stays, whole whatever its width
        assert "FINISHED" in last
        assert (
            "b: clause hours: comes at another time" in last
        )  # in a line of its own: 60 columns leave a column none
        assert f"next: motet export {run_id}" in last


@pytest.mark.parametrize("variable", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_a_terminal_that_wants_no_colour_gets_none(served, at, variable):
    run_id = submitted(served, f"r-{next(iter(variable)).lower().replace('_', '-')}")
    begin(served.store, run_id)
    close(served.store, run_id)
    served.store.end_run(run_id, "FAILED", "too few")
    with terminal(["watch", run_id, *at], variable) as shown:
        assert shown.wait() == 9
        assert "too few" in shown.text
        assert not COLOUR.search(shown.raw)
        if "TERM" in variable:
            assert "\x1b[" not in shown.raw


def test_ctrl_c_leaves_the_run_alone_and_says_how_to_come_back(served, at):
    run_id = submitted(served, "r-left")
    begin(served.store, run_id)
    with terminal(["watch", run_id, *at]) as shown:
        assert shown.until(lambda s: "round 1 of 2" in s.text), shown.text
        shown.interrupt()
        assert shown.wait() == 130
        assert f"{run_id} is left alone; come back with: motet watch {run_id} --coordinator" in " ".join(
            shown.text.split()
        )
    assert served.store.get_run(run_id).state == "RUNNING"
    served.store.end_run(run_id, "CANCELLED", "done")


def test_in_a_pipe_it_is_lines_or_objects_without_one_control_code(served, at):
    run_id = submitted(served, "r-piped")
    begin(served.store, run_id)
    close(served.store, run_id)
    served.store.end_run(run_id, "CANCELLED", "cancelled on request")
    done = forked_motet.run(["watch", run_id, *at], plain(), forked_motet.ROOT)
    assert done.returncode == 9
    assert "\x1b" not in done.stdout + done.stderr
    assert "CANCELLED: 1 of 2 rounds closed; cancelled on request" in done.stdout
    assert "round 0: b refused: clause hours: comes at another time" in done.stdout
    told = forked_motet.run(["watch", run_id, *at, "--json"], plain(), forked_motet.ROOT)
    objects = [json.loads(line) for line in told.stdout.splitlines()]
    assert told.returncode == 9
    assert {o["event"] for o in objects} == {"run", "round"}
    assert objects[-1]["state"] == "CANCELLED"
    nothing = forked_motet.run(["watch", "r-none", *at], plain(), forked_motet.ROOT)
    assert nothing.returncode == 2
    assert "r-none" in nothing.stderr


def test_all_runs_are_watched_until_none_waits_or_runs(tmp_path):
    with house(tmp_path) as served:
        at = ["--coordinator", served.address, "--identity", str(served.identity("operator"))]
        empty = forked_motet.run(["watch", *at], plain(), forked_motet.ROOT)
        assert empty.returncode == 0
        assert "no run waits or runs" in empty.stdout
        for run_id in ("r-1", "r-2"):
            submitted(served, run_id)
        begin(served.store, "r-1")
        with terminal(["watch", *at]) as shown:
            assert shown.until(lambda s: "r-1" in s.text and "r-2" in s.text and "QUEUED" in s.text), (
                shown.text
            )
            close(served.store, "r-1")
            for run_id in ("r-1", "r-2"):
                served.store.start_run(run_id)
                served.store.end_run(run_id, "FINISHED", adapter_sha256="2" * 64)
            assert shown.wait() == 0
            assert "FINISHED" in shown.text[-400:]


def test_a_coordinator_that_restarts_is_waited_for_and_nothing_is_told_twice(tmp_path):
    first = House(tmp_path)
    submitted(first, "r-1")
    begin(first.store, "r-1")
    port = int(first.address.rsplit(":", 1)[1])
    at = ["--coordinator", first.address, "--identity", str(first.identity("operator"))]
    out = tmp_path / "out.txt"
    command = forked_motet.Command(["watch", "r-1", *at], plain(), forked_motet.ROOT, out)
    try:
        assert _until(lambda: out.exists() and "a received" in out.read_text()), out.read_text()
        first.close()
        assert _until(lambda: "does not answer" in out.read_text()), out.read_text()
        second = _again(tmp_path, port)
        try:
            close(second.store, "r-1")
            second.store.end_run("r-1", "FINISHED", adapter_sha256="2" * 64)
            assert command.wait(60) == 0
        finally:
            second.close()
    finally:
        if command.poll() is None:
            command.kill()
            command.wait(10)
    assert out.read_text().count("a received") == 1
    assert "b refused" in out.read_text()


def _again(home, port):
    """The same home at the same port."""
    from coordinator.rpc import server

    listen = server.ControlServer.listen
    server.ControlServer.listen = lambda self, _where, *rest: listen(self, f"127.0.0.1:{port}", *rest)
    try:
        return House(home)
    finally:
        server.ControlServer.listen = listen


def _until(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True

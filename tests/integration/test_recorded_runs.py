"""Trackers beside a run: each round once over crashes, nothing lost, no run that waits for them or falls with them."""

import json
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from control_house import house
from one_by_one import order_sent, reply_received

from coordinator.recording.recorder import DONE, Recorder
from coordinator.storage.store import Store
from motet.recipe import parse_recipe
from motet.recipe.errors import RecipeError
from motet.recipe.noise import round_event
from motet.trackers import needs
from motet.trackers.figures import RoundFigures
from motet.trackers.needs import check_trackers
from motet.trackers.to_jsonl import FILE
from motet.trackers.writer import environment, keep_to_this_machine
from privacy.accounting import epsilon_pld

ROOT = Path(__file__).resolve().parents[2]
RECIPE = """
name: tracked
base_model: {{tiny: tiny-bert}}
task: {{kind: sequence-classification, num_labels: 2}}
data: {{path: none.jsonl}}
method: {{name: flora}}
cohort: {{clients: [a, b], minimum: 1}}
training: {{rounds: 4, local_steps: 2}}
trackers: [{trackers}]
"""
PRIVATE = "privacy: {noise_multiplier: 1.0, sampling_rate: 0.1}\n"


@pytest.fixture
def store(tmp_path):
    made = Store.open(tmp_path / "motet.db", create=True)
    yield made
    made.close()


def submitted(store, trackers, *, private=False):
    return store.submit_run(parse_recipe(RECIPE.format(trackers=trackers) + PRIVATE * private), run_id="r-1")


def play(store, *rounds, event=None):
    """Closes rounds; the first of them after an attempt that came to nothing."""
    store.start_run("r-1")
    for index in rounds:
        options = {"start_sha256": "0" * 64, "deadline_s": 5, "ranks": {"a": 1, "b": 2}, "event": event}
        for attempt in (0, 1) if index == 0 else (0,):
            store.plan_round("r-1", index, attempt, **options)
            if index == 0 and attempt == 0:
                store.abort_round("r-1", 0, 0, "too few")
                continue
            for client in "ab":
                sent = {"message_id": f"m{index}{attempt}{client}", "bytes_down": 9}
                order_sent(store, "r-1", index, attempt, client, **sent)
            reply_received(
                store,
                "r-1",
                index,
                attempt,
                "a",
                payload_sha256="1" * 64,
                bytes_up=7,
                weight=1.0,
                num_examples=0,
            )
            store.close_round(
                "r-1", index, attempt, adapter_sha256=f"{index}" * 64, num_bytes=5, relative_error=0.25
            )


def finish(store):
    store.end_run("r-1", "FINISHED", adapter_sha256="3" * 64)


def lines(folder):
    return [json.loads(line) for line in (folder / "r-1" / FILE).read_text().splitlines()]


def test_each_round_is_recorded_once_over_a_stop_and_a_crash(store, tmp_path):
    submitted(store, "jsonl", private=True)
    event = round_event(parse_recipe(RECIPE.format(trackers="jsonl") + PRIVATE))
    folder = tmp_path / "trackers"
    recorder = Recorder(store, folder, look_s=0.05)

    def stopped(_run_id):
        play(store, 0, 1, event=event)
        raise RuntimeError("the service stops")

    with pytest.raises(RuntimeError):
        recorder.around(stopped)("r-1")
    assert [row["round"] for row in lines(folder)] == [0, 1]
    assert not (folder / "r-1" / DONE).exists()
    play(store, 2, event=event)  # closed, and the coordinator was killed before anybody looked
    recorder.around(lambda _: (play(store, 3, event=event), finish(store)))("r-1")
    found = lines(folder)
    assert [row["round"] for row in found] == [0, 1, 2, 3]
    assert (folder / "r-1" / DONE).exists()
    assert {"at", "seconds"} & {*found[0], *found[0]["figures"]} == set()
    charges = [row["figures"]["epsilon"] for row in found]
    assert charges[0] == pytest.approx(
        epsilon_pld([event, event], 1e-5)
    )  # the attempt that was given up counts
    assert charges == sorted(charges)


def test_what_closed_before_a_crash_at_the_end_is_recorded_at_the_next_start(store, tmp_path):
    submitted(store, "jsonl")
    folder = tmp_path / "trackers"
    (folder / "r-1").mkdir(parents=True)
    play(store, 0)
    finish(store)
    Recorder(store, folder).catch_up().join(60)
    assert [row["round"] for row in lines(folder)] == [0]
    Recorder(store, folder).catch_up().join(60)
    assert len(lines(folder)) == 1


def test_a_run_without_trackers_starts_no_thread_and_writes_nothing(store, tmp_path):
    store.submit_run(parse_recipe(RECIPE.format(trackers="")), run_id="r-1")
    seen = Recorder(store, tmp_path / "trackers").around(lambda _: [t.name for t in threading.enumerate()])(
        "r-1"
    )
    assert not [name for name in seen if name.startswith("trackers")]
    assert not (tmp_path / "trackers").exists()


def test_a_tracker_that_fails_is_told_once_and_the_run_and_the_others_go_on(store, tmp_path, caplog):
    pytest.importorskip("tensorboard", reason="pip install 'motet[trackers]'")
    submitted(store, "jsonl, tensorboard")
    folder = tmp_path / "trackers"
    (folder / "r-1").mkdir(parents=True)
    (folder / "r-1" / "tensorboard").write_text("in the way")
    with caplog.at_level(logging.WARNING):
        recorder = Recorder(store, folder, look_s=0.05)
        assert recorder.around(lambda _: (play(store, 0, 1), finish(store), "done")[-1])("r-1") == "done"
    assert [row["round"] for row in lines(folder)] == [0, 1]
    told = [r.getMessage() for r in caplog.records if "tracker" in r.getMessage()]
    assert len(told) == 1
    assert "goes on without its tracker tensorboard: FileExistsError" in told[0]


def test_recording_is_off_the_path_of_the_rounds(store, tmp_path, monkeypatch):
    """A tracker that takes seconds for a round delays no round."""
    from coordinator.recording import writing

    slow = threading.Event()
    record = writing.JsonlTracker.record
    monkeypatch.setattr(
        writing.JsonlTracker, "record", lambda self, figures: (slow.wait(30), record(self, figures))
    )
    submitted(store, "jsonl")

    def work(_run_id):
        began = time.monotonic()
        play(store, 0, 1, 2)
        slow.set()
        return time.monotonic() - began

    assert Recorder(store, tmp_path / "trackers", look_s=0.01).around(work)("r-1") < 15
    assert [row["round"] for row in lines(tmp_path / "trackers")] == [0, 1, 2]


def test_a_coordinator_that_lacks_a_library_refuses_the_run_when_it_is_submitted(tmp_path, monkeypatch):
    recipe = parse_recipe(RECIPE.format(trackers="jsonl, wandb"))
    with house(tmp_path) as served:
        operator = served.connect("operator")
        with monkeypatch.context() as patch:
            patch.setattr(needs, "_is_here", lambda _: False)
            with pytest.raises(RecipeError, match=r"trackers\.wandb: wandb is not installed"):
                operator.runs.submit(recipe)
        assert operator.runs.list() == ()
        monkeypatch.setattr(needs, "_is_here", lambda _: True)
        assert operator.runs.submit(recipe).state == "QUEUED"


def read_tensorboard(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder / "r-1/tensorboard"))
    found.Reload()
    return [(e.step, e.value) for e in found.Scalars("relative_error")], found.Tags()["scalars"]


def read_mlflow(folder):
    code = (
        "import sys; from mlflow.tracking import MlflowClient\n"
        "c = MlflowClient(tracking_uri=sys.argv[1]); r = c.search_runs(['1'])[0]\n"
        "h = c.get_metric_history(r.info.run_id, 'relative_error')\n"
        "print([[(m.step, m.value) for m in h], list(r.data.metrics), r.info.status, r.data.params])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, f"sqlite:///{folder / 'r-1/mlflow.db'}"],
        cwd=folder, env=environment(), capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    history, names, status, params = eval(done.stdout)
    assert (status, params) == ("FINISHED", {"recipe": "tracked"})
    return history, names


WANDB_ROWS = """
import json, pathlib, struct, sys
from wandb.proto import wandb_internal_pb2 as pb
rows = []
for path in sorted(pathlib.Path(sys.argv[1]).glob("offline-run-*/*.wandb")):
    data, at = path.read_bytes(), 7  # a head, then records: checksum, length, kind; all within the first block
    while at + 7 <= len(data):
        _, length, _ = struct.unpack_from("<IHB", data, at)
        record = pb.Record.FromString(data[at + 7 : at + 7 + length])
        at += 7 + length
        if record.HasField("history"):
            items = record.history.item
            rows.append({(i.key or "/".join(i.nested_key)): json.loads(i.value_json) for i in items})
print(json.dumps(rows))
"""


def read_wandb(folder):
    done = subprocess.run(
        [sys.executable, "-c", WANDB_ROWS, str(folder / "r-1/wandb")],
        cwd=folder, env=environment(), capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    return [(row["round"], row["relative_error"]) for row in rows], [*rows[0]]


READ = {"tensorboard": read_tensorboard, "mlflow": read_mlflow, "wandb": read_wandb}


@pytest.mark.parametrize(
    "name",
    [
        "tensorboard",
        pytest.param("mlflow", marks=pytest.mark.slow),
        pytest.param("wandb", marks=pytest.mark.slow),
    ],
)
def test_real_libraries_read_back_each_round_once_after_a_restart(store, tmp_path, name, monkeypatch):
    pytest.importorskip(name, reason="pip install 'motet[trackers]'")
    monkeypatch.setenv("WANDB_API_KEY", "a-secret-of-the-operator")
    monkeypatch.setenv("MOTET_DATABASE_PASSWORD", "another-secret")
    submitted(store, name)
    folder = tmp_path / "trackers"
    recorder = Recorder(store, folder, look_s=0.05)
    recorder.around(lambda _: play(store, 0, 1))("r-1")
    recorder.around(lambda _: (play(store, 2), finish(store)))("r-1")
    history, names = READ[name](folder)
    assert history == [(0, 0.25), (1, 0.25), (2, 0.25)]
    assert "client/a/bytes_up" in names
    written = b"".join(p.read_bytes() for p in (folder / "r-1").rglob("*") if p.is_file())
    for word in (
        b"a-secret-of-the-operator",
        b"another-secret",
        os.uname().nodename.encode() + b".",
        str(ROOT).encode(),
    ):
        assert word not in written, word


@pytest.mark.slow
def test_no_tracker_needs_or_tries_the_network(store, tmp_path):
    """In a network of its own, without a way out, all three record; the same works with no network at all."""
    for name in needs.LIBRARIES:
        pytest.importorskip(name, reason="pip install 'motet[trackers]'")
    unshare = shutil.which("unshare")
    if not unshare or subprocess.run([unshare, "-rn", "true"], capture_output=True).returncode:
        pytest.skip("this system gives no network namespaces")
    begin = {
        "folder": str(tmp_path / "t"), "run_id": "r-1", "name": "x",
        "trackers": dict.fromkeys(needs.LIBRARIES, "motet"),
    }  # fmt: skip
    told = [
        begin,
        {
            "round": json.loads(
                RoundFigures(run_id="r-1", round_index=0, at=1.0, figures={"a": 1.0}).to_json()
            )
        },
        {"end": "FINISHED"},
    ]
    done = subprocess.run(
        [unshare, "-rn", sys.executable, "-m", "motet.trackers.writer"],
        input="".join(json.dumps(t) + "\n" for t in told),
        env=environment(), capture_output=True, text=True, timeout=180,
    )  # fmt: skip
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [a["failed"] for a in answers] == [{}, {}, {}], done.stderr[-2000:]


def test_the_writer_reaches_no_other_machine(tmp_path):
    code = (
        "import socket\nfrom motet.trackers.writer import keep_to_this_machine\nkeep_to_this_machine()\n"
        "for call in (lambda: socket.getaddrinfo('example.org', 443),\n"
        "             lambda: socket.create_connection(('192.0.2.1', 443), timeout=2)):\n"
        "    try: call(); print('reached')\n"
        "    except PermissionError as e: print(e)\n"
        "server = socket.create_server(('127.0.0.1', 0))\n"
        "socket.create_connection(server.getsockname()).close(); print('here')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=60
    )
    assert done.stdout.splitlines() == ["trackers use no network"] * 2 + ["here"], done.stderr
    assert callable(keep_to_this_machine)


def test_a_library_that_is_missing_is_told_before_the_run_with_what_to_install(monkeypatch):
    recipe = parse_recipe(RECIPE.format(trackers="jsonl, wandb"))
    monkeypatch.setattr(needs, "_is_here", lambda _: False)
    with pytest.raises(RecipeError) as refused:
        check_trackers(recipe)
    assert "trackers.wandb: wandb is not installed" in refused.value.message
    assert "pip install 'motet[trackers]'" in refused.value.message
    check_trackers(parse_recipe(RECIPE.format(trackers="jsonl")))

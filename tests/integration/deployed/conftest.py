"""A real federation on loopback: coordinator, SuperLink, gateway and one process a client, as a person starts them."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from coordinator.storage.store import ENDED, Store

ROOT = Path(__file__).resolve().parents[3]
MOTET = [sys.executable, "-m", "motet.cli.main"]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "100"}
WORDS = [["good", "nice", "fine"], ["bad", "ugly", "poor"]]


def wait_until(is_true, what, timeout_s=60.0, poll_s=0.02):
    """The first true value of ``is_true()``; fails loudly after ``timeout_s``."""
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        if found := is_true():
            return found
        time.sleep(poll_s)
    raise AssertionError(f"in {timeout_s:.0f} s not: {what}")


def free_address():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def write_examples(path, count, seed):
    rng = random.Random(seed)
    rows = []
    for i in range(count):
        label = rng.randrange(2)
        text = " ".join(rng.choice(WORDS[label]) for _ in range(4)) + f" {path.stem}{i}"
        rows.append(json.dumps({"text": text, "label": label}))
    path.write_text("\n".join(rows) + "\n")


class Deployment:
    """Homes under ``folder``; processes by name; everything it starts, it ends."""

    def __init__(self, folder):
        self.folder, self.home, self.data = folder, folder / "home", folder / "data"
        self.address = free_address()
        self.processes, self.every = {}, {}
        self.data.mkdir(parents=True)
        for seed, name in enumerate(("a", "b", "c", "test")):
            write_examples(self.data / f"{name}.jsonl", 60, seed)

    @property
    def join_file(self):
        return self.home / "join.json"

    def recipe_text(self, *, rounds=3, steps=5, deadline_s=25, seed=3, extra="", minimum=2):
        return (
            "name: deployed\nbase_model: {tiny: tiny-bert}\n"
            "task: {kind: sequence-classification, num_labels: 2, max_length: 24}\n"
            f"data: {{path: {self.data}}}\n"
            "adapter: {lora_rank: {a: 1, b: 4, c: 7}, targets: [query, value]}\nmethod: {name: flora}\n"
            f"cohort: {{clients: [a, b, c], minimum: {minimum}, deadline_s: {deadline_s}}}\n"
            f"training: {{rounds: {rounds}, local_steps: {steps}, expected_batch_size: 16, "
            f"learning_rate: 5e-3, head_learning_rate: 2e-2}}\nseed: {seed}\n{extra}"
        )

    def motet(self, *arguments, check=True):
        done = subprocess.run(
            [*MOTET, *map(str, arguments)],
            env=ENVIRONMENT,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert not check or done.returncode == 0, done.stderr[-2000:]
        return done

    def start(self, name, *arguments):
        """Start a command in the background; its output goes to ``<name>.log``."""
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [*MOTET, *map(str, arguments)], env=ENVIRONMENT, cwd=self.folder, stdout=log, stderr=log
            )
        self.processes[name] = process
        self._remember(process.pid)
        return process

    def _remember(self, pid):
        for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
            self.every[process.pid] = process.create_time()

    def log(self, name):
        return (self.folder / f"{name}.log").read_text()

    def start_coordinator(self, *options):
        self.join_file.unlink(missing_ok=True)
        process = self.start(
            "coordinator", "coordinator", "start", "--home", self.home, "--listen", self.address, *options
        )
        wait_until(lambda: self.join_file.exists() or process.poll() is not None, "coordinator ready", 60)
        assert process.poll() is None, self.log("coordinator")[-2000:]
        self._remember(process.pid)
        return process

    def register(self, *names):
        for name in names:
            self.motet("client", "init", "--home", self.folder / name)
            key = self.folder / name / "client.pub"
            self.motet("coordinator", "register", name, "--public-key", key, "--home", self.home)

    def start_client(self, name, *, join=None, home=None):
        return self.start(
            name,
            *("client", "start", "--name", name, "--data", self.data / f"{name}.jsonl"),
            *("--join", join or self.join_file, "--home", home or self.folder / name),
        )

    def submit(self, text):
        path = self.folder / "recipe.yaml"
        path.write_text(text)
        done = self.motet("run", "submit", path, "--home", self.home, "--json")
        return json.loads(done.stdout)["run_id"]

    def store(self):
        return Store.open(self.home / "motet.db")

    def wait_for(self, run_id, is_true, what, timeout_s=60.0):
        store = self.store()
        try:
            return wait_until(lambda: is_true(store), f"{what}; {self.log('coordinator')[-800:]}", timeout_s)
        finally:
            store.close()

    def wait_for_end(self, run_id, timeout_s=90.0):
        """The run's row once it has ended."""

        def ended(store):
            row = store.get_run(run_id)
            return row if row.state in ENDED else None

        return self.wait_for(run_id, ended, f"{run_id} ended", timeout_s)

    def kill(self, name):
        """kill -9, and nothing else."""
        process = self.processes.pop(name)
        self._remember(process.pid)
        process.kill()
        process.wait()

    def alive(self):
        """Processes that were started here, or their children, and still run."""
        for process in self.processes.values():
            if process.poll() is None:
                self._remember(process.pid)
        found = []
        for pid, created in self.every.items():
            try:
                process = psutil.Process(pid)
                if process.create_time() == created and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.NoSuchProcess:
                continue
        return found

    def stop(self):
        """SIGTERM to all, clients first; then nothing may be left."""
        self.alive()
        for name in sorted(self.processes, key=lambda n: n == "coordinator"):
            self.processes[name].send_signal(signal.SIGTERM)
        for process in self.processes.values():
            process.wait(30)
        left = psutil.wait_procs(self.alive(), timeout=10)[1]
        told = [(p.pid, p.cmdline()) for p in left if p.is_running()]
        for process in left:
            process.kill()
        assert not told, f"left behind: {told}"


@pytest.fixture
def deployment(tmp_path):
    made = Deployment(tmp_path / "deployment")
    yield made
    made.stop()


@pytest.fixture
def federation(deployment):
    """A coordinator and three clients, up."""
    deployment.register("a", "b", "c")
    deployment.start_coordinator()
    for name in ("a", "b", "c"):
        deployment.start_client(name)
    return deployment

"""A deployed federation on loopback: the commands that people type, one process each, every one ended and counted."""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import forked_motet
import psutil
import pytest
from crash_matrix import Site, new_home, whole_run
from databases import Place

from client.keys import init_key
from coordinator.registration import register
from coordinator.rounds.table import ENDED
from coordinator.storage.where import open_store, remember
from motet.ports import free_port
from motet.recipe import load_recipe
from motet.simulate import Shards, run_engine

ROOT = Path(__file__).resolve().parents[2]
MARK = "MOTET_TEST_DEPLOYMENT"  # children inherit it: every process of a deployment is found, whoever its parent is
QUIET = (
    "FLWR_TELEMETRY_ENABLED",
    "FLWR_DISABLE_UPDATE_CHECK",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION",
    "DO_NOT_TRACK",
)
RANKS = {"a": 1, "b": 4, "c": 7}
START_S, END_S = 120.0, 30.0
_OPEN_HERE = set()  # databases that this process holds open


def _refuse_to_read_an_open_database(event, given):
    """POSIX drops all locks of a process on a file once it closes the file anywhere.

    A coordinator that ends would then believe that nobody else has the database, and remove the log that our own
    connection writes to: what we submit from then on, it never sees.
    """
    if event == "open" and isinstance(given[0], (str, os.PathLike)):
        path = os.fspath(given[0])
        if isinstance(path, str) and path.removesuffix("-wal").removesuffix("-shm") in _OPEN_HERE:
            raise AssertionError(f"{path} is open in this process; read it in another one")


sys.addaudithook(_refuse_to_read_an_open_database)


def is_gone(process):
    """Ended; a zombie that nobody has reaped yet runs no more."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


class Deployment:
    """Coordinator and clients as processes, their homes and logs in one folder.

    Args:
      home: of everything.
      data: client id -> file of examples; each gets a key, and is registered.
      database: URL of PostgreSQL; by default a file in the home.
    """

    def __init__(self, home, data, database=None):
        self.home, self.data = home, dict(data)
        self.place = home / "coordinator"
        self.join = self.place / "join.json"
        self.address = f"127.0.0.1:{free_port()}"
        self.logs = home / "logs"
        for folder in (self.logs, home / "tmp"):
            folder.mkdir(parents=True)
        self.running = {}
        self.options = []  # further ones of `motet coordinator start`
        self.policies = {}  # client -> policy file
        if database is not None:
            remember(self.place, database)
        self.store = open_store(self.place)
        _OPEN_HERE.add(str(self.place / "motet.db"))
        for name in self.data:
            self.register(name)

    # -- processes -----------------------------------------------------------------------------------------------

    def environment(self):
        """Of the person who types: no word about telemetry, so that what is quiet is quiet by our doing."""
        kept = {k: v for k, v in os.environ.items() if k not in QUIET}
        ours = {MARK: str(self.home), "OMP_NUM_THREADS": "1", "TMPDIR": str(self.home / "tmp")}
        return kept | ours | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"}

    def spawn(self, name, *arguments):
        """``motet`` with these arguments in the background; its output goes to the log of ``name``."""
        assert self.is_down(name)
        self.running[name] = forked_motet.start(arguments, self.environment(), self.home, self.log_path(name))
        return self.running[name]

    def motet(self, *arguments, within_s=120.0):
        """Run one command to its end."""
        return forked_motet.run(arguments, self.environment(), self.home, within_s)

    def start_coordinator(self):
        """Start it; clients can connect when this returns."""
        ready = self._next_line("coordinator", "coordinator ready")
        listen = ("--listen", self.address, "--verbose")
        self.spawn("coordinator", "coordinator", "start", "--home", self.place, *listen, *self.options)
        self.wait(ready, "coordinator ready", START_S, needs=("coordinator",))

    def start_clients(self, *names, join=None):
        """Start clients beside each other, each with its own home and file; all are connected when this returns."""
        connected = {name: self._next_line(name, "is connected") for name in names}
        for name in names:
            self.spawn_client(name, join=join)
        for name in names:
            self.wait(connected[name], f"client {name} connected", START_S, needs=(name,))

    def spawn_client(self, name, *, join=None, data=None):
        data = data or self.data[name]
        where = ("--data", data, "--join", join or self.join, "--home", self.client_home(name))
        if name in self.policies:
            where = (*where, "--policy", self.policies[name])
        return self.spawn(name, "client", "start", "--name", name, *where, "--verbose")

    def start(self):
        """Whatever is not running."""
        if self.is_down("coordinator"):
            self.start_coordinator()
        self.start_clients(*(name for name in self.data if self.is_down(name)))

    def is_down(self, name):
        return name not in self.running or self.running[name].poll() is not None

    def kill(self, name):
        """SIGKILL to the one process, as a crash would; returns its children, which nobody told to end."""
        process = psutil.Process(self.running[name].pid)
        process.suspend()  # nothing happens while all processes of the machine are looked through
        children = process.children(recursive=True)
        process.kill()
        self.running[name].wait(END_S)
        return children

    def terminate(self, *names, within_s=END_S):
        """SIGTERM to all of them; returns their exit codes."""
        for name in names:
            self.running[name].terminate()
        return [self.running[name].wait(within_s) for name in names]

    def processes(self):
        """Every process that carries our mark, parents or not; one that was forked shows its own only to itself."""
        found = [psutil.Process(p.pid) for p in self.running.values() if p.poll() is None]
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == str(self.home) and not is_gone(process):
                    found += [process] if process not in found else []
            except (psutil.Error, OSError):
                continue
        return found

    def children(self, name):
        """Command lines of a running process's children, by process."""
        children = psutil.Process(self.running[name].pid).children(recursive=True)
        return {c: " ".join(c.cmdline()) for c in children}

    def close(self):
        """End all of it; fails if a process outlives SIGTERM, or if one met a fault of its own."""
        stubborn = []
        for process in reversed(self.running.values()):
            if process.poll() is None:
                process.terminate()
        for name, process in self.running.items():
            try:
                process.wait(END_S)
            except subprocess.TimeoutExpired:
                stubborn.append(name)
        until = time.monotonic() + 3.0
        while (left := self.processes()) and time.monotonic() < until:
            time.sleep(0.1)
        told = [" ".join(p.cmdline()) for p in left if not is_gone(p)]
        for process in left:
            process.kill()
        for process in self.running.values():
            process.wait(END_S)
        self.store.close()
        _OPEN_HERE.discard(str(self.place / "motet.db"))
        assert not stubborn, f"did not end within {END_S:g} s of SIGTERM: {stubborn}{self.tails()}"
        assert not told, f"left behind: {told}"
        faults = [p.read_text()[-2000:] for p in (self.home / "tmp").glob("motet-fault-*")]
        assert not faults, "\n".join(faults)

    # -- files ---------------------------------------------------------------------------------------------------

    def client_home(self, name):
        return self.home / "clients" / name

    def register(self, name):
        register(self.place, name, init_key(self.client_home(name)))

    def log_path(self, name):
        return self.logs / f"{name}.log"

    def log(self, name):
        path = self.log_path(name)
        return path.read_text(errors="replace") if path.exists() else ""

    def _next_line(self, name, words):
        """A question: has the log of ``name`` these words once more than now?"""
        before = self.log(name).count(words)
        return lambda: self.log(name).count(words) > before

    def tails(self):
        logs = [*sorted(self.logs.glob("*.log")), *sorted(self.place.glob("*.log"))]
        return "".join(f"\n--- {p.name}\n{p.read_text(errors='replace')[-1500:]}" for p in logs)

    # -- runs ----------------------------------------------------------------------------------------------------

    def submit(self, recipe_path):
        """Queue a run; returns its id."""
        return self.store.submit_run(load_recipe(recipe_path))

    def wait(self, is_true, what, within_s, needs=(), every_s=0.05):
        """The first true value of ``is_true``; fails at the deadline, or when a process of ``needs`` has ended."""
        until = time.monotonic() + within_s
        while not (value := is_true()):
            ended = [n for n in needs if self.is_down(n)]
            assert not ended, f"{ended} ended while we waited for: {what}{self.tails()}"
            assert time.monotonic() < until, f"not within {within_s:g} s: {what}{self.tails()}"
            time.sleep(every_s)
        return value

    def wait_for_end(self, run_id, within_s=120.0):
        """The run's row once it has ended."""
        self.wait(lambda: self.store.get_run(run_id).state in ENDED, f"the end of {run_id}", within_s)
        return self.store.get_run(run_id)

    def finish(self, recipe_path, within_s=120.0):
        """Submit, wait for the end, which has to be FINISHED; returns the run's row."""
        row = self.wait_for_end(self.submit(recipe_path), within_s)
        assert row.state == "FINISHED", row.reason + self.tails()
        return row

    def wait_for_order(self, run_id, round_index, client_id=None, within_s=90.0):
        """Until an order of that round (for that client) has left and is not answered yet."""

        def sent():
            rows = self.store.contributions(run_id, round_index)
            wanted = [r for r in rows if client_id in {None, r.client_id}]
            return any(r.state == "ORDERED" and r.message_id for r in wanted)

        self.wait(sent, f"an open order of round {round_index} of {run_id}", within_s, every_s=0.005)


# -- data and recipes ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def shards(tmp_path_factory):
    """A folder with three clients' files and a test file, of two kinds of short texts."""
    rng = random.Random(0)
    words = [["good", "nice", "fine"], ["bad", "ugly", "poor"]]
    folder = tmp_path_factory.mktemp("shards")
    for name in (*RANKS, "test"):
        lines = []
        for i in range(40):
            label = rng.randrange(2)
            text = " ".join(rng.choice(words[label]) for _ in range(4)) + f" {name}{i}"
            lines.append(json.dumps({"text": text, "label": label}))
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def recipe_file(shards, tmp_path):
    """Writes a recipe; what is not said is what the tests of equal adapters use."""

    def write(
        name="federation",
        *,
        seed=3,
        rounds=3,
        local_steps=5,
        clients="[a, b, c]",
        minimum=2,
        deadline_s=60,
        extra="",
    ):
        ranks = ", ".join(f"{client}: {rank}" for client, rank in RANKS.items())
        cohort = f"clients: {clients}, " if clients else ""
        path = tmp_path / f"{name}.yaml"
        path.write_text(
            f"name: {name}\nbase_model: {{tiny: tiny-bert}}\n"
            "task: {kind: sequence-classification, num_labels: 2, max_length: 24}\n"
            f"data: {{path: {shards}}}\n"
            f"adapter: {{lora_rank: {{{ranks}, default: 2}}, targets: [query, value]}}\nmethod: {{name: flora}}\n"
            f"cohort: {{{cohort}minimum: {minimum}, deadline_s: {deadline_s}}}\n"
            f"training: {{rounds: {rounds}, local_steps: {local_steps}, expected_batch_size: 16, "
            f"learning_rate: 5e-3, head_learning_rate: 2e-2}}\nseed: {seed}\n{extra}"
        )
        return path

    return write


@pytest.fixture(scope="session")
def embedded(shards, tmp_path_factory):
    """Recipe file -> adapter_sha256 of the same recipe, run in this process on the same files."""
    from motet.data import read_examples

    test = read_examples(shards / "test.jsonl", text_column="text", label_column="label", num_labels=2)
    files = {name: shards / f"{name}.jsonl" for name in RANKS}
    dealt = Shards(train=files, sizes=dict.fromkeys(files, 40), test=tuple(test))
    known = {}

    def run(path):
        recipe = load_recipe(path)
        key = recipe.model_dump_json()
        if key not in known:
            folder = tmp_path_factory.mktemp("embedded")
            outcome = run_engine(recipe, dealt, folder, stage="test", with_curve=False)
            known[key] = outcome.result.adapter_sha256
        return known[key]

    return run


@pytest.fixture(scope="session")
def _shared(shards, tmp_path_factory):
    files = {name: shards / f"{name}.jsonl" for name in RANKS}
    deployment = Deployment(tmp_path_factory.mktemp("federation"), files)
    deployment.policies["a"] = deployment.home / "policy-of-a.toml"
    deployment.policies["a"].write_text(
        "share_accuracy = true\n"
    )  # where a recipe asks for it; the others do not share
    try:
        yield deployment
    finally:
        deployment.close()


@pytest.fixture
def federation(_shared):
    """Coordinator and clients a, b, c, up and with nothing to do. Shared: what a test ends is started for the next."""
    for run in _shared.store.list_runs():
        if run.state not in ENDED:
            _shared.store.request_cancel(run.run_id)
    _shared.start()
    return _shared


@pytest.fixture
def deploy(shards, tmp_path):
    """Makes a deployment of the test's own with these clients; nothing of it is started."""
    made = []

    def make(*names, database=None):
        files = {name: shards / f"{name}.jsonl" for name in names}
        made.append(Deployment(tmp_path / f"own-{len(made)}", files, database))
        return made[-1]

    yield make
    for deployment in made:
        deployment.close()


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """What the script of ``crashing_coordinator`` comes to without a death; on SQLite, for both databases."""
    home = new_home(tmp_path_factory.mktemp("whole"))
    return whole_run(Site(Place(dialect="sqlite", where=home / "motet.db", ledger=home / "ledger"), home))

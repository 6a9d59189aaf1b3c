"""What a deployed round costs when the work itself costs nothing: Motet beside stock Flower, in one run.

Three clients, all processes on this machine, loopback only. The task is trivial on purpose, so that what is
left is the round itself: a random two-layer BERT, LoRA ranks 1, 4 and 7, one local step on a handful of
examples. Stock Flower moves one array of the same number of bytes to each client and back by its own FedAvg
strategy, and computes nothing.

Motet (``--link-state memory`` and ``disk``) is coordinator, SuperLink, gateway and clients, with TLS, client
keys and a checkpoint a round. Stock Flower is flower-superlink and three flower-supernode as they come, in
subprocess isolation, without TLS and keys; nothing is checkpointed. It is run with its link state in memory
and on disk too.

A round is the time from one commit to the next; the first round is left out, since programs and models load in
it. CPU time is of the whole process tree, ended children included. ``others`` is the share of this machine that
everything else took meanwhile: seconds from a busy machine are too high, ratios of one run are the firm figure.

Run: python benchmarks/round_overhead.py [--rounds 12] [--json]. Takes about four minutes. Writes
benchmarks/results/round_overhead.json and round_overhead.png. Needs psutil (the dev extra).
"""

from __future__ import annotations

import argparse
import bisect
import itertools
import json
import os
import platform
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import psutil  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from client.keys import init_key  # noqa: E402
from coordinator.engine.superlink import QUIET  # noqa: E402
from coordinator.registration import register  # noqa: E402
from coordinator.rounds.table import ENDED  # noqa: E402
from coordinator.storage.store import Store  # noqa: E402
from motet.ports import free_port  # noqa: E402
from motet.recipe import load_recipe  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from coordinator.storage.models import RoundRow

RESULTS = ROOT / "benchmarks" / "results"
BIN = Path(sys.executable).parent
RANKS = {"a": 1, "b": 4, "c": 7}
SAMPLE_S = 0.2
START_S, ROUND_S = 120.0, 90.0  # the longest that a start or a round may take; the first loads programs
LINK_STATES = ("memory", "disk")
TARGET_S = {"motet, memory": 1.5, "motet, disk": 3.0}
COMPARED = {
    "seconds": "round_s_median",
    "CPU-seconds": "cpu_s_a_round",
    "processes": "processes_median",
    "resident memory": "resident_mb_median",
}

FLOWER_PROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "trivial-round"
version = "1.0.0"
license = "Apache-2.0"
dependencies = ["flwr", "numpy"]

[tool.hatch.build.targets.wheel]
packages = ["."]

[tool.flwr.app]
publisher = "benchmark"

[tool.flwr.app.components]
serverapp = "trivial.server:app"
clientapp = "trivial.client:app"

[tool.flwr.app.config]
num-rounds = {rounds}
num-floats = {floats}
stamps = "{stamps}"
"""

FLOWER_SERVER = '''\
"""Stock FedAvg; the time of each commit goes into a file."""

import time

import numpy as np
from flwr.app import ArrayRecord
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()


class Stamped(FedAvg):
    def aggregate_train(self, server_round, replies):
        replies = list(replies)
        result = super().aggregate_train(server_round, replies)
        good = sum(reply.has_content() for reply in replies)
        with open(self.stamps, "a") as file:
            file.write(f"{time.time()} {good}\\n")
        return result


@app.main()
def main(grid, context):
    config = context.run_config
    strategy = Stamped(fraction_evaluate=0.0, min_train_nodes=3, min_available_nodes=3)
    strategy.stamps = config["stamps"]
    start = ArrayRecord([np.zeros(config["num-floats"], dtype=np.float32)])
    strategy.start(grid, start, num_rounds=config["num-rounds"], timeout=120)
'''

FLOWER_CLIENT = '''\
"""Sends back what it received."""

from flwr.app import Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(message, context):
    content = RecordDict({"arrays": message.content["arrays"], "metrics": MetricRecord({"num-examples": 1})})
    return Message(content, reply_to=message)
'''


# -- processes and what they use -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One look at a process tree: ``cpu_s`` since its start, also of ended children; ``other_s`` of all else."""

    at: float
    cpu_s: float
    other_s: float
    processes: int
    resident_bytes: int
    by_program: dict[str, float]


@dataclass(slots=True)
class Processes:
    """Started processes and their trees; a thread looks at them all the time. Everything is ended by ``stop``."""

    folder: Path
    roots: dict[str, psutil.Popen] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)
    ever: set[psutil.Process] = field(default_factory=set)
    _done: threading.Event = field(default_factory=threading.Event)
    _watcher: threading.Thread | None = None

    def start(self, name: str, *command: object) -> None:
        """Start a command in a session of its own; its output goes to ``<name>.log``."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self.roots[name] = psutil.Popen(
                [str(part) for part in command],
                env=environment(self.folder),
                cwd=self.folder,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def call(self, *command: object) -> str:
        """Run a command to its end; it is not of the tree that is measured."""
        done = subprocess.run(
            [str(part) for part in command],
            env=environment(self.folder),
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=START_S,
            check=False,
        )
        if done.returncode:
            raise SystemExit(
                f"{command[0]} ended with {done.returncode}:\n{done.stderr[-2000:]}{done.stdout[-500:]}"
            )
        return done.stdout

    def watch(self) -> None:
        """Look every ``SAMPLE_S`` until ``stop``."""

        def look() -> None:
            while not self._done.wait(SAMPLE_S):
                self.samples.append(self.look())

        self._watcher = threading.Thread(target=look, daemon=True)
        self._watcher.start()

    def look(self) -> Sample:
        """One look at all trees. A child that has ended but was not waited for counts its time, not itself."""
        cpu_s, count, resident = 0.0, 0, 0
        by_program: dict[str, float] = {}
        for name, root in list(self.roots.items()):
            for process in tree(root):
                try:
                    with process.oneshot():
                        times = process.cpu_times()
                        used = times.user + times.system + times.children_user + times.children_system
                        resident += process.memory_info().rss
                        ended = process.status() == psutil.STATUS_ZOMBIE
                        program = name if process.pid == root.pid or ended else program_of(process)
                except psutil.Error:
                    continue
                self.ever.add(process)
                count += not ended
                cpu_s += used
                by_program[program] = by_program.get(program, 0.0) + used
        total = psutil.cpu_times()
        busy = total.user + total.system + total.nice + total.irq + total.softirq
        return Sample(
            at=time.time(),
            cpu_s=cpu_s,
            other_s=busy - cpu_s,
            processes=count,
            resident_bytes=resident,
            by_program=by_program,
        )

    def check(self) -> None:
        """Give up, quoting the log, when one of the started processes has ended."""
        for name, root in self.roots.items():
            if root.poll() is not None:
                raise SystemExit(f"{name} ended with {root.poll()}\n{self.tail(name)}")

    def tail(self, name: str) -> str:
        """The end of a log."""
        return f"{name}: " + (self.folder / f"{name}.log").read_text(errors="replace")[-1500:]

    def stop(self) -> None:
        """SIGTERM to the roots, then SIGKILL to whatever was ever seen in the trees and is still there."""
        self._done.set()
        if self._watcher is not None:
            self._watcher.join()
        self.look()
        for root in reversed(self.roots.values()):
            if root.poll() is None:
                root.send_signal(signal.SIGTERM)
        psutil.wait_procs(list(self.roots.values()), timeout=10)
        left = [process for process in self.ever if process.is_running()]
        for process in left:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(left, timeout=5)


def environment(folder: Path) -> dict[str, str]:
    return os.environ | {
        **QUIET,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "FLWR_HOME": str(folder / "flower-home"),
        "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}",
    }


def tree(root: psutil.Popen) -> list[psutil.Process]:
    try:
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def program_of(process: psutil.Process) -> str:
    """``flower-superlink`` of ``python /bin/flower-superlink --host ...``; ``gateway`` of ``python -m x.gateway``."""
    parts = [part for part in process.cmdline()[1:] if part != "-m" and not part.startswith("-")]
    return Path(parts[0]).name.rsplit(".", 1)[-1] if parts else process.name()


def wait_until(is_true: Callable[[], object], what: str, processes: Processes, timeout_s: float) -> None:
    """Give up, quoting all logs, after ``timeout_s``."""
    until = time.monotonic() + timeout_s
    while not is_true():
        processes.check()
        if time.monotonic() > until:
            tails = "\n".join(processes.tail(name) for name in processes.roots)
            raise SystemExit(f"in {timeout_s:.0f} s not: {what}\n{tails}")
        time.sleep(0.2)


@contextmanager
def deployed(folder: Path) -> Iterator[Processes]:
    folder.mkdir()
    processes = Processes(folder)
    processes.watch()
    try:
        yield processes
    finally:
        processes.stop()


# -- the cases -------------------------------------------------------------------------------------------------------


def motet(folder: Path, link_state: str, rounds: int) -> tuple[list[float], Processes, dict[str, int]]:
    """Commit times, what was seen, and mean bytes a client and round, down and up."""
    command = [sys.executable, "-m", "motet.cli.main"]
    with deployed(folder) as processes:
        home, address = folder / "home", f"127.0.0.1:{free_port()}"
        for name in RANKS:
            write_examples(folder / f"{name}.jsonl")
            register(home, name, init_key(folder / name))
        options = ["--home", home, "--listen", address, "--link-state", link_state]
        processes.start("coordinator", *command, "coordinator", "start", *options)
        join = home / "join.json"
        wait_until(join.exists, "the coordinator is ready", processes, START_S)
        for name in RANKS:
            options = ["--data", folder / f"{name}.jsonl", "--join", join, "--home", folder / name]
            processes.start(f"client-{name}", *command, "client", "start", "--name", name, *options)
        for name in RANKS:
            log = folder / f"client-{name}.log"
            wait_until(
                lambda log=log: "connected" in log.read_text(), f"{name} connected", processes, START_S
            )
        (folder / "recipe.yaml").write_text(recipe_text(folder, rounds))
        store = Store.open(home / "motet.db")
        try:
            run_id = store.submit_run(load_recipe(folder / "recipe.yaml"))
            commits = [row.closed_at for row in closed_rounds(store, run_id, rounds, processes)]
            work = [c for c in store.contributions(run_id) if c.state == "RECEIVED"]
        finally:
            store.close()
        if len(work) != rounds * len(RANKS):
            raise SystemExit(
                f"{len(work)} updates in {rounds} rounds; every client must answer in every round"
            )
        moved = {
            key: round(statistics.mean(getattr(c, key) for c in work)) for key in ("bytes_down", "bytes_up")
        }
        return commits, processes, moved


def closed_rounds(store: Store, run_id: str, rounds: int, processes: Processes) -> Sequence[RoundRow]:
    def is_there(count: int) -> bool:
        return len(store.closed_rounds(run_id)) >= count or store.get_run(run_id).state in ENDED

    for count in range(1, rounds + 1):
        wait_until(partial(is_there, count), f"round {count} closed", processes, ROUND_S)
    run, closed = store.get_run(run_id), store.closed_rounds(run_id)
    if len(closed) < rounds:
        raise SystemExit(f"the run is {run.state}: {run.reason}")
    return closed


def recipe_text(folder: Path, rounds: int) -> str:
    ranks = ", ".join(f"{name}: {rank}" for name, rank in RANKS.items())
    return f"""\
name: trivial
base_model: {{tiny: tiny-bert}}
task: {{kind: sequence-classification, num_labels: 2, max_length: 8}}
data: {{path: {folder}}}
adapter: {{lora_rank: {{{ranks}}}, targets: [query, value]}}
method: {{name: flora}}
cohort: {{clients: [{", ".join(RANKS)}], minimum: {len(RANKS)}}}
training: {{rounds: {rounds}, local_steps: 1, expected_batch_size: 4, learning_rate: 1e-3}}
"""


def write_examples(path: Path, count: int = 8) -> None:
    rng = random.Random(path.stem)
    rows = [{"text": f"{path.stem} {i} {rng.random():.3f}", "label": i % 2} for i in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def flower(folder: Path, link_state: str, rounds: int, payload_bytes: int) -> tuple[list[float], Processes]:
    """Commit times, and what was seen."""
    with deployed(folder) as processes:
        stamps = folder / "stamps.txt"
        write_flower_app(folder / "app", rounds, max(1, payload_bytes // 4), stamps)
        port = free_port()
        (folder / "flower-home").mkdir()
        (folder / "flower-home" / "config.toml").write_text(
            f'[superlink]\ndefault = "here"\n\n[superlink.here]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
        )
        database = ":flwr-in-memory:" if link_state == "memory" else folder / "state.db"
        options = ["--insecure", "--host", "127.0.0.1", "--port", port, "--database", database]
        processes.start("flower-superlink", BIN / "flower-superlink", *options)
        wait_until(lambda: is_open(port), "flower-superlink is ready", processes, START_S)
        for name in RANKS:
            options = ["--insecure", "--superlink", f"127.0.0.1:{port}", "--port", free_port()]
            processes.start(f"flower-supernode-{name}", BIN / "flower-supernode", *options)
        processes.call(BIN / "flwr", "run", folder / "app", "here", "--format", "json")

        def lines() -> list[str]:
            return stamps.read_text().splitlines() if stamps.exists() else []

        for count in range(1, rounds + 1):
            wait_until(lambda count=count: len(lines()) >= count, f"round {count} closed", processes, ROUND_S)
        if any(int(line.split()[1]) != len(RANKS) for line in lines()):
            raise SystemExit("a client of stock Flower failed; every client must answer in every round")
        return [float(line.split()[0]) for line in lines()], processes


def write_flower_app(app: Path, rounds: int, floats: int, stamps: Path) -> None:
    (app / "trivial").mkdir(parents=True)
    (app / "pyproject.toml").write_text(FLOWER_PROJECT.format(rounds=rounds, floats=floats, stamps=stamps))
    (app / "trivial" / "__init__.py").write_text("")
    (app / "trivial" / "server.py").write_text(FLOWER_SERVER)
    (app / "trivial" / "client.py").write_text(FLOWER_CLIENT)


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


# -- figures ---------------------------------------------------------------------------------------------------------


def at_time(samples: Sequence[Sample], moment: float, value: Callable[[Sample], float]) -> float:
    """``value`` at ``moment``, on the line between the looks before and after it."""
    place = min(max(bisect.bisect([s.at for s in samples], moment), 1), len(samples) - 1)
    before, after = samples[place - 1], samples[place]
    share = (moment - before.at) / (after.at - before.at)
    return value(before) + share * (value(after) - value(before))


def figures(commits: Sequence[float], samples: Sequence[Sample]) -> dict[str, object]:
    """Of all rounds but the first."""
    first, last, count = commits[0], commits[-1], len(commits) - 1
    during = [s for s in samples if first <= s.at <= last]

    def spent(value: Callable[[Sample], float]) -> float:
        return at_time(samples, last, value) - at_time(samples, first, value)

    rounds = [after - before for before, after in itertools.pairwise(commits)]
    programs = sorted({name for s in during for name in s.by_program})
    steady = [p for p in programs if all(p in s.by_program for s in during)]
    by_program = {p: round(spent(lambda s, p=p: s.by_program.get(p, 0.0)) / count, 3) for p in steady}
    return {
        "rounds": count,
        "round_s_median": round(statistics.median(rounds), 3),
        "round_s_p90": round(statistics.quantiles(rounds, n=10, method="inclusive")[8], 3),
        "round_s": [round(r, 3) for r in rounds],
        "processes_median": int(statistics.median_low(s.processes for s in during)),
        "processes_max": max(s.processes for s in during),
        "cpu_s_a_round": round(spent(lambda s: s.cpu_s) / count, 3),
        "cpu_s_a_round_by_program": by_program,
        "resident_mb_median": round(statistics.median(s.resident_bytes for s in during) / 1e6),
        "resident_mb_max": round(max(s.resident_bytes for s in during) / 1e6),
        "others_share": round(
            max(0.0, spent(lambda s: s.other_s)) / (last - first) / (os.cpu_count() or 1), 3
        ),
    }


def ratios(cases: dict[str, dict]) -> dict[str, dict[str, float]]:
    """Stock Flower over ours with the same link state; above 1 ours needs less."""
    return {
        state: {
            short: round(cases[f"flower, {state}"][key] / cases[f"motet, {state}"][key], 2)
            for short, key in COMPARED.items()
        }
        for state in LINK_STATES
    }


def show(result: dict) -> None:
    table = Table(title="a deployed round, three clients, trivial task")
    names = list(result["cases"])
    table.add_column("", no_wrap=True)
    for name in names:
        table.add_column(name.replace(", ", ",\n"), justify="right")
    rows = {
        "seconds a round, median": "round_s_median",
        "seconds a round, p90": "round_s_p90",
        "processes, median": "processes_median",
        "processes, most": "processes_max",
        "CPU-seconds a round": "cpu_s_a_round",
        "resident MB, median": "resident_mb_median",
        "rounds": "rounds",
        "machine used by others": "others_share",
    }
    for label, key in rows.items():
        table.add_row(label, *(str(result["cases"][name][key]) for name in names))
    for short in COMPARED:
        cells = {f"motet, {state}": f"{by[short]:g}" for state, by in result["flower_over_motet"].items()}
        table.add_row(f"flower / motet: {short}", *(cells.get(name, "") for name in names))
    console = Console(highlight=False)
    console.print(table)
    for name, target in TARGET_S.items():
        taken = result["cases"][name]["round_s_median"]
        console.print(
            f"{name}: {taken:.2f} s a round, at most {target} s wanted: {'yes' if taken <= target else 'NO'}"
        )


def draw(result: dict) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    names = list(result["cases"])
    plots = {
        "seconds a round, median": "round_s_median",
        "CPU-seconds a round": "cpu_s_a_round",
        "processes, median": "processes_median",
        "resident MB, median": "resident_mb_median",
    }
    figure, axes = plt.subplots(1, len(plots), figsize=(12, 3.2))
    for axis, (label, key) in zip(axes, plots.items(), strict=True):
        values = [result["cases"][name][key] for name in names]
        bars = axis.bar(
            [name.replace(", ", "\n") for name in names],
            values,
            color=["tab:blue", "tab:cyan", "tab:gray", "silver"],
        )
        axis.bar_label(bars, fmt="%g", fontsize=8)
        axis.set_title(label, fontsize=9)
        axis.set_ylim(top=max(values) * 1.15)
        axis.tick_params(labelsize=8)
    figure.tight_layout()
    figure.savefig(RESULTS / "round_overhead.png", dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=12, help="measured rounds of ours, beside the first")
    parser.add_argument("--flower-rounds", type=int, default=8, help="measured rounds of stock Flower")
    parser.add_argument("--json", action="store_true", help="print the result as JSON instead of a table")
    parser.add_argument("--no-write", action="store_true", help="leave benchmarks/results as it is")
    arguments = parser.parse_args()
    if min(arguments.rounds, arguments.flower_rounds) < 2:
        parser.error("at least 2 rounds are needed")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    started = time.perf_counter()
    cases: dict[str, dict] = {}
    with tempfile.TemporaryDirectory(prefix="round-overhead-") as name:
        folder = Path(name)
        for state in LINK_STATES:
            commits, seen, moved = motet(folder / f"motet-{state}", state, arguments.rounds + 1)
            cases[f"motet, {state}"] = figures(commits, seen.samples) | moved
        size = sum(moved.values()) // 2 // 4 * 4
        for state in LINK_STATES:
            commits, seen = flower(folder / f"flower-{state}", state, arguments.flower_rounds + 1, size)
            cases[f"flower, {state}"] = figures(commits, seen.samples) | {
                "bytes_down": size,
                "bytes_up": size,
            }
    result = {
        "what": "one deployed round on loopback, three clients, trivial task; time from commit to commit",
        "python": platform.python_version(),
        "flwr": version("flwr"),
        "cores": os.cpu_count(),
        "flower_runs": "subprocess isolation, no TLS, no client keys, no checkpoint",
        "motet_runs": "TLS, client keys, gateway, a checkpoint a round",
        "cases": cases,
        "flower_over_motet": ratios(cases),
        "whole_run_s": round(time.perf_counter() - started),
    }
    if not arguments.no_write:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "round_overhead.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        draw(result)
    if arguments.json:
        print(json.dumps(result))
    else:
        show(result)


if __name__ == "__main__":
    main()

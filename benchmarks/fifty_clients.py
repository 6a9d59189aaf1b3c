"""Fifty client processes on two cores, a tenth to a third of them dropping out in every round: does memory stay flat?

A real ``motet coordinator start`` with SuperLink and gateway on loopback, and real clients (a random two-layer BERT,
one local step). The clients are forked from one process that has imported everything, and share its pages; they are
processes of their own in all else. In each round a seeded draw takes 10 to 30 % of all clients away, each at a moment
of its own in the first half of the round: half are killed (SIGKILL), half are stopped (SIGSTOP). Each comes back after
a quarter to five quarters of a round's length: some in the same round, with its order to answer, others after the next
one has opened, which they miss. All who are online are asked (``cohort.over_select``), and a round closes at
``--minimum`` updates. Who was back ``BACK_S`` before a round opened and was not asked in it is counted: there must be
none.

Resident memory (and ``own``: that part of it that is no pages of files, such as libtorch's code) and CPU time of
coordinator, SuperLink and gateway are looked at every second, CPU time of clients too; a round's figure is the median
of its looks. The slope is that of a least-squares line through the rounds after ``--settle``, when all programs have
loaded what they need. ``others_share`` is the share of this machine that other work took meanwhile.

Run: python benchmarks/fifty_clients.py [--clients 50] [--rounds 20]. Writes benchmarks/results/fifty_clients.json and
fifty_clients.png. Needs psutil (the dev extra).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support"), str(ROOT / "benchmarks")]

import forked_motet  # noqa: E402
import psutil  # noqa: E402
from round_overhead import environment, program_of, write_examples  # noqa: E402

from client.keys import init_key  # noqa: E402
from coordinator.registration import register  # noqa: E402
from coordinator.rounds.table import ENDED  # noqa: E402
from coordinator.storage.store import Store  # noqa: E402
from motet.ports import free_port  # noqa: E402
from motet.recipe import load_recipe  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

RESULTS = ROOT / "benchmarks" / "results"
LEAST_GONE, MOST_GONE = 0.1, 0.3
LOOK_S = 1.0
BACK_S = 2.0  # a client that was there for so long before a round opened has to be asked in it
FIRST_ROUND_S = 10.0  # how long a round takes, as long as none is known
START_S, END_S = 240.0, 30.0
TARGET_MB_A_ROUND = 0.1
OWN = ("coordinator", "flower-superlink", "gateway")
RECIPE = """\
name: fifty
base_model: {{tiny: tiny-bert}}
task: {{kind: sequence-classification, num_labels: 2, max_length: 8}}
data: {{path: {folder}}}
adapter: {{lora_rank: 4, targets: [query, value]}}
method: {{name: fedit}}
cohort: {{minimum: {minimum}, over_select: {over_select}, deadline_s: {deadline_s}}}
training: {{rounds: {rounds}, local_steps: 1, expected_batch_size: 4, learning_rate: 1.0e-3}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One look: of each of ``OWN`` MB resident, MB of them that are no pages of files, and CPU-seconds."""

    at: float
    resident_mb: dict[str, float]
    own_mb: dict[str, float]
    cpu_s: dict[str, float]
    busy_s: float


def busy_s() -> float:
    """CPU-seconds that this machine has worked since its start."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system)


@dataclass(slots=True)
class Fleet:
    """The coordinator and the clients; every process that is started here is ended by ``stop``."""

    folder: Path
    names: list[str]
    link_state: str
    address: str = field(default_factory=lambda: f"127.0.0.1:{free_port()}")
    clients: dict[str, forked_motet.Command] = field(default_factory=dict)
    looks: list[Look] = field(default_factory=list)
    coordinator: psutil.Popen | None = None
    _spent: dict[int, float] = field(default_factory=dict)
    _done: threading.Event = field(default_factory=threading.Event)

    @property
    def home(self) -> Path:
        """Of the coordinator."""
        return self.folder / "home"

    def start(self) -> None:
        """The coordinator as it is typed, then all clients; they are online when this returns."""
        for name in self.names:
            write_examples(self.folder / f"{name}.jsonl")
            register(self.home, name, init_key(self.folder / name))
        command = [sys.executable, "-m", "motet.cli.main", "coordinator", "start"]
        options = ["--home", str(self.home), "--listen", self.address, "--link-state", self.link_state]
        with (self.folder / "coordinator.log").open("ab") as log:
            self.coordinator = psutil.Popen(
                [*command, *options],
                env=environment(self.folder),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.wait(lambda: (self.home / "join.json").exists(), "the coordinator is ready")
        for name in self.names:
            self.start_client(name)
        for name in self.names:
            self.wait(lambda name=name: self.times_connected(name), f"{name} is connected")
        threading.Thread(target=self._look_on, daemon=True).start()

    def start_client(self, name: str) -> None:
        """Fork it."""
        where = ["--data", self.folder / f"{name}.jsonl", "--join", self.home / "join.json"]
        self.clients[name] = forked_motet.Command(
            ["client", "start", "--name", name, *where, "--home", self.folder / name],
            environment(self.folder),
            self.folder,
            self.folder / f"{name}.log",
        )

    def times_connected(self, name: str) -> int:
        """How often it has told that it is there."""
        path = self.folder / f"{name}.log"
        return path.read_text(errors="replace").count("is connected to") if path.exists() else 0

    def check_runs(self, name: str) -> None:
        """A client that ends by itself ends the measurement."""
        code = self.clients[name].poll()
        if code is not None:
            log = (self.folder / f"{name}.log").read_text(errors="replace")[-6000:]
            raise SystemExit(f"client {name} ended by itself ({code})\n{log}")

    def clients_cpu_s(self) -> float:
        """CPU-seconds of all clients, of those that were killed as far as they were seen."""
        for command in list(self.clients.values()):
            try:
                self._spent[command.pid] = sum(psutil.Process(command.pid).cpu_times()[:2])
            except psutil.Error:
                continue
        return sum(self._spent.values())

    def wait(self, is_true: Callable[[], object], what: str, within_s: float = START_S) -> None:
        """Give up, quoting the log, after that time or when the coordinator has ended."""
        until = time.monotonic() + within_s
        while not is_true():
            ended = self.coordinator is not None and self.coordinator.poll() is not None
            if ended or time.monotonic() > until:
                log = (self.folder / "coordinator.log").read_text(errors="replace")[-3000:]
                raise SystemExit(f"not within {within_s:.0f} s: {what}\n{log}")
            time.sleep(0.1)

    def _look_on(self) -> None:
        while not self._done.wait(LOOK_S):
            found: dict[str, psutil.Process] = {"coordinator": self.coordinator}
            found |= {program_of(child): child for child in self.coordinator.children()}
            try:
                held = {n: p.memory_info() for n, p in found.items()}
                self.looks.append(
                    Look(
                        at=time.time(),
                        resident_mb={n: m.rss / 2**20 for n, m in held.items()},
                        own_mb={n: (m.rss - m.shared) / 2**20 for n, m in held.items()},
                        cpu_s={n: sum(p.cpu_times()[:2]) for n, p in found.items()}
                        | {"clients": self.clients_cpu_s()},
                        busy_s=busy_s(),
                    )
                )
            except psutil.Error:
                continue

    def clients_memory(self) -> dict[str, float]:
        """MB of all clients that run: proportional (shared pages divided) and their own."""
        sums = [0.0, 0.0]
        for command in self.clients.values():
            try:
                told = psutil.Process(command.pid).memory_full_info()
            except psutil.Error:
                continue
            sums = [sums[0] + told.pss, sums[1] + told.uss]
        count = max(1, sum(c.poll() is None for c in self.clients.values()))
        return {
            "processes": count,
            "proportional_mb_each": round(sums[0] / 2**20 / count, 1),
            "own_mb_each": round(sums[1] / 2**20 / count, 1),
        }

    def stop(self) -> None:
        """End everything."""
        self._done.set()
        for command in self.clients.values():
            if command.poll() is None:
                os.kill(command.pid, signal.SIGCONT)
                command.kill()
        for command in self.clients.values():
            command.wait(END_S)
        if self.coordinator is None:
            return
        children = self.coordinator.children() if self.coordinator.is_running() else []
        self.coordinator.terminate()
        _, left = psutil.wait_procs([self.coordinator, *children], timeout=END_S)
        for process in left:
            process.kill()


@dataclass(slots=True)
class Absence:
    """Who goes and comes back when; ``moves`` is what happened: time, name, and whether it is there from then on."""

    fleet: Fleet
    rng: random.Random
    due: list[tuple[float, str, str]] = field(default_factory=list)
    moves: list[tuple[float, str, bool]] = field(default_factory=list)
    _starting: dict[str, int] = field(default_factory=dict)

    def plan(self, now: float, round_s: float) -> dict[str, int]:
        """Draw who drops out of the round that has just opened. Returns how many by how they go."""
        busy = {name for _, name, _ in self.due} | set(self._starting)
        drawn = draw_absent([n for n in self.fleet.names if n not in busy], self.fleet.names, self.rng)
        for name, how in drawn:
            goes = now + self.rng.uniform(0.0, 0.5) * round_s
            self.due.append((goes, name, how))
            self.due.append((goes + self.rng.uniform(0.25, 1.25) * round_s, name, f"back from {how}"))
        return {how: sum(h == how for _, h in drawn) for how in ("killed", "stopped")}

    def step(self, now: float) -> None:
        """Do what is due.

        Raises:
          SystemExit: a client ended that nobody killed.
        """
        killed = {name for _, name, what in self.due if what == "back from killed"}
        for name in set(self.fleet.names) - killed:
            self.fleet.check_runs(name)
        for move in sorted(m for m in self.due if m[0] <= now):
            self.due.remove(move)
            self._do(*move[1:])
        for name, before in list(self._starting.items()):
            if self.fleet.times_connected(name) > before:
                del self._starting[name]
                self.moves.append((time.time(), name, True))

    def _do(self, name: str, what: str) -> None:
        command = self.fleet.clients[name]
        if what == "stopped":
            os.kill(command.pid, signal.SIGSTOP)
        elif what == "killed":
            command.kill()
            command.wait(END_S)
        elif what == "back from stopped":
            os.kill(command.pid, signal.SIGCONT)
        else:
            self._starting[name] = self.fleet.times_connected(name)
            self.fleet.start_client(name)
            return  # it is back once it says so
        self.moves.append((time.time(), name, what == "back from stopped"))


def there_at(moves: Sequence[tuple[float, str, bool]], names: Sequence[str], at: float) -> set[str]:
    """Who is there at that time, and has been for ``BACK_S``."""
    last = dict.fromkeys(names, (-math.inf, True))
    for when, name, is_there in sorted(moves):
        if when <= at:
            last[name] = (when, is_there)
    return {name for name, (when, is_there) in last.items() if is_there and when <= at - BACK_S}


def draw_absent(up: Sequence[str], everybody: Sequence[str], rng: random.Random) -> list[tuple[str, str]]:
    """Who of those that are up goes now, and how: 10 to 30 % of everybody, half of them killed, half stopped."""
    share = rng.uniform(LEAST_GONE, MOST_GONE)
    least, most = math.ceil(LEAST_GONE * len(everybody)), math.floor(MOST_GONE * len(everybody))
    count = min(max(round(share * len(everybody)), least, 1), max(most, 1), len(up))
    chosen = rng.sample(sorted(up), count)
    return [(name, "killed" if index % 2 else "stopped") for index, name in enumerate(chosen)]


def slope(values: Sequence[float]) -> float:
    """Of the least-squares line, a round."""
    if len(values) < 2:
        return 0.0
    return float(statistics.linear_regression(range(len(values)), values).slope)


def run(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """All rounds; figures of each."""
    fleet = Fleet(folder, [f"c{i:02d}" for i in range(options.clients)], options.link_state)
    absence = Absence(fleet, random.Random(options.seed))
    rounds: list[dict[str, Any]] = []
    try:
        fleet.start()
        store = Store.open(fleet.home / "motet.db")
        try:
            return _watched(store, fleet, absence, rounds, options)
        finally:
            store.close()
    finally:
        fleet.stop()


def _watched(
    store: Store, fleet: Fleet, absence: Absence, rounds: list[dict[str, Any]], options: argparse.Namespace
) -> dict[str, Any]:
    text = RECIPE.format(
        folder=fleet.folder,
        minimum=options.minimum,
        over_select=round(options.clients / options.minimum, 4),
        deadline_s=options.deadline_s,
        rounds=options.rounds,
    )
    (fleet.folder / "recipe.yaml").write_text(text)
    run_id = store.submit_run(load_recipe(fleet.folder / "recipe.yaml"))
    attempts: list[tuple[int, int]] = []
    gone: dict[tuple[int, int], dict[str, int]] = {}
    memory: dict[str, float] = {}
    until = time.monotonic() + options.limit_s
    while store.get_run(run_id).state not in ENDED:
        if time.monotonic() > until:
            break  # what was measured until then is told, with the state that the run is in
        rows = store.rounds(run_id)
        if len(rows) > len(attempts):
            attempts = [(r.round_index, r.attempt) for r in rows]
            lengths = [r.closed_at - r.started_at for r in rows if r.closed_at]
            gone[attempts[-1]] = absence.plan(
                time.time(), statistics.median(lengths) if lengths else FIRST_ROUND_S
            )
            if attempts[-1][0] == options.rounds // 2:
                memory = fleet.clients_memory()
        absence.step(time.time())
        time.sleep(0.2)
    time.sleep(2 * LOOK_S)
    row = store.get_run(run_id)
    for closed in store.rounds(run_id):
        key = (closed.round_index, closed.attempt)
        contributions = store.contributions(run_id, *key)
        answers = [c.state for c in contributions]
        able = there_at(absence.moves, fleet.names, closed.started_at)
        seen = [x for x in fleet.looks if closed.started_at <= x.at <= (closed.closed_at or time.time())]
        rounds.append(
            {
                "round": closed.round_index,
                "attempt": closed.attempt,
                "state": closed.state,
                "seconds": round((closed.closed_at or 0.0) - closed.started_at, 2),
                "there": len(able),
                "there_and_not_asked": len(able - {c.client_id for c in contributions}),
                "asked": len(answers),
                "received": answers.count("RECEIVED"),
                "late": answers.count("LATE"),
                "failed": answers.count("FAILED"),
                **gone.get(key, {}),
                "resident_mb": _medians([x.resident_mb for x in seen]),
                "own_mb": _medians([x.own_mb for x in seen]),
            }
        )
    return summary(row.state, row.reason, rounds, fleet, memory, options)


def _medians(looks: Sequence[dict[str, float]]) -> dict[str, float]:
    return {n: round(statistics.median([x[n] for x in looks if n in x] or [0.0]), 2) for n in OWN}


def summary(
    state: str,
    reason: str,
    rounds: Sequence[dict[str, Any]],
    fleet: Fleet,
    memory: dict[str, float],
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Slopes and medians over the rounds."""
    closed = [r for r in rounds if r["state"] == "CLOSED"]
    settled = closed[options.settle :]
    first, last = fleet.looks[0], fleet.looks[-1]
    return {
        "clients": options.clients,
        "rounds": options.rounds,
        "minimum": options.minimum,
        "over_select": round(options.clients / options.minimum, 4),
        "deadline_s": options.deadline_s,
        "link_state": options.link_state,
        "seed": options.seed,
        "state": state,
        "reason": reason,
        "rounds_closed": len(closed),
        "attempts_given_up": sum(r["state"] == "ABORTED" for r in rounds),
        "seconds_a_round_median": statistics.median([r["seconds"] for r in settled] or [0.0]),
        "seconds_a_round_most": max([r["seconds"] for r in settled] or [0.0]),
        "there_and_not_asked": sum(r["there_and_not_asked"] for r in rounds),
        "share_gone": [round(min(_gone(r)) / options.clients, 2) if _gone(r) else 0 for r in closed],
        "settled_after_rounds": options.settle,
        "target_mb_a_round": TARGET_MB_A_ROUND,
        "slope_mb_a_round": {n: round(slope([r["resident_mb"][n] for r in settled]), 4) for n in OWN},
        "slope_of_own_mb_a_round": {n: round(slope([r["own_mb"][n] for r in settled]), 4) for n in OWN},
        "resident_mb_at_the_end": {n: round(last.resident_mb.get(n, 0.0), 1) for n in OWN},
        "cpu_s_a_round": {
            n: round((last.cpu_s.get(n, 0.0) - first.cpu_s.get(n, 0.0)) / max(1, len(rounds)), 2)
            for n in (*OWN, "clients")
        },
        "others_share": round(others_share(first, last), 2),
        "clients_memory": memory,
        "cores": psutil.cpu_count(),
        "load_at_the_end": [round(x, 1) for x in os.getloadavg()],
        "python": platform.python_version(),
        "each": list(rounds),
    }


def others_share(first: Look, last: Look) -> float:
    """Of this machine, what was taken by work that is not of this benchmark."""
    ours = sum(last.cpu_s[n] - first.cpu_s.get(n, 0.0) for n in last.cpu_s)
    spent = last.busy_s - first.busy_s
    return max(0.0, spent - ours) / max(1e-9, (last.at - first.at) * (psutil.cpu_count() or 1))


def _gone(figures: dict[str, Any]) -> list[int]:
    return [figures["killed"] + figures["stopped"]] if "killed" in figures else []


def picture(found: dict[str, Any], path: Path) -> None:
    """Time a round, and memory, over the rounds."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    closed = [r for r in found["each"] if r["state"] == "CLOSED"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.6))
    at = [r["round"] for r in closed]
    left.bar(at, [r["seconds"] for r in closed], color="#4477aa")
    left.set(xlabel="round", ylabel="seconds", title="time of a round", ylim=(0, None))
    share = left.twinx()
    share.plot(at, [100 * s for s in found["share_gone"]], "o", color="#ee6677")
    share.set(ylabel="clients taken away, per cent", ylim=(0, 100))
    for name in OWN:
        right.plot(at, [r["resident_mb"][name] for r in closed], marker=".", label=name)
    right.set(xlabel="round", ylabel="MB resident", title="memory", ylim=(0, None))
    right.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Run it, write it down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument(
        "--minimum", type=int, help="updates that close a round; half of the clients by default"
    )
    parser.add_argument("--settle", type=int, default=5, help="rounds that are left out of the slope")
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--link-state", choices=["memory", "disk"], default="disk")
    parser.add_argument("--deadline-s", type=float, default=120.0)
    parser.add_argument("--limit-s", type=float, default=1800.0)
    parser.add_argument("--out", type=Path, default=RESULTS / "fifty_clients.json")
    options = parser.parse_args()
    options.minimum = options.minimum or max(1, round(0.5 * options.clients))
    with tempfile.TemporaryDirectory(prefix="motet-fifty-") as folder:
        found = run(Path(folder), options)
    options.out.write_text(json.dumps(found, indent=1) + "\n")
    picture(found, options.out.with_suffix(".png"))
    print(json.dumps({k: v for k, v in found.items() if k != "each"}, indent=1))


if __name__ == "__main__":
    main()

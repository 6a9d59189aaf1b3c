"""Kill a coordinator at random moments, again and again, and look after each death whether anything was forgotten."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import statistics
import subprocess
import sys
import time
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from databases import Place

from motet.audit.ledger import CoordinatorLedger
from privacy.ledger.chain import FIRST_PREVIOUS, check_link, entry_from_bytes, entry_hash
from privacy.ledger.entries import Reserve
from privacy.ledger.rules import check_entries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Start = Callable[[str, Callable[[], None]], int]

ROOT = Path(__file__).resolve().parents[2]
CHILD = Path(__file__).with_name("doomed_coordinator.py")
LONGEST_START_S = 0.4
LONGEST_WORK_S = 0.8


@dataclass
class Campaign:
    """What was seen.

    ``uncharged``: orders that left without a charge in the database; ``unsigned``: without one in the signed file.
    ``restarts_s``: from the fork of a coordinator to its first order, everything reconciled; ``cold_start_s``: the
    same once more with the start of Python and every import.
    """

    kills: int = 0
    orders: int = 0
    charges: int = 0
    entries: int = 0
    rounds: int = 0
    open_charges: int = 0
    unwitnessed: int = 0
    uncharged: set[str] = field(default_factory=set)
    unsigned: set[str] = field(default_factory=set)
    restarts_s: list[float] = field(default_factory=list)
    ended_by_itself: list[str] = field(default_factory=list)
    findings: list[Any] = field(default_factory=list)
    cold_start_s: float = 0.0
    cold_start_cpu_s: float = 0.0
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """Figures for a table."""
        return {
            "kills": self.kills,
            "orders that left": self.orders,
            "charges": self.charges,
            "charges without an order that left (over-count)": self.unwitnessed,
            "orders without a charge in the database (under-count)": len(self.uncharged),
            "orders without a charge in the signed file (under-count)": len(self.unsigned),
            "charges never settled, counted in full": self.open_charges,
            "rounds closed": self.rounds,
            "ledger entries": self.entries,
            "breaches of the chain or its rules": len(self.findings),
            "starts that failed": len(self.ended_by_itself),
            "restart to first order, median s": round(statistics.median(self.restarts_s), 3),
            "restart to first order, most s": round(max(self.restarts_s), 3),
            "one restart with Python and all imports, s": round(self.cold_start_s, 3),
            "the same in CPU-seconds": round(self.cold_start_cpu_s, 3),
            "seconds": round(self.seconds, 1),
        }


class _Watch:
    """Follows chain and charges, so that a look after each death costs what is new."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self.previous, self.entries, self.charged = FIRST_PREVIOUS, [], set()

    def look(self) -> None:
        """Take in new rows of the table; each must follow the one before."""
        place = self._place
        if place.dialect == "sqlite" and not Path(str(place.where)).exists():
            return
        try:
            rows = place.sql(
                f"SELECT leaf FROM ledger_entries WHERE sequence >= {len(self.entries)} ORDER BY sequence"
            )
        except Exception as e:  # killed before its tables were made
            if "ledger_entries" in str(e):
                return
            raise
        for (leaf,) in rows:
            entry = entry_from_bytes(bytes(leaf))
            check_link(entry, len(self.entries), self.previous)
            self.previous = entry_hash(bytes(leaf))
            self.entries.append(entry)
            if isinstance(entry.body, Reserve):
                self.charged.add(entry.body.reservation_id)


def _witnessed(path: Path) -> tuple[set[str], list[float]]:
    lines = path.read_text().splitlines() if path.exists() else []
    return {line.split()[0] for line in lines}, [float(x.split()[1]) for x in lines if len(x.split()) == 2]


def kill_campaign(
    place: Place, folder: Path, *, kills: int, seed: int, mode: str = "right", start: Start | None = None
) -> Campaign:
    """Run the campaign.

    Args:
      place: an empty database.
      folder: for artifacts, the witness and the ledger.
      kills: how many.
      seed: of the moments. One in four is uniform within ``LONGEST_START_S`` of a start, the others within
        ``LONGEST_WORK_S`` of the first order after it.
      mode: ``right``, or ``forgetful``: orders leave before their charge is signed.
      start: of a ``mother`` that is there already; without one the last start is a cold one, and is timed.
    """
    moments, seen, watch = random.Random(seed), Campaign(), _Watch(place)
    witness, begun = folder / "witness", time.monotonic()
    line = f"{place.address} {place.ledger} {witness} {folder / 'artifacts'} {mode}\n"
    log = folder / "log"
    with mother(log) if start is None else nullcontext(start) as kill_one:
        for number in range(kills):
            is_early = number % 4 == 0  # within the start; the others at work

            def wait(size: int = _size(witness), is_early: bool = is_early) -> None:
                if not is_early:
                    _until(lambda: _size(witness) > size)
                time.sleep(moments.uniform(0.0, LONGEST_START_S if is_early else LONGEST_WORK_S))

            ended = kill_one(line, wait)
            seen.kills += 1
            if ended != -signal.SIGKILL:
                seen.ended_by_itself.append(log.read_text()[-2000:] if log.exists() else "")
            _look(place, witness, watch, seen)
    cold, size, used = time.monotonic(), _size(witness), resource.getrusage(resource.RUSAGE_CHILDREN)
    with mother(log) if start is None else nullcontext(start) as kill_one:
        kill_one(line, lambda: _until(lambda: _size(witness) > size))
        seen.cold_start_s = time.monotonic() - cold
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seen.cold_start_cpu_s = after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime
    _look(place, witness, watch, seen)
    _look_closely(place, watch, seen)
    seen.seconds = time.monotonic() - begun
    return seen


@contextmanager
def mother(log_path: Path) -> Iterator[Start]:
    """A process that forks coordinators: give it a line and a wait, it is killed after it; how it ended."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{CHILD.parent}", "OMP_NUM_THREADS": "1"}
    with log_path.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, str(CHILD)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=environment,
        )

    def start(line: str, wait: Callable[[], None]) -> int:
        process.stdin.write(line)
        process.stdin.flush()
        child = int(process.stdout.readline())
        try:
            wait()
        finally:
            os.kill(child, signal.SIGKILL)
        return int(process.stdout.readline())

    try:
        assert process.stdout.readline() == "ready\n", log_path.read_text()[-2000:]
        yield start
    finally:
        process.stdin.close()
        process.wait(30)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _until(is_so: Callable[[], bool], within_s: float = 60.0) -> None:
    end = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < end, f"nothing within {within_s:g} s"
        time.sleep(0.005)


def _look(place: Place, witness: Path, watch: _Watch, seen: Campaign) -> None:
    """As the death left it, before anything is mended."""
    left, seen.restarts_s = _witnessed(witness)
    watch.look()
    signed = (
        {
            json.loads(entry)["body"]["reservation_id"]
            for entry in (place.ledger / "entries.jsonl").read_bytes().split(b"\n")[:-1]
            if b'"kind":"reserve"' in entry
        }
        if (place.ledger / "entries.jsonl").exists()
        else set()
    )
    seen.uncharged |= left - watch.charged
    seen.unsigned |= left - signed
    seen.orders, seen.charges = len(left), len(watch.charged)
    seen.unwitnessed = len(watch.charged - left)


def _look_closely(place: Place, watch: _Watch, seen: Campaign) -> None:
    """At the end: what was mended is whole, tables and ledger tell the same, and nothing is left to complete."""
    store = place.open()
    try:
        with store._transaction():
            pass  # a commit of whoever was killed may be under way still; it holds the lock
        watch.look()
        seen.charges = len(watch.charged)
        before = store.ledger.leaves()
        store.ledger.reconcile()
        watch.look()
        assert store.ledger.leaves() == before
        assert CoordinatorLedger(place.ledger).leaves() == before
        state = check_entries(watch.entries)
        seen.findings = state.findings
        seen.entries = len(watch.entries)
        seen.open_charges = len(state.reserves) - len(state.settled)
        seen.rounds = sum(len(store.closed_rounds(run.run_id)) for run in store.list_runs())
        events = sum(len(store.spent_events(client)) for client in "abc")
        assert events == len(state.reserves) == seen.charges
    finally:
        store.close()
    if place.dialect == "sqlite":
        assert place.sql("PRAGMA integrity_check") == [("ok",)]

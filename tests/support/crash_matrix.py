"""Kill a coordinator at a crash point, start it again, and hold what it does against a run that was not disturbed."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

import crashing_coordinator
import forked_motet
from databases import Place

from coordinator.crashpoints import crash_points
from coordinator.storage.where import FILE
from privacy.ledger.chain import entry_from_bytes, verify_chain
from privacy.ledger.entries import Reserve
from privacy.ledger.rules import check_entries

WITHIN_S = 120.0


@dataclass
class Whole:
    """A run that was not disturbed: final adapter, charges, and how often each crash point was reached."""

    adapter_sha256: str
    charges: int
    reached: dict[str, int]


@dataclass
class Case:
    """What one death cost, and what it broke; ``faults`` is empty where every promise was kept."""

    at: str
    dialect: str
    faults: list[str] = field(default_factory=list)
    ready_s: float = 0.0
    rounds_repeated: int = 0
    orders_repeated: int = 0
    acknowledged: int = 0
    extra_charges: int = 0


class Site:
    """One home with its database, for coordinators that live one after the other, or two at a time.

    Args:
      place: an empty database; of SQLite, the file in the home.
      home: the coordinator's.
    """

    def __init__(self, place: Place, home: Path) -> None:
        self.place, self.home = place, home
        self.witness, self.log = home.parent / "witness", home.parent / "log"
        home.mkdir(parents=True, exist_ok=True)
        if place.dialect == "postgresql":
            (home / FILE).write_text(place.address + "\n")

    def start(self, *, home: Path | None = None, **job):
        """A coordinator in the background, forked from one that has imported everything."""
        whole = {
            "home": str(home or self.home),
            "witness": str(self.witness),
            "log": str(self.log),
            "begun": time.monotonic(),
            **job,
        }
        return forked_motet.start_function(crashing_coordinator.serve_until_done, whole)

    def run(self, **job) -> int:
        """A coordinator to its end; its exit code."""
        process = self.start(**job)
        process.join(WITHIN_S)
        if process.exitcode is None:
            process.kill()
            process.join(10)
            raise AssertionError(f"no end within {WITHIN_S:g} s: {self.tail()}")
        return process.exitcode

    def tail(self) -> str:
        """The end of what coordinators logged."""
        return self.log.read_text()[-3000:] if self.log.exists() else ""

    def events(self, name: str):
        """What coordinators told, by kind, in order."""
        lines = self.witness.read_text().splitlines() if self.witness.exists() else []
        return [e for e in map(json.loads, lines) if e["event"] == name]

    def open(self):
        """The store."""
        return self.place.open()


def whole_run(site: Site) -> Whole:
    """Play the script without a death.

    Raises:
      AssertionError: it does not end as the script says.
    """
    assert site.run(counts=True) == 0, site.tail()
    reached: dict[str, int] = {}
    for event in site.events("reached"):
        reached[event["name"]] = reached.get(event["name"], 0) + 1
    store = site.open()
    try:
        assert {r.run_id: r.state for r in store.list_runs()} == crashing_coordinator.ENDS, site.tail()
        return Whole(
            adapter_sha256=store.get_run("r-main").adapter_sha256,
            charges=store.count_rows()["privacy_events"],
            reached=reached,
        )
    finally:
        store.close()


def places_to_die(whole: Whole) -> list[str]:
    """Every crash point the first time it is reached, and once more in the middle where it is reached often."""
    found = []
    for name in crash_points():
        count = whole.reached.get(name, 0)
        found.append(f"{name}:1")
        if count > 2 and not name.startswith("lease."):
            found.append(f"{name}:{(count + 2) // 2}")
    return found


def die_and_return(site: Site, at: str, whole: Whole, **job) -> Case:
    """One case of the matrix; ``job`` is for the coordinator that dies."""
    case = Case(at=at, dialect=site.place.dialect)
    ended = site.run(at=at, **job)
    if ended != -signal.SIGKILL:
        case.faults.append(f"it did not die there: {ended}: {site.tail()}")
        return case
    before = _look(site)
    _check_no_order_without_charge(site, case)
    case.acknowledged = len(before["acknowledged"])
    size = len(site.events("ready"))
    if site.run() != 0:
        case.faults.append(f"it did not end well after its return: {site.tail()}")
        return case
    case.ready_s = site.events("ready")[size]["s"]
    _check_no_order_without_charge(site, case)
    after = _look(site)
    lost = {k: v for k, v in before["acknowledged"].items() if after["acknowledged"].get(k) != v}
    if lost:
        case.faults.append(f"acknowledged and lost: {lost}")
    if after["ends"] != crashing_coordinator.ENDS:
        case.faults.append(f"runs ended as {after['ends']}")
    if after["adapter"] != whole.adapter_sha256:
        case.faults.append(f"another adapter: {after['adapter']}")
    if after["findings"]:
        case.faults.append(f"the ledger breaks its rules: {after['findings']}")
    if after["double"]:
        case.faults.append(f"committed twice: {after['double']}")
    case.extra_charges = after["charges"] - whole.charges
    if case.extra_charges < 0:
        case.faults.append(f"{-case.extra_charges} charges fewer than a run without a death")
    orders = [(e["pid"], e["place"]) for e in site.events("order")]
    pids = {pid for pid, _ in orders}
    by_process = [{place for pid, place in orders if pid == one} for one in pids]
    again = set.intersection(*by_process) if len(by_process) > 1 else set()
    case.orders_repeated = len(again)
    case.rounds_repeated = len({place.rsplit("/", 2)[0] for place in again})
    if case.rounds_repeated > 1:
        case.faults.append(f"repeated more than one round: {sorted(again)}")
    if case.ready_s > 10:
        case.faults.append(f"serving again after {case.ready_s:.1f} s")
    return case


def _look(site: Site):
    """What is acknowledged, whatever state the death left."""
    if site.place.dialect == "sqlite" and not Path(str(site.place.where)).exists():
        return {"acknowledged": {}}
    store = site.open()
    try:
        acknowledged: dict[str, object] = {}
        double = []
        for run in store.list_runs():
            acknowledged[run.run_id] = run.recipe_sha256
            rounds = store.rounds(run.run_id)
            closed = [r.round_index for r in rounds if r.state == "CLOSED"]
            double += [f"{run.run_id}/{i}" for i in closed if closed.count(i) > 1]
            for row in rounds:
                if row.state == "CLOSED":
                    acknowledged[f"{run.run_id}/{row.round_index}"] = row.adapter_sha256
            for c in store.contributions(run.run_id):
                if c.state == "RECEIVED":
                    acknowledged[f"{c.run_id}/{c.round_index}/{c.attempt}/{c.client_id}"] = c.payload_sha256
                    path = next(site.home.glob(f"artifacts/{c.payload_sha256[:2]}/{c.payload_sha256}*"), None)
                    if path is None or path.stat().st_size == 0:
                        double.append(f"no file of {c.payload_sha256}")
        entries = verify_chain(store.ledger.leaves()) if store.ledger.leaves() else []
        return {
            "acknowledged": acknowledged,
            "double": double,
            "ends": {r.run_id: r.state for r in store.list_runs()},
            "adapter": next((r.adapter_sha256 for r in store.list_runs() if r.run_id == "r-main"), ""),
            "charges": store.count_rows()["privacy_events"],
            "findings": check_entries(entries).findings if entries else [],
        }
    finally:
        store.close()


def _check_no_order_without_charge(site: Site, case: Case) -> None:
    left = {e["reservation"] for e in site.events("order")}
    if not left:
        return
    charged = {row[0] for row in site.place.sql("SELECT reservation_id FROM privacy_events")}
    path = site.home / "ledger" / "entries.jsonl"
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    bodies = [entry_from_bytes(line).body for line in lines]
    signed = {b.reservation_id for b in bodies if isinstance(b, Reserve)}
    if left - charged:
        case.faults.append(f"orders without a charge in the database: {left - charged}")
    if left - signed:
        case.faults.append(f"orders without a charge in the signed file: {left - signed}")


def new_home(folder: Path) -> Path:
    """A folder for a home, with room beside it."""
    home = folder / f"case-{os.urandom(4).hex()}" / "home"
    home.mkdir(parents=True)
    return home

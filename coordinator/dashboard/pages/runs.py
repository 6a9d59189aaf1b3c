"""All runs, newest first."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from coordinator.dashboard.records import Traffic
from coordinator.engine.waiting import Situation, why_it_waits
from coordinator.rounds.table import ENDED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from coordinator.dashboard.records import Records
    from coordinator.storage.models import RunRow

PAGE = 50
NOBODY_LEADS = why_it_waits(Situation(is_leading=False))
STATES = ("RUNNING", "QUEUED", "PROPOSED", "HELD", "FINISHED", "FAILED", "CANCELLED")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunLine:
    """One run in the list. Times are seconds since 1970; bytes are of payloads, over all rounds."""

    run_id: str
    name: str
    state: str
    method: str
    is_private: bool
    rounds_closed: int
    rounds_total: int
    clients: int
    bytes_up: int
    bytes_down: int
    reason: str
    submitted_by: str
    created_at: float
    finished_at: float | None

    @property
    def is_over(self) -> bool:
        """Whether nothing more happens by itself."""
        return self.state in ENDED


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodTraffic:
    """What a round of a method cost: payload bytes of all clients together, mean over its closed rounds."""

    method: str
    runs: int
    rounds: int
    up_a_round: float
    down_a_round: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RunsPage:
    """A page of the list. ``number`` counts from 1; ``counts`` is over all runs, in the order of a run's life."""

    runs: Sequence[RunLine]
    counts: Mapping[str, int]
    total: int
    number: int
    pages: int
    methods: Sequence[MethodTraffic]


def runs_page(records: Records, number: int = 1) -> RunsPage:
    """The list of runs.

    Args:
      records: of the home.
      number: of the page; one that is not there is the nearest that is.

    Raises:
      StorageError: the database can not be read.
    """
    counts = records.states()
    total = sum(counts.values())
    pages = max(1, -(-total // PAGE))
    number = min(max(1, number), pages)
    rows, _ = records.runs(offset=(number - 1) * PAGE, limit=PAGE)
    names = [row.run_id for row in rows]
    closed, traffic = records.closed(names), records.traffic(names)
    leader = records.store.leases.leader()
    is_led = leader is not None and leader.left_s > 0
    lines = [
        _line(is_led, row, closed.get(row.run_id, 0), traffic.get(row.run_id, Traffic())) for row in rows
    ]
    return RunsPage(
        runs=lines,
        counts={state: counts[state] for state in STATES if counts.get(state)},
        total=total,
        number=number,
        pages=pages,
        methods=by_method(lines),
    )


def _line(is_led: bool, row: RunRow, closed: int, traffic: Traffic) -> RunLine:
    recipe = json.loads(row.recipe_json)
    return RunLine(
        run_id=row.run_id,
        name=row.name,
        state=row.state,
        method=str(recipe["method"]["name"]),
        is_private=recipe.get("privacy") is not None,
        rounds_closed=closed,
        rounds_total=int(recipe["training"]["rounds"]),
        clients=traffic.clients,
        bytes_up=traffic.bytes_up,
        bytes_down=traffic.bytes_down,
        reason=row.reason if is_led or row.state not in {"QUEUED", "RUNNING"} else NOBODY_LEADS,
        submitted_by=row.submitted_by,
        created_at=row.created_at,
        finished_at=row.finished_at,
    )


def by_method(lines: Sequence[RunLine]) -> list[MethodTraffic]:
    """Bytes of a round, by method, from the runs of a page that have closed one; most first."""
    found: dict[str, list[RunLine]] = {}
    for line in lines:
        if line.rounds_closed:
            found.setdefault(line.method, []).append(line)
    made = []
    for method, runs in found.items():
        rounds = sum(r.rounds_closed for r in runs)
        made.append(
            MethodTraffic(
                method=method,
                runs=len(runs),
                rounds=rounds,
                up_a_round=sum(r.bytes_up for r in runs) / rounds,
                down_a_round=sum(r.bytes_down for r in runs) / rounds,
            )
        )
    return sorted(made, key=lambda m: (-m.up_a_round - m.down_a_round, m.method))

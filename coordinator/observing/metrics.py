"""The figures of a coordinator in Prometheus' terms, counted from the database when somebody asks.

Counted from rows, they survive a restart and are the same on a standby. No label holds a client, a run or a value of
anybody's data, and each has a handful of values: a scraper, which is often many people, learns how the service does
and not who takes part. Spent epsilon is not among them: it is the data owner's figure, it tells how much somebody
took part, and it needs an accountant's work; ``motet budget`` and ``motet audit`` have it for those who may ask.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, SummaryMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy import func, select

from coordinator.errors import StorageError
from coordinator.storage.models import ClientRow, ContributionRow, LedgerEntryRow, MetricRow, RoundRow, RunRow

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.metrics_core import Metric
    from sqlalchemy.orm import Session

    from coordinator.observing.status import Status
    from coordinator.storage.artifacts import ArtifactStore
    from coordinator.storage.database import Database

FRESH_S = 5.0  # who asks more often gets the figures of the last time
FILES_FRESH_S = 60.0
OTHER = "other"
CODES = frozenset(
    {
        "approval_pending", "bad_count", "bad_dtype", "bad_gaps", "bad_header", "bad_key", "bad_level",
        "bad_offsets", "bad_scale", "bad_order", "bad_score", "bad_shape", "bad_signature", "bad_weight",
        "bundle_refused", "cancelled", "client_crashed", "client_failed", "client_unreachable", "control_lost",
        "deadline", "did_not_move", "hash_differs", "header_too_large", "ledger_failed", "ledger_rolled_back",
        "length_differs", "malformed_reply", "missing_key", "not_admitted", "not_canonical", "not_finite",
        "not_private", "outside_hours", "over_capacity", "policy_refused", "released_count", "revoked",
        "too_large", "truncated", "unexpected_key", "unsigned", "wrong_envelope",
    }
)  # fmt: skip
"""Reasons of clients and of admission that are told apart; a client may send any word, so the rest is ``other``."""
RUN_STATES = ("PROPOSED", "HELD", "QUEUED", "RUNNING", "FINISHED", "FAILED", "CANCELLED")
REFUSALS = (
    "handshake", "NotAuthenticatedError", "NotAllowedError", "AdmissionRefusedError", "BusyError", "BadRequestError",
    "ServerFaultError",
)  # fmt: skip
"""Reasons of refused calls that are told apart; those of what was asked for, such as an unknown run, are ``other``."""
_OUTCOMES = {"RECEIVED": "received", "FAILED": "failed", "LATE": "late"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """One row of the table in docs/operations.md."""

    name: str
    kind: str
    labels: tuple[str, ...]
    what: str


METRICS = (
    Described(name="motet_database_up", kind="gauge", labels=(), what="1 while the database answers"),
    Described(
        name="motet_leading", kind="gauge", labels=(), what="1 while this coordinator leads its database"
    ),
    Described(
        name="motet_child_up", kind="gauge", labels=("process",), what="1 while SuperLink or gateway runs"
    ),
    Described(name="motet_runs", kind="gauge", labels=("state",), what="runs by state; QUEUED is the queue"),
    Described(
        name="motet_rounds_total",
        kind="counter",
        labels=("state",),
        what="attempts at rounds, closed or aborted",
    ),
    Described(
        name="motet_round_seconds",
        kind="summary",
        labels=(),
        what="seconds from plan to close, of closed rounds",
    ),
    Described(
        name="motet_replies_total",
        kind="counter",
        labels=("outcome", "code"),
        what="answers by outcome and reason",
    ),
    Described(name="motet_open_orders", kind="gauge", labels=(), what="orders that are not answered yet"),
    Described(
        name="motet_bytes_total",
        kind="counter",
        labels=("direction",),
        what="payload bytes of orders and updates",
    ),
    Described(
        name="motet_clients", kind="gauge", labels=("state",), what="registered, and online at the last look"
    ),
    Described(name="motet_ledger_entries", kind="gauge", labels=(), what="entries of the ledger"),
    Described(
        name="motet_artifact_bytes", kind="gauge", labels=(), what="bytes of stored adapters and updates"
    ),
    Described(name="motet_artifact_files", kind="gauge", labels=(), what="number of them"),
    Described(
        name="motet_refused_calls_total",
        kind="counter",
        labels=("reason",),
        what="calls of the control API that were refused, since the coordinator started",
    ),
    Described(
        name="process_resident_memory_bytes",
        kind="gauge",
        labels=(),
        what="memory of the coordinator's process",
    ),
)
_WHAT = {m.name: m.what for m in METRICS}


def code_label(code: str) -> str:
    """A reason as a label: one of ``CODES``, ``other``, or empty."""
    return code if not code or code in CODES else OTHER


class CoordinatorCollector(Collector):
    """Counts when it is asked, at most every few seconds.

    Args:
      database: read, never written; it may be away.
      artifacts: whose files are counted.
      status: what the service says of itself.
    """

    def __init__(self, database: Database, artifacts: ArtifactStore, status: Status) -> None:
        self._database, self._artifacts, self._status = database, artifacts, status
        self._lock = threading.Lock()
        self._counted: tuple[float, list[Metric]] | None = None
        self._files: tuple[float, int, int] | None = None

    def describe(self) -> Iterator[Metric]:
        """Nothing: names are known when they are asked for, and the database is not asked at the start."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """All of ``METRICS`` but those of the process; without the database those that need none."""
        with self._lock:
            if self._counted is None or time.monotonic() - self._counted[0] > FRESH_S:
                self._counted = time.monotonic(), self._count()
            yield from self._counted[1]
        yield _gauge("motet_leading", float(self._status.is_leading))
        children = _labelled("motet_child_up", "process")
        for name, is_up in self._status.children_up().items():
            children.add_metric([name], float(is_up))
        yield children
        refused = CounterMetricFamily(
            "motet_refused_calls", _WHAT["motet_refused_calls_total"], labels=["reason"]
        )
        by_reason = self._status.refused_calls()
        for reason in REFUSALS:
            refused.add_metric([reason], by_reason.get(reason, 0))
        refused.add_metric([OTHER], sum(n for reason, n in by_reason.items() if reason not in REFUSALS))
        yield refused
        num_bytes, files = self._count_files()
        yield _gauge("motet_artifact_bytes", num_bytes)
        yield _gauge("motet_artifact_files", files)

    def _count(self) -> list[Metric]:
        try:
            with self._database.reading() as session:
                found = [*_runs(session), *_rounds(session), *_contributions(session)]
                registered = session.scalar(select(func.count()).select_from(ClientRow)) or 0
                entries = session.scalar(select(func.count()).select_from(LedgerEntryRow)) or 0
        except StorageError:
            return [_gauge("motet_database_up", 0.0)]
        clients = _labelled("motet_clients", "state")
        clients.add_metric(["registered"], registered)
        clients.add_metric(["online"], self._status.online())
        return [*found, clients, _gauge("motet_ledger_entries", entries), _gauge("motet_database_up", 1.0)]

    def _count_files(self) -> tuple[int, int]:
        with self._lock:
            if self._files is None or time.monotonic() - self._files[0] > FILES_FRESH_S:
                sizes = []
                for _, path in self._artifacts.files():
                    try:
                        sizes.append(path.stat().st_size)
                    except FileNotFoundError:
                        continue  # collected since
                self._files = time.monotonic(), sum(sizes), len(sizes)
            return self._files[1:]


def registry_of(collector: CoordinatorCollector) -> CollectorRegistry:
    """A registry with the coordinator's figures and those of its process; none of the library's own."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    ProcessCollector(registry=registry)
    return registry


def metrics_text(registry: CollectorRegistry) -> bytes:
    """The figures as Prometheus reads them."""
    return generate_latest(registry)


def _runs(session: Session) -> Iterator[Metric]:
    counted = {r[0]: r[1] for r in session.execute(select(RunRow.state, func.count()).group_by(RunRow.state))}
    family = _labelled("motet_runs", "state")
    for state in RUN_STATES:
        family.add_metric([state], counted.get(state, 0))
    family.add_metric([OTHER], sum(n for state, n in counted.items() if state not in RUN_STATES))
    yield family


def _rounds(session: Session) -> Iterator[Metric]:
    counted = {
        r[0]: r[1] for r in session.execute(select(RoundRow.state, func.count()).group_by(RoundRow.state))
    }
    family = CounterMetricFamily("motet_rounds", _WHAT["motet_rounds_total"], labels=["state"])
    for state in ("CLOSED", "ABORTED"):
        family.add_metric([state], counted.get(state, 0))
    yield family
    query = select(func.count(), func.sum(MetricRow.value)).where(MetricRow.name == "seconds")
    count, seconds = session.execute(query).one()
    yield SummaryMetricFamily(
        "motet_round_seconds", _WHAT["motet_round_seconds"], count_value=count, sum_value=seconds or 0.0
    )


def _contributions(session: Session) -> Iterator[Metric]:
    row = ContributionRow
    query = select(row.state, row.error_code, func.count(), func.sum(row.bytes_up), func.sum(row.bytes_down))
    replies: dict[tuple[str, str], int] = {("received", ""): 0}
    up, down, waiting = 0, 0, 0
    for state, code, count, bytes_up, bytes_down in session.execute(
        query.group_by(row.state, row.error_code)
    ):
        up, down = up + int(bytes_up or 0), down + int(bytes_down or 0)
        waiting += count if state == "ORDERED" else 0
        if state in _OUTCOMES:
            key = (_OUTCOMES[state], code_label(code))
            replies[key] = replies.get(key, 0) + count
    family = CounterMetricFamily("motet_replies", _WHAT["motet_replies_total"], labels=["outcome", "code"])
    for key, count in sorted(replies.items()):
        family.add_metric(list(key), count)
    yield family
    yield _gauge("motet_open_orders", waiting)
    moved = CounterMetricFamily("motet_bytes", _WHAT["motet_bytes_total"], labels=["direction"])
    moved.add_metric(["up"], up)
    moved.add_metric(["down"], down)
    yield moved


def _gauge(name: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, _WHAT[name], value=value)


def _labelled(name: str, label: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, _WHAT[name], labels=[label])

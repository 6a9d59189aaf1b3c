"""The events of a watched run, read from the store: what changed since the last look."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from coordinator.errors import DatabaseAwayError
from coordinator.rpc.records import approved_by, reason_of, round_of, run_of
from motet.wire.control import Heartbeat, RunEvent

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import grpc

    from coordinator.rpc.context import Resources
    from coordinator.storage.store import Store
    from motet.wire.control import Round, Run

log = logging.getLogger(__name__)


def run_events(
    store: Store, run_id: str, context: grpc.ServicerContext, resources: Resources
) -> Iterator[RunEvent]:
    """Events from the run as it is to its end.

    The thread that iterates sleeps between looks, and wakes at once when the caller leaves or the server stops.
    """
    left = threading.Event()
    if not context.add_callback(left.set):
        return
    number, said_at = 0, resources.clock.monotonic()
    run: Run | None = None
    rounds: dict[tuple[int, int], Round] = {}
    while not left.is_set() and not resources.stopping.is_set():
        news: list[Run | Round | Heartbeat] = []
        try:
            row = store.get_run(run_id)  # before its rounds: an ended run has no more of them
            now = _rounds(store, run_id, rounds)
            closed = sum(r.state == "CLOSED" for r in now.values())
            latest = run_of(
                row,
                rounds_closed=closed,
                approved=approved_by(store, row.recipe_sha256),
                reason=reason_of(store, row),
            )
        except DatabaseAwayError as e:
            if run is None:
                raise
            log.info("%s; the watch goes on when it is back", e.message)
        else:
            news += [r for key, r in now.items() if rounds.get(key) != r]
            if latest != run:
                news = [latest, *news] if run is None else [*news, latest]
            run, rounds = latest, now
        if not news and resources.clock.monotonic() - said_at >= resources.heartbeat_s:
            news.append(Heartbeat())
        for item in news:
            number, said_at = number + 1, resources.clock.monotonic()
            yield _event(number, resources.clock.now(), item)
        if run and run.has_ended:
            return
        left.wait(resources.poll_s)


def _rounds(
    store: Store, run_id: str, known: Mapping[tuple[int, int], Round]
) -> dict[tuple[int, int], Round]:
    """Every attempt; what was closed or aborted at the last look is not read again."""
    found: dict[tuple[int, int], Round] = {}
    cuts: Mapping[int, float] | None = None
    for row in store.rounds(run_id):
        key = (row.round_index, row.attempt)
        before = known.get(key)
        if before is not None and before.state == row.state and row.state != "PLANNED":
            found[key] = before
            continue
        cuts = store.figures(run_id, "truncation_error") if cuts is None else cuts
        contributions = store.contributions(run_id, *key)
        found[key] = round_of(row, contributions, cuts, store.scores.of(run_id, row.round_index))
    return found


def _event(number: int, at: float, item: Run | Round | Heartbeat) -> RunEvent:
    field = type(item).__name__.lower()
    return RunEvent(number=number, at=at, **{field: item})  # type: ignore[arg-type]

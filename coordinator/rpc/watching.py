"""The events of a watched run, read from the store: what changed since the last look."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from coordinator.rpc.records import rounds_of, run_of
from motet.wire.control import Heartbeat, RunEvent

if TYPE_CHECKING:
    from collections.abc import Iterator

    import grpc

    from coordinator.rpc.context import Resources
    from coordinator.storage.store import Store
    from motet.wire.control import Round, Run


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
        row = store.get_run(run_id)  # before its rounds: an ended run has no more of them
        now = {(r.round_index, r.attempt): r for r in rounds_of(store, run_id)}
        changed = [r for key, r in now.items() if rounds.get(key) != r]
        latest = run_of(row, rounds_closed=sum(r.state == "CLOSED" for r in now.values()))
        news: list[Run | Round | Heartbeat] = [*changed]
        if latest != run:
            news = [latest, *changed] if run is None else [*changed, latest]
        if not news and resources.clock.monotonic() - said_at >= resources.heartbeat_s:
            news = [Heartbeat()]
        run, rounds = latest, now
        for item in news:
            number, said_at = number + 1, resources.clock.monotonic()
            yield _event(number, resources.clock.now(), item)
        if latest.has_ended:
            return
        left.wait(resources.poll_s)


def _event(number: int, at: float, item: Run | Round | Heartbeat) -> RunEvent:
    field = type(item).__name__.lower()
    return RunEvent(number=number, at=at, **{field: item})  # type: ignore[arg-type]

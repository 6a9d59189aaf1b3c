"""Several runs at once: each in a thread of its own over one grid and one store, in the order of the queue.

What ends one run ends no other. A fault that nobody foresaw fails the run that met it and goes to the log; what the
whole service can not work without (the link to clients, the lead of the database) is handed to its loop.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from coordinator.engine.round_engine import EngineStoppedError
from coordinator.engine.waiting import Situation, why_it_waits
from coordinator.errors import DatabaseAwayError, LeadLostError
from motet.errors import MotetError

if TYPE_CHECKING:
    from collections.abc import Callable

    from coordinator.storage.store import Store

log = logging.getLogger(__name__)
JOIN_S = 20.0


class RunQueue:
    """Takes runs from the store and works on up to ``max_runs`` of them.

    Args:
      store: of the runs.
      work: brings one run to its end; called in the run's thread.
      max_runs: how many at once, at least 1.
      ends_service: errors that are of the service and not of the run.
    """

    def __init__(
        self,
        store: Store,
        work: Callable[[str], object],
        *,
        max_runs: int = 1,
        ends_service: tuple[type[MotetError], ...] = (DatabaseAwayError, LeadLostError),
    ) -> None:
        self._store, self._work, self._max_runs = store, work, max_runs
        self._ends_service = ends_service
        self._threads: dict[str, threading.Thread] = {}
        self._outcomes: dict[str, BaseException | None] = {}
        self._said: dict[str, str] = {}
        self._one_ended = threading.Event()

    @property
    def at_work(self) -> list[str]:
        """The runs that have a thread."""
        return sorted(self._threads)

    def step(self) -> bool:
        """Look after runs that ended, start what may start, tell the others why they wait. Never waits.

        Returns:
          whether there is, or may soon be, something to do.

        Raises:
          MotetError: of the service, as a run met it; or the store can not be read.
        """
        self._reap()
        waiting = [run for run in self._store.open_runs() if run.run_id not in self._threads]
        for run in list(waiting):
            if len(self._threads) >= self._max_runs:
                break
            waiting.remove(run)
            self._start(run.run_id)
        for run in waiting:
            if run.cancel_requested:
                self._store.end_run(run.run_id, "CANCELLED", "cancelled before it started")
            else:
                self._say(run.run_id)
        return bool(self._threads or waiting)

    def _start(self, run_id: str) -> None:
        if self._said.pop(run_id, ""):
            self._store.wait_reason(run_id, "")
        thread = threading.Thread(target=self._run, args=(run_id,), name=f"run-{run_id}", daemon=True)
        self._threads[run_id] = thread
        thread.start()

    def _run(self, run_id: str) -> None:
        outcome: BaseException | None = None
        try:
            self._work(run_id)
            log.info("run %s finished", run_id)
        except BaseException as e:  # noqa: BLE001 - the loop of the service hears of it
            outcome = e
        self._outcomes[run_id] = outcome
        self._one_ended.set()

    def _say(self, run_id: str) -> None:
        reason = why_it_waits(Situation(ahead=self.at_work))
        if self._said.get(run_id) != reason:
            self._store.wait_reason(run_id, reason)
            self._said[run_id] = reason

    def _reap(self) -> None:
        for run_id in [r for r in self._threads if r in self._outcomes]:
            self._threads.pop(run_id).join()
            self._judge(run_id, self._outcomes.pop(run_id))

    def _judge(self, run_id: str, outcome: BaseException | None) -> None:
        if outcome is None or isinstance(outcome, EngineStoppedError):
            return
        if isinstance(outcome, self._ends_service):
            raise outcome  # the run stays as it is
        if isinstance(outcome, MotetError):
            log.warning("run %s ended: %s", run_id, outcome.message)
            self._store.end_run(run_id, "FAILED", outcome.message)
            return
        log.error("run %s met a fault of Motet", run_id, exc_info=outcome)
        kind = type(outcome).__name__
        self._store.end_run(
            run_id, "FAILED", f"a fault of Motet ended it ({kind}); the coordinator's log has it"
        )

    def wait(self, within_s: float) -> None:
        """Until a run has ended, or so long."""
        self._one_ended.wait(within_s)
        self._one_ended.clear()

    def join(self, within_s: float = JOIN_S) -> None:
        """Wait for the threads, which were told to stop by other means."""
        for thread in self._threads.values():
            thread.join(within_s)

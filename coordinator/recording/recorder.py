"""Records the rounds of runs that name trackers, beside the work and after it: the store tells what has closed.

A round is recorded once its commit is done, by a thread that looks at the store; nothing waits for it. What a crash
left unrecorded is recorded when the coordinator is back.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from coordinator.recording.released import released_figures, released_last_scores
from coordinator.recording.writing import Writing
from motet.errors import MotetError
from motet.recipe import from_canonical_json, round_event
from privacy.accounting import epsilon_pld

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from coordinator.storage.models import RoundRow
    from coordinator.storage.store import Store
    from motet.recipe import Recipe

log = logging.getLogger(__name__)
_Result = TypeVar("_Result")
LOOK_S = 0.5
LEAVE_S = 120.0  # after a run has ended: how long its thread waits for the last rounds to be written
DONE = "done"
"""A file beside what was recorded: the run has ended and all of it is there."""


class Recorder:
    """Records runs into folders below ``folder``, each named by its run.

    Args:
      store: tells what has closed.
      folder: of all runs' trackers.
      look_s: seconds between looks at the store.
    """

    def __init__(self, store: Store, folder: Path, *, look_s: float = LOOK_S) -> None:
        self._store, self._folder, self._look_s = store, folder, look_s

    def around(self, work: Callable[[str], _Result]) -> Callable[[str], _Result]:
        """``work`` on a run, recorded while it goes on."""

        def run(run_id: str) -> _Result:
            recipe = from_canonical_json(self._store.get_run(run_id).recipe_json)
            if not recipe.trackers.chosen:
                return work(run_id)
            recording = _Recording(self._store, self._folder / run_id, run_id, recipe, self._look_s)
            recording.start()
            try:
                return work(run_id)
            finally:
                recording.finish()

        return run

    def catch_up(self) -> threading.Thread:
        """Record, in a thread, what a crash after the end of a run left unrecorded."""
        thread = threading.Thread(target=self._catch_up, name="trackers-catch-up", daemon=True)
        thread.start()
        return thread

    def _catch_up(self) -> None:
        if not self._folder.is_dir():
            return
        for place in sorted(self._folder.iterdir()):
            try:
                if (place / DONE).exists() or not self._store.get_run(place.name).finished_at:
                    continue
                recipe = from_canonical_json(self._store.get_run(place.name).recipe_json)
                recording = _Recording(self._store, place, place.name, recipe, self._look_s)
                recording.start()
                recording.finish()
            except MotetError as e:
                log.warning("trackers of %s: %s", place.name, e.message)


class _Recording:
    """One run while it is worked on."""

    def __init__(self, store: Store, folder: Path, run_id: str, recipe: Recipe, look_s: float) -> None:
        self._store, self._folder, self._run_id, self._recipe = store, folder, run_id, recipe
        self._look_s = look_s
        self._over = threading.Event()
        self._given_up = threading.Event()
        self._writing: Writing | None = None
        self._epsilons: dict[int, float] = {}
        self._counted: set[tuple[int, int]] = set()
        self._charges: Counter[str] = Counter()  # every client of an attempt was charged, drawn or not
        self._thread = threading.Thread(target=self._record, name=f"trackers-{run_id}", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        (self._folder / DONE).unlink(missing_ok=True)  # a run that failed may go on
        self._thread.start()

    def finish(self) -> None:
        """The work is over: what has closed is written, or given up until the next start."""
        self._over.set()
        self._thread.join(LEAVE_S)
        if self._thread.is_alive():
            log.warning("run %s: its trackers are behind; they catch up at the next start", self._run_id)
            self._given_up.set()
            if self._writing is not None:
                self._writing.abandon()

    def _record(self) -> None:
        try:
            self._writing = Writing(self._recipe, self._run_id, self._folder)
            is_over = False
            while not is_over:
                is_over = self._over.wait(self._look_s)
                self._catch_up(self._writing)
            row = self._store.get_run(self._run_id)
            if row.state == "FINISHED":
                self._record_last(self._writing)
            self._writing.close(row.state if row.finished_at else "")
            if row.finished_at and not self._given_up.is_set():
                (self._folder / DONE).touch()
        except Exception as e:  # noqa: BLE001 - recording ends; the run does not
            log.warning("run %s goes on without its trackers: %s", self._run_id, type(e).__name__)
            if self._writing is not None:
                self._writing.abandon()

    def _catch_up(self, writing: Writing) -> None:
        first = writing.next_round()
        if first is None:
            return
        rounds = [r for r in self._store.closed_rounds(self._run_id) if r.round_index >= first]
        if not rounds:
            return
        metrics: dict[int, dict[str, float]] = {}
        for metric in self._store.metrics(self._run_id):
            metrics.setdefault(metric.round_index, {})[metric.name] = metric.value
        for closed in rounds:
            if self._given_up.is_set():
                return
            contributions = self._store.contributions(self._run_id, closed.round_index, closed.attempt)
            writing.record(
                released_figures(
                    self._recipe,
                    closed,
                    contributions,
                    metrics.get(closed.round_index, {}),
                    epsilon=self._epsilon(closed),
                    scores=self._store.scores.of(self._run_id, closed.round_index),
                )
            )

    def _record_last(self, writing: Writing) -> None:
        """What clients told of the last adapter, which no round starts from: a step after the last round."""
        rounds, first = self._recipe.training.rounds, writing.next_round()
        if first is None or first > rounds or self._given_up.is_set():
            return
        told = released_last_scores(self._recipe, self._run_id, self._store.scores.of(self._run_id, rounds))
        if told is not None:
            writing.record(told)

    def _epsilon(self, closed: RoundRow) -> float | None:
        """Of the client that this run has charged most often up to a round; None without privacy."""
        privacy, event = self._recipe.privacy, round_event(self._recipe)
        if privacy is None or event is None:
            return None
        for attempt in self._store.rounds(self._run_id):
            key = (attempt.round_index, attempt.attempt)
            if key in self._counted or key > (closed.round_index, closed.attempt):
                continue
            self._counted.add(key)
            self._charges.update(c.client_id for c in self._store.contributions(self._run_id, *key))
        most = max(self._charges.values(), default=0)
        if most not in self._epsilons:
            together = replace(event, num_steps=event.num_steps * most)
            self._epsilons[most] = epsilon_pld([together], privacy.target_delta)
        return self._epsilons[most]

"""What is known of a run that is watched, put together from its events: where it stands, and how long it may take."""

from __future__ import annotations

import statistics
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from motet.wire.control import Budget, Contribution, Metric, Round, Run, RunEvent

RECENT = 5  # closed rounds that the estimate is of
_WORDS = {"RECEIVED": "received", "LATE": "late", "SKIPPED": "not drawn"}
_REFUSALS = ("policy_refused", "outside_hours", "approval_pending", "over_capacity")
_REMARKABLE = ("failed", "refused", "late", "training", "ordered", "received", "not drawn")


def state_of(contribution: Contribution) -> str:
    """``ordered`` (not sent yet), ``training`` (the order is out), ``received``, ``refused``, ``failed``, ``late``."""
    if contribution.state == "ORDERED":
        return "training" if contribution.bytes_down else "ordered"
    if contribution.state == "FAILED":
        return "refused" if contribution.error_code in _REFUSALS else "failed"
    return _WORDS.get(contribution.state, contribution.state.lower())


class WatchedRun:
    """One run as its events tell it. Safe for threads: each answer is of one moment.

    Args:
      monotonic: seconds of a clock of this machine.
    """

    def __init__(self, monotonic: object = None) -> None:
        self._monotonic = monotonic if callable(monotonic) else time.monotonic
        self._lock = threading.Lock()
        self._ahead = 0.0  # the coordinator's clock minus this one's
        self.run: Run | None = None
        self.rounds: dict[tuple[int, int], Round] = {}
        self.figures: dict[str, list[float]] = {}
        self.budgets: dict[str, Budget] = {}
        self.away_s: float | None = None
        self._adding: dict[tuple[int, int], float] = {}  # attempt -> since when all have answered
        self._seen_to_begin: set[tuple[int, int]] = set()
        self._added_s: list[float] = []  # of rounds that were seen from the last answer to their end

    def take(self, event: RunEvent) -> bool:
        """Learn an event; whether it told anything new."""
        with self._lock:
            self.away_s = None
            if event.at:
                self._ahead = event.at - self._monotonic()
            if event.run is not None:
                is_new, self.run = event.run != self.run, event.run
                return is_new
            if event.round is not None:
                key = (event.round.round_index, event.round.attempt)
                before = self.rounds.get(key)
                self.rounds[key] = event.round
                self._time_adding(key, before, event.round, event.at or self.now())
                return before != event.round
            return False

    def _time_adding(self, key: tuple[int, int], before: Round | None, now: Round, at: float) -> None:
        """Note when all of an attempt have answered, and how long it took from there to its end."""
        if now.state == "PLANNED" and now.contributions and not _is_awaited(now):
            self._adding.setdefault(key, at)
            if before is not None and _is_awaited(before):
                self._seen_to_begin.add(key)
        elif now.state != "PLANNED":
            began = self._adding.pop(key, None)
            if began is not None and key in self._seen_to_begin and now.state == "CLOSED":
                self._added_s.append(max(0.0, (now.closed_at or at) - began))

    def adding_up(self) -> tuple[float, float | None] | None:
        """While the coordinator adds up: for how long, and how long it will be; None while clients are awaited.

        How long it will be is the median of the last rounds of this run whose adding up was seen from its beginning;
        None before there was one, and where this one has taken longer already.
        """
        newest = self.newest()
        with self._lock:
            began = None if newest is None else self._adding.get((newest.round_index, newest.attempt))
            known = self._added_s[-RECENT:]
        if began is None:
            return None
        passed = max(0.0, self.now() - began)
        left = statistics.median(known) - passed if known else 0.0
        return passed, left if left > 0 else None

    def take_figures(self, metrics: Sequence[Metric]) -> None:
        """The coordinator's figures of all rounds so far."""
        found: dict[str, list[float]] = {}
        for metric in sorted(metrics, key=lambda m: m.round_index):
            found.setdefault(metric.name, []).append(metric.value)
        with self._lock:
            self.figures = found

    def take_budgets(self, budgets: Sequence[Budget]) -> None:
        """What clients have spent."""
        with self._lock:
            self.budgets = {b.client_id: b for b in budgets}

    def lose(self, since_s: float) -> None:
        """The coordinator does not answer."""
        with self._lock:
            self.away_s = since_s

    def now(self) -> float:
        """Seconds since 1970 by the coordinator's clock, as far as it is known here."""
        return self._monotonic() + self._ahead

    def newest(self) -> Round | None:
        """The attempt that is worked on, or was last."""
        with self._lock:
            return self.rounds[max(self.rounds)] if self.rounds else None

    def bytes_so_far(self) -> tuple[int, int]:
        """Bytes that clients sent, and received, in all attempts."""
        with self._lock:
            parts = [c for r in self.rounds.values() for c in r.contributions]
        return sum(c.bytes_up for c in parts), sum(c.bytes_down for c in parts)

    def round_seconds(self) -> list[float]:
        """From the end of each closed round, or its own start where it is the first, to the end of the next."""
        with self._lock:
            closed = sorted(
                (r for r in self.rounds.values() if r.closed_at is not None and r.state == "CLOSED"),
                key=lambda r: r.round_index,
            )
        seconds, before = [], 0.0
        for found in closed:
            end = found.closed_at or 0.0
            seconds.append(end - (before or found.started_at))
            before = end
        return seconds

    def seconds_left(self) -> float | None:
        """By the median of the last closed rounds; None before the first one, and where the run does not run."""
        run, recent = self.run, self.round_seconds()[-RECENT:]
        if run is None or run.state != "RUNNING" or not recent:
            return None
        pace = statistics.median(recent)
        rounds_left = run.rounds_total - run.rounds_closed
        with self._lock:
            ends = [r.closed_at for r in self.rounds.values() if r.closed_at and r.state == "CLOSED"]
        elapsed = max(0.0, self.now() - max(ends))
        _, adding_left = self.adding_up() or (0.0, None)
        this = max(0.0, pace - elapsed, adding_left or 0.0)
        return max(0.0, pace * (rounds_left - 1)) + this if rounds_left else 0.0

    def clients(self) -> list[Contribution]:
        """Those of the newest attempt: who failed, refused or is late first, then who works, then who is done."""
        newest = self.newest()
        rows = () if newest is None else newest.contributions
        return sorted(rows, key=lambda c: (_place(state_of(c)), c.client_id))

    def states(self) -> Mapping[str, int]:
        """How many clients of the newest attempt are in which state."""
        counts: dict[str, int] = {}
        for client in self.clients():
            counts[state_of(client)] = counts.get(state_of(client), 0) + 1
        return counts

    def most_spent(self) -> Budget | None:
        """The budget of this round's clients that is nearest to its limit, or the highest where none has one."""
        names = {c.client_id for c in self.clients()}
        with self._lock:
            mine = [b for b in self.budgets.values() if b.client_id in names or not names]
        return max(mine, key=lambda b: (b.total / b.limit if b.limit else 0.0, b.total), default=None)


def _is_awaited(attempt: Round) -> bool:
    """Whether an answer is awaited."""
    return any(c.state == "ORDERED" for c in attempt.contributions)


def _place(state: str) -> int:
    return _REMARKABLE.index(state) if state in _REMARKABLE else len(_REMARKABLE)

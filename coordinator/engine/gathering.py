"""Who takes part in the next round: online, allowed by its owner, and free. Waits, and says exactly for what."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from coordinator.engine.approvals import Approvals, still_possible
from coordinator.engine.waiting import Situation, why_it_waits, without_whom
from coordinator.errors import RunFailedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from coordinator.engine.grid import Grid, GridClient
    from coordinator.engine.places import ClientPlaces
    from coordinator.storage.store import Store
    from motet.clock import Clock
    from motet.recipe import Recipe
    from motet.wire.leave import Leave

log = logging.getLogger(__name__)
COHORT_GRACE_S = 10.0  # how long named clients that are not there are waited for, when enough others are
LOOK_S = 0.5
FIRST_LOOK_S = 0.1  # while answers to questions are awaited


class Gathering:
    """The cohorts of one run.

    Args:
      grid: how clients are reached.
      store: takes the reason to wait.
      clock: patience.
      recipe: of the run.
      run_id: of the run.
      approvals: what owners say.
      places: which clients are busy.
      pause: waits, and may end the run.
      may_wait: for what owners can still change; a simulation has nobody who would.
    """

    def __init__(
        self,
        grid: Grid,
        store: Store,
        clock: Clock,
        recipe: Recipe,
        run_id: str,
        *,
        approvals: Approvals,
        places: ClientPlaces,
        pause: Callable[[float], None],
        may_wait: bool = True,
    ) -> None:
        self._may_wait = may_wait
        self._grid, self._store, self._clock, self._recipe = grid, store, clock, recipe
        self._run_id, self._approvals, self._places, self._pause = run_id, approvals, places, pause
        self._said = store.get_run(run_id).reason

    def cohort(self, round_index: int) -> dict[str, GridClient]:
        """The clients of a round; they are this run's until they are let go.

        Raises:
          RunFailedError: so many owners refuse, or can not be waited for, that the minimum can not be reached; nobody
            was charged.
        """
        began = self._clock.monotonic()
        while True:
            online = self._grid.online()
            roster = self._recipe.cohort.clients or sorted(online)
            leaves = self._approvals.look({c: online[c] for c in roster if c in online})
            self._check_enough_may(round_index, online, leaves)
            now = self._situation(online, leaves)
            waited = self._clock.monotonic() - began
            if self._is_whole(now, waited) and len(now.ready) >= self._recipe.cohort.minimum:
                now, taken = self._take(now, leaves, waited)
                if taken:
                    self._say(without_whom(_refusals(leaves)))
                    return {c: online[c] for c in taken}
            is_first_answer = bool(now.silent) and waited < LOOK_S
            if not is_first_answer:
                self._say(why_it_waits(now))
                self._check_may_wait(round_index, now)
            self._pause(FIRST_LOOK_S if is_first_answer else LOOK_S)

    def _check_may_wait(self, round_index: int, now: Situation) -> None:
        if self._may_wait or now.silent:
            return
        raise RunFailedError(
            f"run {self._run_id}, round {round_index}: {why_it_waits(now)}; a simulation waits for nobody",
            hint="change the policy files, or leave those clients out; a deployed run waits",
        )

    def _say(self, reason: str) -> None:
        """What ``motet run show`` prints of a run that goes on; written where it changes."""
        if reason != self._said:
            self._store.wait_reason(self._run_id, reason)
            if reason:
                log.info("run %s %s", self._run_id, reason)
            self._said = reason

    def _situation(self, online: Mapping[str, GridClient], leaves: Mapping[str, Leave | None]) -> Situation:
        named = self._recipe.cohort.clients or ()
        told = {c: leave for c, leave in leaves.items() if leave is not None}
        of = {
            kind: [c for c, leave in told.items() if leave.answer == kind]
            for kind in ("approved", "pending", "closed", "blocked")
        }
        return Situation(
            minimum=self._recipe.cohort.minimum,
            ready=of["approved"],
            offline=sorted(set(named) - set(online)),
            silent=[c for c in leaves if c not in told],
            pending=of["pending"],
            closed={c: told[c].until for c in of["closed"]},
            blocked={c: told[c].message for c in of["blocked"]},
        )

    def _is_whole(self, now: Situation, waited: float) -> bool:
        """Whether nobody else is worth waiting for."""
        if not self._may_wait:
            return not now.silent
        if waited >= min(COHORT_GRACE_S, self._recipe.cohort.deadline_s):
            return True
        is_named = self._recipe.cohort.clients is not None
        missing = (now.offline, now.pending, now.closed, now.blocked) if is_named else ()
        return not now.silent and not any(missing)

    def _take(
        self, now: Situation, leaves: Mapping[str, Leave | None], waited: float
    ) -> tuple[Situation, tuple[str, ...]]:
        """Take the ready ones that are free; a run that names its clients waits for busy ones up to its deadline."""
        limits = {c: leave.parallel_runs for c in now.ready if (leave := leaves[c]) is not None}
        is_named = self._recipe.cohort.clients is not None
        taken = self._places.take(
            self._run_id,
            limits,
            minimum=self._recipe.cohort.minimum,
            priority=self._store.get_run(self._run_id).priority,  # it may change while the run waits
            must_have_all=is_named and waited < self._recipe.cohort.deadline_s,
        )
        free = [c for c in now.ready if c not in taken.busy]
        return replace(now, ready=free, busy=taken.busy), taken.clients

    def _check_enough_may(
        self, round_index: int, online: Mapping[str, GridClient], leaves: Mapping[str, Leave | None]
    ) -> None:
        refused = _refusals(leaves)
        if not refused:
            return
        known = self._recipe.cohort.clients
        roster = known or sorted({*online, *(row.client_id for row in self._store.clients())})
        left, minimum = still_possible(roster, leaves), self._recipe.cohort.minimum
        if len(left) >= minimum:
            return
        told = "; ".join(f"{c}: {message}" for c, message in sorted(refused.items()))
        raise RunFailedError(
            f"run {self._run_id}, round {round_index}: {len(left)} of {len(roster)} clients may take part, {minimum} "
            f"are needed; nobody was asked to train ({told})",
            hint="mend what the clients report, then submit the run again",
        )


def _refusals(leaves: Mapping[str, Leave | None]) -> dict[str, str]:
    return {
        c: leave.message for c, leave in leaves.items() if leave is not None and leave.answer == "refused"
    }

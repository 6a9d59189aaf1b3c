"""The round loop, the same for every grid: plan and charge, order, admit, reduce, commit. A crash anywhere resumes.

What is on disk decides: a round is what the store says, an update is what the artifact store holds. Effects follow
their record where they cost budget (reserve, then order) and precede it where they are files (write, then commit).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from aggregation.serialize import to_bytes
from coordinator.crashpoints import AFTER_EFFECT, crashpoint
from coordinator.engine.approvals import Approvals
from coordinator.engine.cancelling import take_back_orders
from coordinator.engine.client_unit import (
    Draw,
    check_somebody_may_take_part,
    draw_cohort,
    expected_cohort,
    is_client_unit,
)
from coordinator.engine.delivery import Delivery, OnReply
from coordinator.engine.gathering import Gathering
from coordinator.engine.grid import Grid, GridClient
from coordinator.engine.offers import RankOffers
from coordinator.engine.places import ClientPlaces
from coordinator.engine.ranks import ranks_of, resized_for_round, within_pruned
from coordinator.engine.reduction import RoundReduction
from coordinator.engine.results import RunResult, run_result
from coordinator.engine.scoring import LastScores
from coordinator.errors import BudgetRefusedError, RunFailedError
from coordinator.rounds.attempts import BEFORE_RESUME, may_help_again, why_given_up
from coordinator.rounds.cohort import asked
from coordinator.rounds.table import ASK_CANCEL, FINISH
from motet.logs import about
from motet.recipe import Recipe, from_canonical_json, round_event
from motet.recipe.method import method_of
from privacy.accounting import would_exceed
from privacy.events import of_unit
from privacy.noise import SystemNoise

if TYPE_CHECKING:
    from aggregation.adapter import AdapterState
    from coordinator.engine.shape import ModelShape
    from coordinator.storage.artifacts import ArtifactStore
    from coordinator.storage.models import ContributionRow, RoundRow
    from coordinator.storage.store import Store
    from motet.clock import Clock
    from privacy.events import Event

log = logging.getLogger(__name__)

CANCEL_CHECK_S = 0.5
OnRound = Callable[[int, "AdapterState"], None]


class RunCancelledError(Exception):
    """Someone asked for the end of the run; caught in ``RoundEngine.run``."""


class EngineStoppedError(Exception):
    """The service is shutting down: leave the round as it is on disk; the next start resumes it."""


class RoundEngine:
    """Drives runs over a grid; each ``run`` may be in a thread of its own.

    Args:
      grid: how clients are reached.
      store: run state.
      artifacts: adapter states and updates.
      clock: time; deadlines use its monotonic side.
      shape: names and shapes of the model of the recipe, or a function that makes them.
      on_round: called after each closed round, also for rounds that were closed before a restart.
      on_reply: called with round_index, client_id and whether the update was admitted.
      poll_s: seconds between looks for replies.
      is_stopping: asked between looks; True ends ``run`` by ``EngineStoppedError``.
      places: which clients are busy, shared by all engines over one grid.
      asks_leave: ask each client whether a run may take part before it is counted for a cohort.
      may_wait: for owners who have not decided, or whose hours are over. Else it goes on without, or fails.
    """

    def __init__(
        self,
        grid: Grid,
        store: Store,
        artifacts: ArtifactStore,
        clock: Clock,
        *,
        shape: ModelShape | Callable[[Recipe], ModelShape],
        on_round: OnRound | None = None,
        on_reply: OnReply | None = None,
        poll_s: float = 0.02,
        is_stopping: Callable[[], bool] = lambda: False,
        places: ClientPlaces | None = None,
        asks_leave: bool = False,
        may_wait: bool = True,
    ) -> None:
        self._places, self._asks_leave = places or ClientPlaces(), asks_leave
        self._may_wait = may_wait
        self._grid, self._store, self._artifacts, self._clock = grid, store, artifacts, clock
        self._shape_or_factory = shape
        self._on_round = on_round
        self._on_reply = on_reply or (lambda _round_index, _client_id, _admitted: None)
        self._poll_s = poll_s
        self._is_stopping = is_stopping

    def run(self, run_id: str) -> RunResult:
        """Bring a run to its end, from wherever it stands.

        Raises:
          RunFailedError: the run is FAILED or CANCELLED; the reason is the message and is stored.
          EngineStoppedError: the service is shutting down.
        """
        row = self._store.get_run(run_id)
        if row.state in {"FAILED", "CANCELLED"}:
            raise RunFailedError(f"run {run_id} is {row.state}: {row.reason}")
        recipe = from_canonical_json(row.recipe_json)
        if row.state == "FINISHED":
            for closed in self._store.closed_rounds(run_id):
                self._tell_round(closed.round_index, closed.adapter_sha256)
            return run_result(self._store, run_id)
        self._store.start_run(run_id)
        try:
            with about(run_id=run_id):
                adapter_sha256 = _OneRun(self, run_id, recipe).go()
        except RunCancelledError:
            take_back_orders(self._grid, self._store, run_id)
            crashpoint(f"{ASK_CANCEL.name}.{AFTER_EFFECT}")
            self._store.end_run(run_id, "CANCELLED", "cancelled on request")
            raise RunFailedError(f"run {run_id} was cancelled") from None
        except (RunFailedError, BudgetRefusedError) as e:
            self._store.end_run(run_id, "FAILED", e.message)
            raise
        self._store.end_run(run_id, "FINISHED", adapter_sha256=adapter_sha256)
        self._store.ledger.publish()
        crashpoint(f"{FINISH.name}.{AFTER_EFFECT}")
        return run_result(self._store, run_id)

    def _tell_round(self, round_index: int, adapter_sha256: str) -> None:
        """Read the state of a closed round for whoever asked to be told; else its file is left alone."""
        if self._on_round is not None:
            self._on_round(round_index, self._artifacts.load_state(adapter_sha256))

    def shape_of(self, recipe: Recipe) -> ModelShape:
        """The model's shape for this run."""
        return self._shape_or_factory(recipe) if callable(self._shape_or_factory) else self._shape_or_factory


class _OneRun:
    """One run in progress; everything that it needs to remember is in the store."""

    def __init__(self, engine: RoundEngine, run_id: str, recipe: Recipe) -> None:
        self._grid, self._store, self._artifacts = engine._grid, engine._store, engine._artifacts  # noqa: SLF001 - one unit
        self._clock, self._tell_round, self._poll_s = engine._clock, engine._tell_round, engine._poll_s  # noqa: SLF001
        self._is_stopping = engine._is_stopping  # noqa: SLF001
        self._run_id, self._recipe = run_id, recipe
        self._method = method_of(recipe)
        self._shape = engine.shape_of(recipe)
        self._event = round_event(recipe)
        self._next_cancel_check = -math.inf
        wait = partial(self._pause, self._poll_s)
        self._offers = RankOffers(self._grid, self._clock, recipe, run_id, wait)
        self._last_scores = LastScores(self._grid, self._store, self._clock, recipe, run_id, wait)
        self._approvals = Approvals(
            self._grid,
            self._store,
            self._clock,
            recipe,
            run_id,
            is_asked=engine._asks_leave,  # noqa: SLF001
        )
        self._delivery = Delivery(
            self._grid,
            self._store,
            self._artifacts,
            self._clock,
            run_id=run_id,
            recipe=recipe,
            shape=self._shape,
            ears=(self._offers, self._approvals),
            obey=self._between_looks,
            on_reply=self._answered,
            poll_s=self._poll_s,
        )
        self._on_reply, self._places = engine._on_reply, engine._places  # noqa: SLF001
        self._gathering = Gathering(
            self._grid,
            self._store,
            self._clock,
            recipe,
            run_id,
            approvals=self._approvals,
            places=self._places,
            pause=self._pause,
            may_wait=engine._may_wait,  # noqa: SLF001
        )

    def go(self) -> str:
        """All rounds that are not closed yet; returns the final adapter's sha256."""
        closed = self._store.closed_rounds(self._run_id)
        state_sha256 = ""
        for row in closed:
            state_sha256 = row.adapter_sha256
            self._tell_round(row.round_index, state_sha256)
        for round_index in range(len(closed), self._recipe.training.rounds):
            state_sha256 = self._round(round_index, state_sha256)
            self._tell_round(round_index, state_sha256)
        self._last_scores.ask(partial(self._artifacts.load_state, state_sha256))
        return state_sha256

    # -- one round -----------------------------------------------------------------------------------------------

    def _round(self, round_index: int, state_sha256: str) -> str:
        """Step 1 plan and reserve, 2 order, 3 admit, 4 reduce, 5 commit; with too few answers, again."""
        while True:
            try:
                row = self._planned(round_index, state_sha256)
                self._delivery.deliver(row)
            finally:
                self._places.leave(self._run_id)
            contributions = self._store.contributions(self._run_id, round_index, row.attempt)
            received = [c for c in contributions if c.state == "RECEIVED"]
            if is_client_unit(self._recipe):
                check_somebody_may_take_part(contributions)
                return self._reduce_and_commit(row, received)
            if len(received) >= self._recipe.cohort.minimum:
                return self._reduce_and_commit(row, received)
            reason = why_given_up(contributions, round_index=round_index, minimum=self._recipe.cohort.minimum)
            self._store.abort_round(self._run_id, round_index, row.attempt, reason)

    def _planned(self, round_index: int, state_sha256: str) -> RoundRow:
        attempts = [r for r in self._store.rounds(self._run_id) if r.round_index == round_index]
        if attempts and attempts[-1].state == "PLANNED":
            open_orders = self._store.contributions(self._run_id, round_index, attempts[-1].attempt)
            self._places.resume(self._run_id, [c.client_id for c in open_orders if c.state == "ORDERED"])
            return attempts[-1]
        forgiven = int(self._store.figures(self._run_id, BEFORE_RESUME).get(round_index, 0))
        counted = attempts[forgiven:]
        if counted:
            last = counted[-1]
            answers = self._store.contributions(self._run_id, round_index, last.attempt)
            if not may_help_again(answers, attempt=len(counted) - 1, minimum=self._recipe.cohort.minimum):
                raise RunFailedError(
                    f"run {self._run_id}, {last.reason}",
                    hint=f"mend what the clients report, then: motet run resume {self._run_id}",
                )
        attempt = attempts[-1].attempt + 1 if attempts else 0
        self._obey()
        cohort = self._cohort(round_index)
        if is_client_unit(self._recipe):
            expected_cohort(self._recipe)  # before anybody is charged
            cohort, draw = self._drawn(cohort, round_index)
        else:
            cohort = self._chosen(cohort, round_index, attempt)
            draw = Draw(asked=cohort, others={})
        self._places.keep_only(self._run_id, draw.asked)
        if self._event is not None:  # before anything is written; the store asks again within its transaction
            for client_id, spent in self._store.spent_by(sorted(cohort)).items():
                self._check_budget(round_index, client_id, spent)
        if not state_sha256:
            state_sha256 = self._artifacts.put(to_bytes(self._initial_state(cohort)))
        else:
            state_sha256 = self._resized(round_index, state_sha256, cohort)
        self._store.plan_round(
            self._run_id,
            round_index,
            attempt,
            start_sha256=state_sha256,
            deadline_s=self._recipe.cohort.deadline_s,
            ranks=draw.asked,
            others=draw.others,
            event=self._event,
            may_spend=partial(self._check_budget, round_index),
        )
        return next(
            r
            for r in self._store.rounds(self._run_id)
            if (r.round_index, r.attempt) == (round_index, attempt)
        )

    def _answered(self, round_index: int, client_id: str, is_admitted: bool) -> None:
        """The client is free for another run."""
        self._places.release(self._run_id, client_id)
        self._on_reply(round_index, client_id, is_admitted)

    def _drawn(self, reachable: Mapping[str, int], round_index: int) -> tuple[dict[str, int], Draw]:
        """Ranks of the whole roster, and who of it is drawn; a name that is not reachable adds nothing."""
        roster = {c: GridClient(client_id=c) for c in self._recipe.cohort.clients or ()}
        ranks = {**ranks_of(self._recipe, roster, round_index), **reachable}
        return ranks, draw_cohort(self._recipe, ranks, reachable, SystemNoise())

    def _chosen(self, able: Mapping[str, int], round_index: int, attempt: int) -> dict[str, int]:
        """Of those who can take part, the ones that the recipe's draw asks."""
        chosen = asked(
            able,
            seed=self._recipe.seed,
            round_index=round_index,
            attempt=attempt,
            draw_rate=self._recipe.cohort.draw_rate,
            minimum=self._recipe.cohort.minimum,
            over_select=self._recipe.cohort.over_select,
            busy=self._delivery.busy(),
        )
        return {c: able[c] for c in chosen}

    def _initial_state(self, cohort: dict[str, int]) -> AdapterState:
        lora_rank = max(cohort.values())
        try:
            return self._method.initial_state(
                self._shape.layer_shapes,
                lora_rank=lora_rank,
                scale=self._recipe.scale_of(lora_rank),
                dense=self._shape.dense,
                seed=self._recipe.seed,
            )
        except ValueError as e:
            raise RunFailedError(
                f"run {self._run_id}: {e}", hint="mend adapter.lora_rank in the recipe"
            ) from e

    def _resized(self, round_index: int, state_sha256: str, cohort: dict[str, int]) -> str:
        """The state that the round starts from: the last one, at the rank of the round."""
        state = self._artifacts.load_state(state_sha256)
        try:
            made = resized_for_round(self._recipe, self._method, state, cohort, round_index)
        except ValueError as e:
            raise RunFailedError(
                f"run {self._run_id}, round {round_index}: {e}", hint="mend adapter.lora_rank in the recipe"
            ) from e
        if made is None:
            return state_sha256
        self._store.note_figure(self._run_id, round_index, "truncation_error", made.relative_error)
        return self._artifacts.put(to_bytes(made.state))

    def _cohort(self, round_index: int) -> dict[str, int]:
        """Who is asked, with ranks. Waits, saying why, until the minimum can be reached."""
        ranks = ranks_of(self._recipe, self._gathering.cohort(round_index), round_index)
        ranks = within_pruned(self._recipe, ranks, self._counted())
        return self._offers.within(ranks, round_index, self._recipe.cohort.minimum)

    def _counted(self) -> list[ContributionRow]:
        """Updates that went into a closed round; only asked for where clients prune themselves."""
        if self._recipe.method.self_pruning is None:
            return []
        closed = {(r.round_index, r.attempt) for r in self._store.closed_rounds(self._run_id)}
        rows = self._store.contributions(self._run_id)
        return [c for c in rows if c.state == "RECEIVED" and (c.round_index, c.attempt) in closed]

    def _check_budget(self, round_index: int, client_id: str, spent: Sequence[Event]) -> None:
        """Refuse a charge that takes a client over the recipe's limit; ``spent`` is of all runs, finished or not."""
        privacy = self._recipe.privacy
        if self._event is None or privacy is None or privacy.epsilon_limit is None:
            return
        own = of_unit(spent, self._event.unit)
        if would_exceed(own, self._event, privacy.epsilon_limit, privacy.target_delta):
            raise BudgetRefusedError(
                f"run {self._run_id}, round {round_index}: client {client_id} would pass epsilon_limit "
                f"{privacy.epsilon_limit:g}, counting its earlier runs; nobody was asked",
                hint="the adapter of the last closed round can be exported; a new recipe can raise the limit",
            )

    def _reduce_and_commit(self, row: RoundRow, received: Sequence[ContributionRow]) -> str:
        before = self._artifacts.load_state(row.start_sha256)
        reduction = RoundReduction(
            self._recipe, self._shape, before, row.round_index, received, self._update_bytes
        )
        try:
            outcome = reduction.run(self._optimizer_memory(row))
            data = to_bytes(outcome.state)
            memory = b"" if outcome.memory is None else to_bytes(outcome.memory)
        except ValueError as e:  # every update was admitted by itself; together they have no sum
            raise RunFailedError(
                f"run {self._run_id}, round {row.round_index}: the updates can not be reduced: {e}",
                hint="lower training.learning_rate if values overflow; updates are in the artifacts folder",
            ) from e
        sha256 = self._artifacts.put(data)
        clients = sorted(c.client_id for c in received)
        self._store.close_round(
            self._run_id,
            row.round_index,
            row.attempt,
            adapter_sha256=sha256,
            num_bytes=len(data),
            relative_error=outcome.relative_error,
            optimizer_sha256=self._artifacts.put(memory, "optimizer") if memory else "",
            verdicts=dict(zip(clients, outcome.weighing.verdicts, strict=True))
            if outcome.weighing.verdicts
            else None,
        )
        log.info(
            "run %s round %s closed with %s clients",
            self._run_id,
            row.round_index,
            len(received),
            extra={"round_index": row.round_index},
        )
        return sha256

    def _update_bytes(self, contribution: ContributionRow) -> bytes:
        return self._artifacts.get(contribution.payload_sha256)

    def _optimizer_memory(self, row: RoundRow) -> AdapterState | None:
        """What the server optimiser remembers of the round before; always from the store, never from this process.

        Nothing after a change of rank: the factors have other coordinates then.
        """
        closed = self._store.closed_rounds(self._run_id)
        earlier = [r for r in closed if r.round_index == row.round_index - 1]
        if not earlier or earlier[-1].adapter_sha256 != row.start_sha256:
            return None
        sha256 = earlier[-1].optimizer_sha256
        return self._artifacts.load_state(sha256) if sha256 else None

    def _pause(self, seconds: float) -> None:
        self._obey()
        self._clock.sleep(seconds)

    def _between_looks(self) -> None:
        self._obey()
        self._approvals.listen()

    def _obey(self) -> None:
        """Leave for a shutdown; end the run on a request to cancel. Asked between replies, never within one."""
        if self._is_stopping():
            raise EngineStoppedError
        if self._clock.monotonic() >= self._next_cancel_check:
            self._next_cancel_check = self._clock.monotonic() + CANCEL_CHECK_S
            if self._store.get_run(self._run_id).cancel_requested:
                raise RunCancelledError

"""Held-out figures that come with answers, and the question for those of the last adapter: no round starts from it."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from aggregation.errors import MalformedUpdateError
from aggregation.serialize import sha256_hex, to_bytes
from coordinator.engine.admission import check_score
from coordinator.engine.grid import GridFailure
from coordinator.storage.scores import Score
from motet.abandoned import order_key
from motet.recipe import canonical_json, recipe_sha256
from motet.recipe.method import method_of
from motet.wire.messages import TrainOrder, TrainReply

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from aggregation.adapter import AdapterState
    from coordinator.engine.grid import Grid
    from coordinator.storage.store import Store
    from motet.clock import Clock
    from motet.recipe import Recipe

log = logging.getLogger(__name__)
LAST_SCORE_S = 60.0
"""How long a run waits for the figures of its last adapter, or its deadline where that is shorter."""
SAY_AFTER_S = 2.0


def score_of(reply: TrainReply, recipe: Recipe) -> Score | None:
    """What an admitted reply tells of held-out examples; None where it tells nothing."""
    if not reply.held_out_examples:
        return None
    return Score(
        loss=reply.held_out_loss,
        accuracy=reply.held_out_accuracy if recipe.task.has_classes else None,
        num_examples=reply.held_out_examples,
    )


class LastScores:
    """Asks those clients who told figures during a run for those of its last adapter, once; nobody is charged.

    Who is not there, does not answer in time, or answers otherwise is passed over: the run has ended well all the same.

    Args:
      grid: how clients are reached.
      store: takes the figures.
      clock: patience.
      recipe: of the run.
      run_id: of the run.
      pause: waits between looks, and may end the run.
    """

    def __init__(
        self, grid: Grid, store: Store, clock: Clock, recipe: Recipe, run_id: str, pause: Callable[[], None]
    ) -> None:
        self._grid, self._store, self._clock = grid, store, clock
        self._recipe, self._run_id, self._pause = recipe, run_id, pause

    def ask(self, load_last: Callable[[], AdapterState]) -> None:
        """Ask, wait and record; who has told before a restart is not asked again.

        Args:
          load_last: the state after the last round.
        """
        if self._recipe.evaluation is None:
            return
        rounds = self._recipe.training.rounds
        rows = self._store.scores.of(self._run_id)
        done = {row.client_id for row in rows if row.rounds_done == rounds}
        wanted = {row.client_id for row in rows} - done
        ranks = self._ranks(wanted) if wanted else {}
        online = self._grid.online() if ranks else {}
        asked = sorted(client for client in ranks if client in online)
        if asked:
            self._take(self._sent(load_last(), {client: ranks[client] for client in asked}))

    def _ranks(self, clients: set[str]) -> dict[str, int]:
        """Client -> the rank that it trained last."""
        rows = self._store.contributions(self._run_id)
        return {
            row.client_id: row.lora_rank
            for row in rows
            if row.state == "RECEIVED" and row.client_id in clients
        }

    def _deadline_s(self) -> float:
        return min(LAST_SCORE_S, self._recipe.cohort.deadline_s)

    def _sent(self, state: AdapterState, ranks: Mapping[str, int]) -> dict[str, TrainOrder]:
        """Message id -> question."""
        payloads: dict[int, bytes] = {}
        waiting = {}
        for client_id, rank in ranks.items():
            if rank not in payloads:
                start = method_of(self._recipe).starting_point(
                    state, lora_rank=rank, scale=self._recipe.scale_of(rank)
                )
                payloads[rank] = to_bytes(replace(start, control={}))
            question = self._question(client_id, rank, payloads[rank])
            waiting[self._grid.send(question, deadline_s=self._deadline_s())] = question
        return waiting

    def _question(self, client_id: str, lora_rank: int, payload: bytes) -> TrainOrder:
        return TrainOrder(
            run_id=self._run_id,
            round_index=self._recipe.training.rounds,
            attempt=0,
            client_id=client_id,
            recipe_json=canonical_json(self._recipe),
            recipe_sha256=recipe_sha256(self._recipe),
            lora_rank=lora_rank,
            reservation_id="",
            payload=payload,
            payload_sha256=sha256_hex(payload),
            asks_score=True,
        )

    def _take(self, waiting: dict[str, TrainOrder]) -> None:
        began, is_said = self._clock.monotonic(), False
        while waiting:
            arrived = self._grid.collect([*waiting])
            told = {}
            for message_id, reply in arrived:
                question = waiting.pop(message_id)
                score = self._admitted(reply, question)
                if score is not None:
                    told[question.client_id] = score
            if told:
                self._store.scores.note(self._run_id, self._recipe.training.rounds, told)
            if waiting and not arrived:
                waited = self._clock.monotonic() - began
                if waited >= self._deadline_s():
                    break
                if waited >= SAY_AFTER_S and not is_said:
                    names, is_said = ", ".join(sorted(q.client_id for q in waiting.values())), True
                    self._store.wait_reason(
                        self._run_id, f"waits for figures of the last adapter on held-out examples: {names}"
                    )
                self._pause()
        for question in waiting.values():
            log.info(
                "run %s: %s told no figures of the last adapter in time", self._run_id, question.client_id
            )
            place = (question.run_id, question.round_index, question.attempt)
            self._grid.cancel(question.client_id, order_key(*place))

    def _admitted(self, reply: TrainReply | GridFailure, question: TrainOrder) -> Score | None:
        """What a stranger's answer tells; None where that is nothing, or nothing that can be."""
        if isinstance(reply, GridFailure) or reply.error_code:
            return None
        try:
            for name in ("run_id", "round_index", "attempt", "client_id"):
                if getattr(reply, name) != getattr(question, name):
                    raise MalformedUpdateError("wrong_envelope", f"its {name} is not the question's")
            check_score(reply, self._recipe)
        except MalformedUpdateError as e:
            log.warning("run %s: the figures of %s are refused: %s", self._run_id, question.client_id, e.code)
            return None
        return score_of(reply, self._recipe)

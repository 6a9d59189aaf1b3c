"""Ranks that clients offer: asked before they first train, heard again with every answer.

An offer is the largest rank that a client's machine carries within what its owner gives (``client.capacity``). It is
kept in this process alone; after a restart clients are asked again, which costs them nothing.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from aggregation.serialize import sha256_hex
from coordinator.engine.grid import GridFailure
from coordinator.errors import RunFailedError
from motet.recipe import canonical_json, recipe_sha256
from motet.wire.messages import TrainOrder, TrainReply

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from coordinator.engine.grid import Grid
    from motet.clock import Clock
    from motet.recipe import Recipe

log = logging.getLogger(__name__)


class RankOffers:
    """The newest offer of each client in one run whose ``adapter.rank_policy`` is ``measured``.

    Args:
      grid: how clients are reached.
      clock: deadlines.
      recipe: of the run.
      run_id: of the run.
      pause: waits between looks, and may end the run.
    """

    def __init__(
        self, grid: Grid, clock: Clock, recipe: Recipe, run_id: str, pause: Callable[[], None]
    ) -> None:
        self._grid, self._clock, self._recipe, self._run_id = grid, clock, recipe, run_id
        self._pause = pause
        self._known: dict[str, int] = {}

    def hear(self, client_id: str, reply: TrainReply | GridFailure) -> None:
        """Take the offer that came with an answer, of whatever kind."""
        if isinstance(reply, TrainReply) and reply.offered_lora_rank > 0:
            self._known[client_id] = reply.offered_lora_rank

    def within(self, ranks: Mapping[str, int], round_index: int, minimum: int) -> dict[str, int]:
        """``ranks`` cut to what clients offer. Who does not tell a rank is left out of the round.

        Raises:
          RunFailedError: fewer than ``minimum`` tell one; the message says what each said instead.
        """
        if self._recipe.adapter.rank_policy != "measured" or not self._recipe.method.train_adapter:
            return dict(ranks)
        silent = self._ask([c for c in sorted(ranks) if c not in self._known], round_index)
        if len(ranks) - len(silent) < minimum:
            told = "; ".join(f"{client}: {why}" for client, why in sorted(silent.items()))
            raise RunFailedError(
                f"run {self._run_id}, round {round_index}: {len(ranks) - len(silent)} clients told the rank that "
                f"they carry, {minimum} are needed ({told})",
                hint="mend what the clients report, then submit the run again",
            )
        return {c: min(r, self._known[c]) for c, r in ranks.items() if c not in silent}

    def _ask(self, clients: Sequence[str], round_index: int) -> dict[str, str]:
        """Client id -> why it told no rank."""
        deadline_s = self._recipe.cohort.deadline_s
        until = self._clock.monotonic() + deadline_s
        waiting = {
            self._grid.send(self._question(client, round_index), deadline_s=deadline_s): client
            for client in clients
        }
        silent: dict[str, str] = {}
        while waiting:
            arrived = self._grid.collect([*waiting])
            for message_id, reply in arrived:
                client = waiting.pop(message_id)
                self.hear(client, reply)
                if client not in self._known:
                    silent[client] = _words(reply)
            if waiting and not arrived:
                if self._clock.monotonic() >= until:
                    break
                self._pause()
        silent |= dict.fromkeys(waiting.values(), f"no answer within {deadline_s:g} s")
        for client, rank in sorted(self._known.items()):
            log.info("run %s: %s carries rank %s", self._run_id, client, rank)
        return silent

    def _question(self, client_id: str, round_index: int) -> TrainOrder:
        return TrainOrder(
            run_id=self._run_id,
            round_index=round_index,
            attempt=0,
            client_id=client_id,
            recipe_json=canonical_json(self._recipe),
            recipe_sha256=recipe_sha256(self._recipe),
            lora_rank=self._recipe.most_rank,
            reservation_id="",
            payload=b"",
            payload_sha256=sha256_hex(b""),
            asks_rank=True,
        )


def _words(reply: TrainReply | GridFailure) -> str:
    text = reply.message if isinstance(reply, GridFailure) else reply.error_message or "no rank"
    return "".join(c if c.isprintable() else " " for c in text)[:500]

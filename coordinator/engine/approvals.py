"""Leave of data owners: each client is asked whether a run may take part before it is counted for a cohort.

A question charges nobody and trains nothing. A yes holds until an order of that client is refused; everything else is
asked again every few seconds while the run waits. What this process heard is forgotten with it: the owner's signed
decisions are on the ledger.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aggregation.serialize import sha256_hex
from coordinator.engine.grid import GridFailure
from coordinator.rounds.attempts import clean_complaint
from coordinator.storage.decisions import ForeignDecisionError
from motet.recipe import canonical_json, recipe_sha256
from motet.wire.leave import Leave, leave_from_json
from motet.wire.messages import TrainOrder, TrainReply

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from coordinator.engine.grid import Grid, GridClient
    from coordinator.storage.store import Store
    from motet.clock import Clock
    from motet.recipe import Recipe

log = logging.getLogger(__name__)
ASK_AGAIN_S = 3.0
QUESTION_S = 60.0
LISTEN_S = 2.0
# Answers to an order after which the yes of before is none.
WITHDRAWN = frozenset({"policy_refused", "approval_pending", "outside_hours"})
_GIVEN = Leave(answer="approved")


@dataclass(slots=True)
class _Known:
    client: GridClient
    leave: Leave | None = None
    heard_at: float = 0.0
    question: str = ""
    asked_at: float = 0.0


class Approvals:
    """What the owners of one run's clients say.

    Args:
      grid: how clients are reached.
      store: decisions are recorded there.
      clock: when to ask again.
      recipe: of the run.
      run_id: of the run.
      is_asked: without it nobody is asked, and everybody may take part as far as is known here.
    """

    def __init__(
        self, grid: Grid, store: Store, clock: Clock, recipe: Recipe, run_id: str, *, is_asked: bool
    ) -> None:
        self._grid, self._store, self._clock = grid, store, clock
        self._recipe, self._run_id, self._is_asked = recipe, run_id, is_asked
        self._json, self._sha256 = canonical_json(recipe), recipe_sha256(recipe)
        self._known: dict[str, _Known] = {}
        self._listen_at = 0.0

    def look(self, clients: Mapping[str, GridClient]) -> dict[str, Leave | None]:
        """What each client says as far as is known; None while the first answer is awaited. Never waits.

        Args:
          clients: those who can be reached.
        """
        if not self._is_asked:
            return dict.fromkeys(clients, _GIVEN)
        self._hear()
        for client_id, client in sorted(clients.items()):
            self._ask(client_id, client)
        return {c: self._known[c].leave for c in clients}

    def listen(self) -> None:
        """Take the answers that come while a round is open, and ask those again whom a question did not reach.

        An answer is kept for ``QUESTION_S`` alone, and a round may last longer: who was silent when it opened would
        be silent at the next one too, and so for ever. Asked between looks for replies; looks every ``LISTEN_S``.
        """
        now = self._clock.monotonic()
        if not self._is_asked or now < self._listen_at:
            return
        self._listen_at = now + LISTEN_S
        if any(known.question for known in self._known.values()):
            self._hear()
        for client_id, known in self._known.items():
            if known.leave is None and not known.question:
                self._ask(client_id, known.client)

    def hear(self, client_id: str, reply: TrainReply | GridFailure) -> None:
        """An order was answered: a yes that this takes back is forgotten, a signed no is recorded."""
        if isinstance(reply, GridFailure) or reply.error_code not in WITHDRAWN:
            return
        self._known.pop(client_id, None)
        leave = leave_from_json(reply.leave_json) if reply.leave_json else None
        if leave is not None:
            self._recorded(client_id, leave)

    def _ask(self, client_id: str, client: GridClient) -> None:
        known, now = self._known.setdefault(client_id, _Known(client)), self._clock.monotonic()
        known.client = client
        if known.leave is not None and known.leave.answer == "approved":
            return
        if known.question and now - known.asked_at < QUESTION_S:
            return
        if known.leave is not None and now - known.heard_at < ASK_AGAIN_S:
            return
        known.question = self._grid.send(self._question(client_id, client), deadline_s=QUESTION_S)
        known.asked_at = now

    def _hear(self) -> None:
        asked = {k.question: c for c, k in self._known.items() if k.question}
        for message_id, reply in self._grid.collect(list(asked)):
            client_id = asked[message_id]
            known = self._known[client_id]
            known.question, known.heard_at = "", self._clock.monotonic()
            leave = _leave_of(reply)
            known.leave = None if leave is None else self._recorded(client_id, leave)

    def _recorded(self, client_id: str, leave: Leave) -> Leave:
        """The answer, its signed decision on the ledger."""
        if not leave.decision:
            return leave
        try:
            self._store.decisions.take(leave.decision, client_id=client_id, recipe_sha256=self._sha256)
        except ForeignDecisionError as e:
            log.warning("run %s: %s", self._run_id, e.message)
            return Leave(answer="refused", clause="decision", message=e.message)
        return leave

    def _question(self, client_id: str, client: GridClient) -> TrainOrder:
        is_assigned = self._recipe.adapter.rank_policy == "assigned"
        rank = self._recipe.lora_rank_of(client_id, client.capacity_class or None) if is_assigned else 1
        return TrainOrder(
            run_id=self._run_id,
            round_index=0,
            attempt=0,
            client_id=client_id,
            recipe_json=self._json,
            recipe_sha256=self._sha256,
            lora_rank=rank,
            reservation_id="",
            payload=b"",
            payload_sha256=sha256_hex(b""),
            asks_leave=True,
        )


def _leave_of(reply: TrainReply | GridFailure) -> Leave | None:
    """A stranger's answer; what is none is a fault of that client, and asked again. None: it was not reached."""
    if isinstance(reply, GridFailure) and reply.code == "client_unreachable":
        return None
    if isinstance(reply, GridFailure):
        code, message = clean_complaint(reply.code, reply.message)
        kind = "refused" if code == "bundle_refused" else "blocked"
        return Leave(answer=kind, clause=code, message=message)
    leave = leave_from_json(reply.leave_json)
    if leave is not None and leave.answer == "refused" and leave.clause in BLOCKED_CLAUSES:
        return Leave(
            answer="blocked", clause=leave.clause, message=leave.message, parallel_runs=leave.parallel_runs
        )
    if leave is not None:
        return leave
    code, message = clean_complaint(reply.error_code, reply.error_message)
    return Leave(
        answer="blocked", clause=code, message=message or "it gave no answer to a question for leave"
    )


BLOCKED_CLAUSES = frozenset({"policy_file", "client"})
"""Refusals of a client that its owner mends without a word on the recipe; the run waits."""


def still_possible(roster: Sequence[str], leaves: Mapping[str, Leave | None]) -> list[str]:
    """The clients of a roster that have not refused."""
    return [c for c in roster if (leave := leaves.get(c)) is None or leave.answer != "refused"]

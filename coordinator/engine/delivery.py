"""Steps 2 and 3 of a round: orders leave, answers are admitted, whoever is not there at the deadline is left behind.

The outbox of orders is the table of contributions: a row that is ORDERED was committed with its charge before its
order may leave, and is sent again until a final state takes its place. Clients know an order by its run, round,
attempt and name: the second is answered from the first one's reply.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Protocol

from aggregation.errors import MalformedUpdateError
from aggregation.serialize import sha256_hex, to_bytes
from coordinator.crashpoints import AFTER_EFFECT, crashpoint
from coordinator.engine.admission import admit
from coordinator.engine.cancelling import CODE, tell_overtaken
from coordinator.engine.controls import counted_rounds
from coordinator.engine.grid import GridFailure
from coordinator.engine.scoring import score_of
from coordinator.rounds.attempts import clean_complaint
from coordinator.rounds.effects import orders_to_send
from coordinator.rounds.table import ORDER, PLAN
from coordinator.storage.telling import Received, Refused, Sent, Told
from motet.audit.assurance import Assurances
from motet.logs import about
from motet.recipe import canonical_json, recipe_sha256, round_event
from motet.recipe.method import method_of
from motet.wire.messages import TrainOrder, TrainReply
from privacy.ledger.entries import reservation_id

if TYPE_CHECKING:
    from coordinator.engine.grid import Grid
    from coordinator.engine.shape import ModelShape
    from coordinator.storage.artifacts import ArtifactStore
    from coordinator.storage.models import ContributionRow, RoundRow
    from coordinator.storage.store import Store
    from motet.clock import Clock
    from motet.recipe import Recipe

log = logging.getLogger(__name__)
DEADLINE, OVERTAKEN = "deadline", "overtaken"  # codes of those who were left behind
LEAST_WAIT_S = 30.0  # after a long stop clients get a fair wait, or the whole deadline where that is shorter

TOGETHER = (
    32  # orders or answers a commit: it waits for the disk, and what it lacks after a crash is done once more
)

REFUSED = frozenset(
    {"malformed_reply", "unsigned", "bad_signature", "revoked"}
)  # of what a grid tells: not believed

OnReply = Callable[[int, str, bool], None]


class Hears(Protocol):
    """Is told of every answer, of whatever kind."""

    def hear(self, client_id: str, reply: TrainReply | GridFailure) -> None:
        """Take what of it matters here."""


class Delivery:
    """The orders and answers of one run; all that must outlive this process is in the store.

    Args:
      grid: how clients are reached.
      store: run state.
      artifacts: adapter states and updates.
      clock: deadlines use its monotonic side.
      run_id: the run.
      recipe: its recipe.
      shape: of its model.
      ears: told of every answer.
      obey: called between looks; may end the run.
      on_reply: called with round_index, client_id and whether the update was admitted.
      poll_s: seconds between looks for replies.
    """

    def __init__(
        self,
        grid: Grid,
        store: Store,
        artifacts: ArtifactStore,
        clock: Clock,
        *,
        run_id: str,
        recipe: Recipe,
        shape: ModelShape,
        ears: Sequence[Hears],
        obey: Callable[[], None],
        on_reply: OnReply,
        poll_s: float,
    ) -> None:
        self._grid, self._store, self._artifacts, self._clock = grid, store, artifacts, clock
        self._run_id, self._recipe, self._shape, self._ears = run_id, recipe, shape, ears
        self._obey, self._on_reply, self._poll_s = obey, on_reply, poll_s
        self._method, self._event = method_of(recipe), round_event(recipe)
        self._recipe_json = canonical_json(recipe)
        self._recipe_sha256 = recipe_sha256(self._recipe_json)
        self._answered: set[str] = set()  # messages whose reply was taken; a second one is a duplicate
        self._overdue = {  # messages that missed their deadline; an answer is counted, never used
            c.message_id: c
            for c in store.contributions(run_id)
            if c.error_code in (DEADLINE, OVERTAKEN) and c.state == "FAILED" and grid.is_known(c.message_id)
        }

    def deliver(self, row: RoundRow) -> None:
        """Send what was not sent (or is lost), then take replies until all have answered or the deadline has passed.

        With ``cohort.over_select``, until the minimum is there.
        """
        self._answered.clear()  # of earlier attempts; nobody collects their messages any more
        if self._event is not None:
            self._store.ledger.publish()  # signed and on disk, before any order leaves
            crashpoint(f"{PLAN.name}.{AFTER_EFFECT}")
        left_s = max(row.deadline_at - self._clock.now(), min(self._recipe.cohort.deadline_s, LEAST_WAIT_S))
        until = self._clock.monotonic() + left_s
        has_enough = self._has_enough(row)
        waiting = {} if has_enough else self._send(row, left_s)
        while waiting and not has_enough:
            arrived = self._grid.collect([*waiting, *self._overdue])
            is_over = self._clock.monotonic() >= until
            taken: list[tuple[TrainOrder, TrainReply | GridFailure]] = []
            for message_id, reply in arrived:
                if message_id in waiting and is_over and _is_unreachable(reply):
                    continue  # the message ended with its deadline: whoever is left behind is so for one reason
                if message_id in waiting:
                    self._answered.add(message_id)
                    taken.append((waiting.pop(message_id), reply))
                else:
                    self._count_useless(row, message_id, reply)
            for start in range(0, len(taken), TOGETHER):
                self._take(row, taken[start : start + TOGETHER])
            self._obey()
            has_enough = bool(arrived) and self._has_enough(row)
            if waiting and not arrived:
                if self._clock.monotonic() >= until:  # after the look: what lay ready at the deadline counts
                    break
                self._clock.sleep(self._poll_s)
        self._leave_behind(row, OVERTAKEN if has_enough else DEADLINE)

    def busy(self) -> frozenset[str]:
        """Clients that were left behind and have not answered since: they may still be at work."""
        return frozenset(c.client_id for c in self._overdue.values())

    def _has_enough(self, row: RoundRow) -> bool:
        """Whether the round closes before all have answered; what is stored decides, so also after a restart."""
        if self._recipe.cohort.over_select is None:
            return False
        received = self._store.num_received(self._run_id, row.round_index, row.attempt)
        return received >= self._recipe.cohort.minimum

    def _send(self, row: RoundRow, left_s: float) -> dict[str, TrainOrder]:
        """Message id -> order, of everybody whose answer is awaited."""
        starts, sent = self._starts(row), list[Told]()
        assurances = Assurances(self._store.ledger.file) if self._event is not None else None
        counted = {}
        if self._recipe.training.algorithm == "scaffold":
            counted = counted_rounds(self._store, self._run_id, row.round_index)
        waiting: dict[str, TrainOrder] = {}
        contributions = self._store.contributions(self._run_id, row.round_index, row.attempt)
        for contribution in orders_to_send(contributions):
            order = replace(
                self._order(row, contribution, starts(contribution.lora_rank)),
                ledger_json=assurances.for_client(contribution.client_id) if assurances is not None else "",
                counted_round=counted.get(contribution.client_id, 0),
            )
            message_id = contribution.message_id
            if not message_id or not self._grid.is_known(message_id):
                message_id = self._grid.send(order, deadline_s=left_s)
                crashpoint(f"{ORDER.name}.{AFTER_EFFECT}")
                sent.append(
                    Sent(client_id=order.client_id, message_id=message_id, bytes_down=len(order.payload))
                )
                if len(sent) >= TOGETHER:
                    self._tell(row, sent)
                    sent = []
            waiting[message_id] = order
        self._tell(row, sent)
        return waiting

    def _starts(self, row: RoundRow) -> Callable[[int], tuple[bytes, str]]:
        """lora_rank -> what a client of that rank receives, and its hash; made once a rank."""
        state = self._artifacts.load_state(row.start_sha256)

        @cache
        def start(lora_rank: int) -> tuple[bytes, str]:
            scale = self._recipe.scale_of(lora_rank)
            sent = self._method.starting_point(state, lora_rank=lora_rank, scale=scale)
            payload = to_bytes(replace(sent, control=state.control))
            return payload, sha256_hex(payload)

        return start

    def _order(self, row: RoundRow, contribution: ContributionRow, start: tuple[bytes, str]) -> TrainOrder:
        reserved = (
            reservation_id(self._run_id, row.round_index, row.attempt, contribution.client_id)
            if self._event
            else ""
        )
        return TrainOrder(
            run_id=self._run_id,
            round_index=row.round_index,
            attempt=row.attempt,
            client_id=contribution.client_id,
            recipe_json=self._recipe_json,
            recipe_sha256=self._recipe_sha256,
            lora_rank=contribution.lora_rank,
            reservation_id=reserved,
            payload=start[0],
            payload_sha256=start[1],
        )

    def _leave_behind(self, row: RoundRow, code: str) -> None:
        """Whoever has not answered; an answer that comes is counted, never used."""
        message = (
            f"no answer within {self._recipe.cohort.deadline_s:g} s"
            if code == DEADLINE
            else "the round closed with its minimum before this answer"
        )
        rows = self._store.contributions(self._run_id, row.round_index, row.attempt)
        left = list(orders_to_send(rows))
        self._tell(row, [Refused(client_id=c.client_id, code=code, message=message) for c in left])
        self._overdue |= {c.message_id: c for c in left if c.message_id}
        if code == OVERTAKEN:
            known = [
                c for c in rows if c.error_code == OVERTAKEN and c.state == "FAILED"
            ]  # of before a restart
            tell_overtaken(self._grid, row, [*left, *known])

    def _count_useless(self, row: RoundRow, message_id: str, reply: TrainReply | GridFailure) -> None:
        """A late or second reply: it changes nothing but a counter. That an order was abandoned is no late answer."""
        late = self._overdue.pop(message_id, None)
        if late is not None and isinstance(reply, TrainReply) and reply.error_code != CODE:
            self._store.reply_late(
                late.run_id, late.round_index, late.attempt, late.client_id, bytes_up=len(reply.payload)
            )
        elif message_id in self._answered:
            self._store.count(self._run_id, row.round_index, "duplicate_replies")

    def _take(self, row: RoundRow, answers: Sequence[tuple[TrainOrder, TrainReply | GridFailure]]) -> None:
        """Judge each answer by itself, keep what is admitted, then record all of them in one transaction."""
        judged = [self._judged(row, order, reply) for order, reply in answers]
        payloads = [
            reply.payload
            for (_, reply), told in zip(answers, judged, strict=True)
            if isinstance(told, Received) and isinstance(reply, TrainReply)
        ]
        self._artifacts.put_all(payloads, "update")
        self._tell(row, judged)
        for told in judged:
            self._on_reply(row.round_index, told.client_id, isinstance(told, Received))

    def _judged(
        self, row: RoundRow, order: TrainOrder, reply: TrainReply | GridFailure
    ) -> Received | Refused:
        """What becomes of an answer. The name of an update that is admitted is the hash of its bytes."""
        for ear in self._ears:
            ear.hear(order.client_id, reply)
        code, message = _complaint(reply)
        lora_rank = order.lora_rank
        if not code and isinstance(reply, TrainReply):
            try:
                lora_rank = admit(reply, order, self._recipe, self._method, self._shape)
            except MalformedUpdateError as e:
                with about(round_index=row.round_index, client_id=order.client_id):
                    log.warning(
                        "round %s: update of %s refused: %s", row.round_index, order.client_id, e.code
                    )
                code, message = e.code, f"the update was not admitted: {e.reason}"
                self._store.count(self._run_id, row.round_index, "refused_replies")
        if isinstance(reply, GridFailure) and code in REFUSED:
            self._store.count(self._run_id, row.round_index, "refused_replies")
        if code or isinstance(reply, GridFailure):
            return Refused(client_id=order.client_id, code=code, message=message)
        uniform = self._recipe.cohort.weights == "uniform"
        tells_error = self._recipe.compression is not None and not reply.withholds_metrics
        return Received(
            client_id=order.client_id,
            payload_sha256=reply.payload_sha256,
            bytes_up=len(reply.payload),
            weight=1.0 if uniform else reply.aggregation_weight,
            num_examples=reply.num_examples,
            lora_rank=lora_rank,
            compression_error=reply.compression_error if tells_error else None,
            withholds_metrics=reply.withholds_metrics,
            score=score_of(reply, self._recipe),
        )

    def _tell(self, row: RoundRow, told: Sequence[Told]) -> None:
        self._store.tell(self._run_id, row.round_index, row.attempt, told)


def _is_unreachable(reply: TrainReply | GridFailure) -> bool:
    return isinstance(reply, GridFailure) and reply.code == "client_unreachable"


def _complaint(reply: TrainReply | GridFailure) -> tuple[str, str]:
    """Code and message of a failure, both empty for a success."""
    if isinstance(reply, GridFailure):
        return clean_complaint(reply.code, reply.message)
    return clean_complaint(reply.error_code, reply.error_message) if reply.error_code else ("", "")

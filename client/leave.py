"""May a run take part? The owner's side of the question: policy, hours, approval. Nothing is charged or trained.

It is asked before a client is counted for a cohort, and answered by its own thread while the client trains. What was
asked is kept for the owner to read (``client.asked``).
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING

from aggregation.serialize import sha256_hex
from client.asked import AskedRecipes
from client.decisions import APPROVED, BY_RULE, REFUSED, Decisions
from client.errors import (
    ApprovalPendingError,
    BadOrderError,
    ClientError,
    OutsideHoursError,
    PolicyRefusedError,
)
from client.policy import check_hours, check_policy
from client.protect import grant
from motet.audit.decisions import to_text
from motet.errors import MotetError
from motet.recipe import from_canonical_json, resolve_noise_multiplier
from motet.wire.leave import Leave

if TYPE_CHECKING:
    import datetime
    from collections.abc import Callable
    from pathlib import Path

    from client.policy import Policy
    from client.policy_file import PolicyFile
    from motet.recipe import Recipe
    from motet.wire.messages import TrainOrder, TrainReply
    from privacy.ledger.entries import Decision

log = logging.getLogger(__name__)
RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Approvals:
    """The owner's word on recipes, as the policy asks for it.

    Args:
      home: of the client.
      client_id: as whom decisions by rule are signed.
    """

    def __init__(self, home: Path, client_id: str) -> None:
        self._client_id = client_id
        self._decisions = Decisions(home)

    def check(self, policy: Policy, recipe_sha256: str) -> Decision | None:
        """The decision that allows a recipe; None where the policy asks for none and the owner made none.

        A refusal holds under every policy: the owner said so.

        Raises:
          PolicyRefusedError: the owner has refused it.
          ApprovalPendingError: ``approval = "manual"``, and the owner has not decided.
        """
        made = self._decisions.latest(recipe_sha256)
        if made is not None and made.decision == REFUSED:
            told = f": {made.reason}" if made.reason else ""
            raise PolicyRefusedError(f"clause approval: the owner has refused this recipe{told}")
        if made is not None or policy.approval == "any":
            return made
        if policy.approval == "manual":
            raise ApprovalPendingError(
                f"clause approval: the owner has not decided on recipe {recipe_sha256[:12]} yet"
            )
        return None

    def decide_by_rule(self, policy: Policy, recipe_sha256: str, at_ms: int) -> Decision | None:
        """Record that the clauses allow a recipe, where ``approval = "rule"`` and the client has a key to sign with."""
        if policy.approval != "rule" or not self._decisions.can_sign:
            return None
        return self._decisions.decide(
            client_id=self._client_id,
            recipe_sha256=recipe_sha256,
            decision=APPROVED,
            policy_sha256=policy.sha256,
            at_ms=at_ms,
            made_by=BY_RULE,
        )

    def latest(self, recipe_sha256: str) -> Decision | None:
        """What was decided last."""
        return self._decisions.latest(recipe_sha256)


class LeaveDesk:
    """Answers questions for leave. It holds no state but files: safe beside a client that trains.

    Args:
      client_id: this client's name.
      home: of the client.
      policy_file: the floor, as it changes.
      now: for hours and records; knows its zone.
    """

    def __init__(
        self, client_id: str, home: Path, policy_file: PolicyFile, now: Callable[[], datetime.datetime]
    ) -> None:
        self._client_id, self._policy_file, self._now = client_id, policy_file, now
        self._asked = AskedRecipes(home)
        self._approvals = Approvals(home, client_id)

    def answer(self, order: TrainOrder) -> TrainReply:
        """The answer, and a note of the question. Facts of the world become refusals; nothing is raised for them."""
        leave, is_readable = self._leave(order)
        if is_readable:
            try:
                self._asked.note(
                    recipe_sha256=order.recipe_sha256,
                    recipe_json=order.recipe_json,
                    client_id=self._client_id,
                    run_id=order.run_id[:64],
                    at_ms=self._at_ms(),
                    answer=leave.answer,
                    message=leave.message,
                )
            except ClientError as e:
                log.warning("%s", e.message)
        return grant(order, leave)

    def _leave(self, order: TrainOrder) -> tuple[Leave, bool]:
        """What to say, and whether the question holds a recipe."""
        try:
            recipe = self._recipe(order)
        except MotetError as e:
            return Leave(answer="refused", clause="bad_order", message=e.message), False
        runs = 1
        try:
            policy = self._policy_file.current()
            runs = policy.max_parallel_runs
            decision = self._decided(policy, recipe, order)
        except OutsideHoursError as e:
            made = Leave(
                answer="closed", clause="hours", message=e.message, until=e.until, parallel_runs=runs
            )
            return made, True
        except ApprovalPendingError as e:
            return Leave(answer="pending", clause="approval", message=e.message, parallel_runs=runs), True
        except PolicyRefusedError as e:
            made = Leave(
                answer="refused",
                clause=clause_of(e.message),
                message=e.message,
                parallel_runs=runs,
                decision=self._refusal(order.recipe_sha256),
            )
            return made, True
        except MotetError as e:
            return Leave(answer="refused", clause="client", message=e.message, parallel_runs=runs), True
        signed = "" if decision is None else to_text(decision)
        return Leave(answer="approved", parallel_runs=runs, decision=signed), True

    def refusal(self, recipe_sha256: str) -> Leave | None:
        """The owner's signed no to a recipe, to go with the refusal of an order; None where the owner said none."""
        try:
            signed = self._refusal(recipe_sha256)
        except MotetError:  # a damaged ledger: the order was refused for that
            return None
        return Leave(answer="refused", clause="approval", decision=signed) if signed else None

    def _recipe(self, order: TrainOrder) -> Recipe:
        if order.client_id != self._client_id:
            raise BadOrderError(f"the question is for {order.client_id!r}, this is {self._client_id!r}")
        if not RUN_ID.fullmatch(order.run_id):
            raise BadOrderError("the question names no run")  # the owner's commands print run ids
        if sha256_hex(order.recipe_json.encode()) != order.recipe_sha256:
            raise BadOrderError("the question was damaged on its way: a hash does not match")
        return from_canonical_json(order.recipe_json)

    def _decided(self, policy: Policy, recipe: Recipe, order: TrainOrder) -> Decision | None:
        noise_multiplier = resolve_noise_multiplier(recipe) if recipe.privacy else None
        check_policy(policy, recipe, lora_rank=order.lora_rank, noise_multiplier=noise_multiplier)
        decision = self._approvals.check(policy, order.recipe_sha256)
        if decision is None:
            decision = self._approvals.decide_by_rule(policy, order.recipe_sha256, self._at_ms())
        check_hours(policy, self._now())
        return decision

    def _refusal(self, recipe_sha256: str) -> str:
        """The owner's signed refusal, where it is one that stands in the way."""
        made = self._approvals.latest(recipe_sha256)
        return to_text(made) if made is not None and made.decision == REFUSED else ""

    def _at_ms(self) -> int:
        return int(self._now().timestamp() * 1000)


def clause_of(message: str) -> str:
    """The clause that a refusal names."""
    head, _, _ = message.partition(":")
    return head.removeprefix("clause ") if head.startswith("clause ") else "policy"

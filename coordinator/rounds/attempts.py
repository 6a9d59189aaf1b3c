"""What follows from the answers of one attempt at a round: it closes, another attempt helps, or the run has failed."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

MOST_ATTEMPTS = 3
BEFORE_RESUME = "attempts_before_resume"
"""Figure of a round: attempts that had been made at it when the failed run was last let go on."""
# Failures that another attempt would only repeat, at another charge.
FINAL_CODES = frozenset(
    {
        "policy_refused",
        "bundle_refused",
        "client_failed",
        "did_not_move",
        "not_finite",
        "ledger_failed",
        "ledger_rolled_back",
        "bad_order",
        "control_lost",
    }
)


class Answer(Protocol):
    """What one client was asked and answered; a contribution."""

    client_id: str
    state: str
    error_code: str
    error_message: str


def may_help_again(answers: Sequence[Answer], *, attempt: int, minimum: int) -> bool:
    """Whether another attempt may reach the minimum, at another charge.

    Decided from what is stored alone, so that a crash after an aborted attempt does not buy a further charge.

    Args:
      answers: of the last attempt.
      attempt: its number, from 0; of those since the run was last resumed.
      minimum: answers that a round needs.
    """
    final = sum(a.state == "FAILED" and a.error_code in FINAL_CODES for a in answers)
    return len(answers) - final >= minimum and attempt + 1 < MOST_ATTEMPTS


def why_given_up(answers: Sequence[Answer], *, round_index: int, minimum: int) -> str:
    """Why an attempt had too few updates, with what each client said."""
    received = sum(a.state == "RECEIVED" for a in answers)
    failed = [a for a in answers if a.state == "FAILED"]
    told = "; ".join(f"{a.client_id}: {a.error_message or a.error_code}" for a in failed)
    reason = f"round {round_index}: {received} of {len(answers)} clients answered, "
    return reason + f"{minimum} are needed ({told})"


def clean_complaint(code: str, message: str) -> tuple[str, str]:
    """A client's code and words, kept to printable ones; a code is never empty."""
    printable = "".join(c if c.isprintable() else " " for c in message)
    return re.sub(r"[^A-Za-z0-9_.-]", "_", code)[:64] or "unnamed", printable

"""What is said of a run in one line: how far it is, who did not answer and why, and what to type next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from motet.cli.screen import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from motet.wire.control import Run

MOST_REASONS = 8  # clients of one attempt that are named; of more it says how many


def progress(run: Run, aside: str = "") -> str:
    """``RUNNING: 1 of 4 rounds closed; waits for ...``."""
    words = f"{run.state}: {run.rounds_closed} of {run.rounds_total} rounds closed{aside}"
    return f"{words}; {printable(run.reason)}" if run.reason else words


def attempt_name(round_index: int, attempt: int) -> str:
    """``round 1 (attempt 3)``: rounds from 0, as everywhere; attempts are counted."""
    return f"round {round_index}" + (f" (attempt {attempt + 1})" if attempt else "")


def next_step(run_id: str, state: str, where: str) -> str:
    """What to type after a run has ended so, as a line of its own; empty where nothing follows."""
    if state == "FINISHED":
        return f"next: motet export {run_id} {where} --out exported\n"
    if state == "FAILED":
        return (
            f"next: motet run show {run_id} {where}   (each client's reason)\n"
            f"then: motet run resume {run_id} {where}   (it goes on after its last closed round)\n"
        )
    return ""


def reasons(rounds: Sequence[dict[str, Any]]) -> list[str]:
    """A line for each client whose answer was not counted, of ``round_as_values``: what it said, or what is known."""
    lines = []
    for found in rounds:
        name = attempt_name(found["round_index"], found["attempt"])
        silent = [c for c in found["clients"] if c["error"]]
        lines += [f"{name}: {c['client_id']}: {printable(c['error'])}" for c in silent[:MOST_REASONS]]
        if len(silent) > MOST_REASONS:
            lines.append(f"{name}: and {len(silent) - MOST_REASONS} more clients (--json has them all)")
    return lines


def cancelled(run: Run) -> str:
    """What a word to cancel came to."""
    if run.state == "CANCELLED":
        return f"{run.run_id} is cancelled"
    return f"{run.run_id} stays as it is: {run.state}" if run.has_ended else f"{run.run_id} will end"

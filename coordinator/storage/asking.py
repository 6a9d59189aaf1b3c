"""What people ask of a run that waits or is at work: its end, another place in the queue. Within one transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import update

from coordinator.errors import RunNotFoundError, WrongStateError
from coordinator.rounds.table import ENDED
from coordinator.storage.actions import CANCEL, PRIORITY, remember_action
from coordinator.storage.models import RunRow

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from coordinator.storage.actions import Actor
    from motet.clock import Clock


def ask_end(session: Session, run_id: str, actor: Actor | None, clock: Clock) -> None:
    """Note that a run is to end; of one that has ended nobody is on record."""
    known = session.get(RunRow, run_id)
    if known is not None and not known.cancel_requested and known.state not in ENDED:
        remember_action(session, run_id, CANCEL, actor, clock)
    session.execute(update(RunRow).where(RunRow.run_id == run_id).values(cancel_requested=True))


def change_priority(session: Session, run_id: str, priority: int, actor: Actor | None, clock: Clock) -> None:
    """Note a run's priority; the one that it has is written, and on record, once.

    Raises:
      RunNotFoundError: there is none of that id.
      WrongStateError: it has ended.
    """
    run = session.get(RunRow, run_id)
    if run is None:
        raise RunNotFoundError(f"there is no run {run_id!r}", hint="see: motet run list")
    if run.state in ENDED:
        raise WrongStateError(
            f"run {run_id} is {run.state}; it waits for no client any more",
            hint="submit its recipe again, with --priority",
        )
    if run.priority == priority:
        return
    detail = f"from {run.priority} to {priority}"
    run.priority = priority
    remember_action(session, run_id, PRIORITY, actor, clock, detail=detail)

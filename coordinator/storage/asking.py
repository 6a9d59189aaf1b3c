"""What people ask of a run that waits or is at work: its end, another place in the queue. Within one transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import select, update

from coordinator.errors import RunNotFoundError, WrongStateError
from coordinator.rounds.table import ENDED
from coordinator.storage.actions import CANCEL, PRIORITY, remember_action
from coordinator.storage.models import RunRow

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from coordinator.storage.actions import Actor
    from motet.clock import Clock

_NAMED = 3  # runs that an error names


def no_such_run(session: Session, run_id: str) -> RunNotFoundError:
    """The error of an id that no run has; the hint names those that begin so, or the newest ones."""
    ids = session.scalars(select(RunRow.run_id).order_by(RunRow.created_at.desc())).all()
    meant = [known for known in ids if run_id and known.startswith(run_id)][:_NAMED]
    if meant:
        hint = f"an id is typed whole; with that begin: {', '.join(meant)}"
    else:
        hint = f"newest runs: {', '.join(ids[:_NAMED])}" if ids else "submit one: motet run submit"
    return RunNotFoundError(f"there is no run {run_id!r}", hint=hint)


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
        raise no_such_run(session, run_id)
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

"""A failed run that is let go on, within the transaction of ``run.resume``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import func, select

from coordinator.errors import WrongStateError
from coordinator.rounds import table
from coordinator.rounds.attempts import BEFORE_RESUME
from coordinator.storage.asking import no_such_run
from coordinator.storage.models import MetricRow, RoundRow, RunRow

if TYPE_CHECKING:
    from sqlalchemy.orm import Session


def let_go_on(session: Session, run_id: str, now: float) -> bool:
    """FAILED -> QUEUED. The attempts so far stay, are charged, and are counted apart from those to come.

    They are counted and not told by their time, since a clock that is set back must not buy attempts without end.

    Returns:
      whether it went on because of this.

    Raises:
      RunNotFoundError: there is none of that id.
      WrongStateError: it has finished or was cancelled.
    """
    run = session.get(RunRow, run_id)
    if run is None:
        raise no_such_run(session, run_id)
    if run.state in {"FINISHED", "CANCELLED"}:
        raise WrongStateError(
            f"run {run_id} is {run.state}; only a failed run can go on", hint="submit its recipe again"
        )
    if not table.moves(table.RESUME, run.state, what=f"run {run_id}"):
        return False
    made = select(RoundRow.round_index, func.count()).where(RoundRow.run_id == run_id)
    for round_index, attempts in session.execute(made.group_by(RoundRow.round_index)).all():
        session.merge(
            MetricRow(run_id=run_id, round_index=round_index, name=BEFORE_RESUME, value=float(attempts))
        )
    run.state, run.reason, run.finished_at = table.RESUME.after, "", None
    run.resumed_at, run.cancel_requested = now, False
    return True

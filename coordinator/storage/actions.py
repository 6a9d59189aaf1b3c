"""What people do to runs, on record: who, with which certificate, what, when. Written with the change that it makes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import func, select

from coordinator.storage.models import RunActionRow, RunRow
from privacy.ledger.entries import Approval

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.orm import Session

    from coordinator.storage.database import Database
    from coordinator.storage.ledger import StoredLedger
    from motet.clock import Clock

SUBMIT, APPROVE, START, CANCEL, RESUME = "submit", "approve", "start", "cancel", "resume"
PRIORITY = "priority"


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """Who acts.

    Attributes:
      label: ``role/name``.
      serial: of the certificate, hexadecimal; empty for the user of this home.
      fingerprint: SHA-256 of the certificate, hexadecimal; empty likewise.
    """

    label: str
    serial: str = ""
    fingerprint: str = ""


def remember_action(
    session: Session, run_id: str, action: str, actor: Actor | None, clock: Clock, *, detail: str = ""
) -> None:
    """Write an action within the transaction of what it changes; nothing where nobody acts."""
    if actor is None:
        return
    number = session.scalar(
        select(func.count()).select_from(RunActionRow).where(RunActionRow.run_id == run_id)
    )
    session.add(
        RunActionRow(
            run_id=run_id,
            number=number or 0,
            action=action,
            made_by=actor.label,
            serial=actor.serial,
            fingerprint=actor.fingerprint,
            made_at=clock.now(),
            detail=detail,
        )
    )


def record_approval(session: Session, ledger: StoredLedger, run: RunRow, actor: Actor, clock: Clock) -> None:
    """The ledger's entry of an operator's approval, for a run with privacy."""
    if json.loads(run.recipe_json).get("privacy") is None:
        return
    approval = Approval(
        run_id=run.run_id,
        recipe_sha256=run.recipe_sha256,
        approved_by=actor.label,
        certificate_sha256=actor.fingerprint,
        approved_at_ms=int(clock.now() * 1000),
    )
    ledger.record(session, [approval])


class RunActions:
    """What was done to runs. ``database``: of the store."""

    def __init__(self, database: Database) -> None:
        self._reading = database.reading

    def of(self, run_id: str) -> Sequence[RunActionRow]:
        """Those of one run, in order."""
        query = select(RunActionRow).where(RunActionRow.run_id == run_id).order_by(RunActionRow.number)
        with self._reading() as session:
            return session.scalars(query).all()

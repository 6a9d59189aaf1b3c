"""The contributions of an attempt and what they are charged, written together before any order leaves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import insert

from coordinator.rounds import table
from coordinator.storage.budgets import charge_budgets
from coordinator.storage.charges import NOT_DRAWN
from coordinator.storage.models import ContributionRow, PrivacyEventRow
from privacy.ledger.entries import CancelRefused, reservation_id, reserve_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.orm import Session

    from coordinator.storage.budgets import MaySpend
    from coordinator.storage.ledger import StoredLedger
    from coordinator.storage.telling import Attempt
    from privacy.events import PoissonGaussianEvent


def plan_attempt(
    session: Session,
    ledger: StoredLedger,
    attempt: Attempt,
    ranks: Mapping[str, int],
    others: Mapping[str, int],
    *,
    event: PoissonGaussianEvent | None,
    may_spend: MaySpend | None,
    reserved_at: float,
) -> None:
    """Write one row a client and, with ``event``, its charge, its budget and its ledger entry.

    Args:
      session: of ``Database.transaction``; the attempt's row is there.
      ledger: of the database.
      attempt: run_id, round_index, attempt.
      ranks: client id -> lora_rank of those who are asked.
      others: the same of those who are charged as well and not asked.
      event: what each is charged; None when the run is not private.
      may_spend: see ``charge_budgets``.
      reserved_at: seconds since the epoch.

    Raises:
      StorageError: a budget does not count as many charges as there are.
    """
    run_id, round_index, number = attempt
    everybody = dict(sorted({**others, **ranks}.items()))
    place = {"run_id": run_id, "round_index": round_index, "attempt": number}
    rows = [
        {
            **place,
            "client_id": client_id,
            "state": (table.ORDER if client_id in ranks else table.SKIP).after,
            "lora_rank": rank,
        }
        for client_id, rank in everybody.items()
    ]
    if rows:
        session.execute(insert(ContributionRow), rows)
    if event is None or not rows:
        return
    charge_budgets(session, everybody, may_spend)
    charges = [
        {
            **place,
            "reservation_id": reservation_id(*attempt, client_id),
            "client_id": client_id,
            "event_json": event.to_json(),
            "state": table.RESERVE.after,
            "reserved_at": reserved_at,
        }
        for client_id in everybody
    ]
    session.execute(insert(PrivacyEventRow), charges)
    reserved = [reserve_of(*attempt, client_id, event) for client_id in everybody]
    skipped = [
        CancelRefused(reservation_id=reservation_id(*attempt, client_id), reason=NOT_DRAWN)
        for client_id in sorted(others)
    ]
    ledger.record(session, [*reserved, *skipped])

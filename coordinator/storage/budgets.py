"""Within a transaction: one charge more for a client, after a look at all that it had."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import select, update

from coordinator.errors import StorageError
from coordinator.storage.models import BudgetRow, PrivacyEventRow
from privacy.events import event_from_json

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy.orm import Session

    from privacy.events import Event


def charge_budget(
    session: Session, client_id: str, may_spend: Callable[[str, Sequence[Event]], None] | None
) -> None:
    """Count one more charge, after a look at all of them; the table refuses one that was not looked at.

    Raises:
      StorageError: there are not as many charges as were counted.
    """
    budget = session.get(BudgetRow, client_id, with_for_update=True)
    if budget is None:
        budget = BudgetRow(client_id=client_id, charges=0, accounted=0)
        session.add(budget)
        session.flush()
    spent = charged_events(session, client_id)
    if len(spent) != budget.charges:
        raise StorageError(
            f"client {client_id} has {len(spent)} charges, its budget counts {budget.charges}",
            hint="rows were removed or added by hand; restore the newest backup before any run goes on",
        )
    if may_spend is not None:
        may_spend(client_id, spent)
    session.execute(
        update(BudgetRow)
        .where(BudgetRow.client_id == client_id)
        .values(charges=BudgetRow.charges + 1, accounted=len(spent) + 1)
    )


def charged_events(session: Session, client_id: str, run_id: str | None = None) -> list[Event]:
    """Everything reserved for a client, in the order of reservation; over all runs, or of one."""
    query = select(PrivacyEventRow.event_json).where(PrivacyEventRow.client_id == client_id)
    if run_id is not None:
        query = query.where(PrivacyEventRow.run_id == run_id)
    order = (PrivacyEventRow.reserved_at, PrivacyEventRow.reservation_id)
    return [event_from_json(text) for text in session.scalars(query.order_by(*order))]

"""Within a transaction: one charge more for each of many clients, after a look at all that they had."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

from sqlalchemy import func, insert, select, update

from coordinator.errors import StorageError
from coordinator.storage.models import BudgetRow, PrivacyEventRow
from coordinator.storage.telling import in_parts
from coordinator.storage.witnessed import witnessed_of_run, witnessed_texts
from privacy.events import PoissonGaussianEvent, event_from_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from sqlalchemy.orm import Session

    from privacy.events import Event

    MaySpend = Callable[[str, Sequence[Event]], None]

_read = lru_cache(maxsize=4096)(event_from_json)  # a fleet is charged the same few events again and again


def charge_budgets(session: Session, client_ids: Iterable[str], may_spend: MaySpend | None) -> None:
    """Count one more charge of each, after a look at all of them; the table refuses one that was not looked at.

    Args:
      session: of ``Database.transaction``.
      client_ids: whose.
      may_spend: called with each client and what it was charged before (``spent_together``); what it raises goes up.

    Raises:
      StorageError: there are not as many charges as were counted.
    """
    names = sorted(client_ids)
    counted = _locked_budgets(session, names)
    spent, charges = spent_together(session, names)
    by_count: dict[int, list[str]] = {}
    for client_id in names:
        if charges[client_id] != counted[client_id]:
            raise StorageError(
                f"client {client_id} has {charges[client_id]} charges, its budget counts {counted[client_id]}",
                hint="rows were removed or added by hand; restore the newest backup before any run goes on",
            )
        if may_spend is not None:
            may_spend(client_id, spent[client_id])
        by_count.setdefault(charges[client_id], []).append(client_id)
    for count, alike in by_count.items():
        for part in in_parts(alike):
            session.execute(
                update(BudgetRow)
                .where(BudgetRow.client_id.in_(part))
                .values(charges=BudgetRow.charges + 1, accounted=count + 1)
                .execution_options(synchronize_session=False)
            )


def _locked_budgets(session: Session, names: Sequence[str]) -> dict[str, int]:
    """Client id -> charges counted; rows are locked in order of names, and made where they are missing."""
    found: dict[str, int] = {}
    for part in in_parts(names):
        query = select(BudgetRow.client_id, BudgetRow.charges).where(BudgetRow.client_id.in_(part))
        found |= {
            row[0]: row[1] for row in session.execute(query.order_by(BudgetRow.client_id).with_for_update())
        }
    new = [{"client_id": name, "charges": 0, "accounted": 0} for name in names if name not in found]
    if new:
        session.execute(insert(BudgetRow), new)
    return dict.fromkeys(names, 0) | found


def spent_together(session: Session, names: Sequence[str]) -> tuple[dict[str, list[Event]], dict[str, int]]:
    """What each client was charged over all runs: equal events as one, with the sum of their steps.

    The accountant adds steps of equal events anyway (``privacy.accounting``), so that a look costs as much after a
    thousand rounds as after one. Events that are not understood stay as many as they are.

    Returns:
      client id -> events, those that count by the client's word alone among them, and client id -> number of charges
      in this database; every name is in both.
    """
    events: dict[str, list[Event]] = {name: [] for name in names}
    charges = dict.fromkeys(names, 0)
    columns = (PrivacyEventRow.client_id, PrivacyEventRow.event_json)
    for part in in_parts(names):
        query = select(*columns, func.count()).where(PrivacyEventRow.client_id.in_(part)).group_by(*columns)
        for client_id, text, count in session.execute(query.order_by(*columns)):
            charges[client_id] += count
            event = _read(text)
            if isinstance(event, PoissonGaussianEvent):
                events[client_id].append(replace(event, num_steps=event.num_steps * count))
            else:
                events[client_id] += [event] * count
        for client_id, text, count in witnessed_texts(session, part):
            events[client_id] += [_read(text)] * count
    return events, charges


def charged_events(session: Session, client_id: str, run_id: str | None = None) -> list[Event]:
    """Everything reserved for a client, in the order of reservation; over all runs, or of one."""
    query = select(PrivacyEventRow.event_json).where(PrivacyEventRow.client_id == client_id)
    if run_id is not None:
        query = query.where(PrivacyEventRow.run_id == run_id)
    order = (PrivacyEventRow.reserved_at, PrivacyEventRow.reservation_id)
    texts = [*session.scalars(query.order_by(*order)), *witnessed_of_run(session, client_id, run_id)]
    return [_read(text) for text in texts]

"""What the tables of run state say was declared, charged, ordered and answered, as entries of a ledger.

The ledger is written as things happen. This is the other way to the same entries: a check that both agree, and what
completes the ledger of a database that is older than it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import select

from coordinator.storage.models import ClientRow, ContributionRow, PrivacyEventRow, RoundRow, RunRow
from motet.recipe import Recipe, canonical_json, recipe_sha256
from privacy.ledger.entries import (
    CancelRefused,
    ClientKey,
    Order,
    Reserve,
    RunDeclared,
    Settle,
)
from privacy.ledger.rules import charged_event
from privacy.ledger.vectors import rdp_vector

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sqlalchemy.orm import Session

    from privacy.ledger.entries import Body


NOT_DRAWN = "not_drawn"
"""Why a charge of ``privacy.unit: client`` has no order: the draw, which is what it pays for, went otherwise."""


def declared(run_id: str, recipe: Recipe) -> RunDeclared:
    """The entry of a run that is submitted."""
    return RunDeclared(run_id=run_id, recipe_sha256=recipe_sha256(recipe), recipe_json=canonical_json(recipe))


def bodies_of(session: Session) -> Iterator[Body]:
    """Every entry that the tables of run state give, in an order that a ledger may have."""
    for client in session.scalars(select(ClientRow).order_by(ClientRow.registered_at, ClientRow.client_id)):
        yield ClientKey(client_id=client.client_id, public_key=client.public_key.decode("ascii", "replace"))
    charges = {row.reservation_id: row for row in session.scalars(select(PrivacyEventRow))}
    by_place = {(r.run_id, r.round_index, r.attempt, r.client_id): r for r in charges.values()}
    for run in session.scalars(select(RunRow).order_by(RunRow.created_at, RunRow.run_id)):
        yield RunDeclared(run_id=run.run_id, recipe_sha256=run.recipe_sha256, recipe_json=run.recipe_json)
    attempts = select(RoundRow).order_by(
        RoundRow.started_at, RoundRow.run_id, RoundRow.round_index, RoundRow.attempt
    )
    for attempt in session.scalars(attempts):
        query = (
            select(ContributionRow)
            .where(
                ContributionRow.run_id == attempt.run_id,
                ContributionRow.round_index == attempt.round_index,
                ContributionRow.attempt == attempt.attempt,
            )
            .order_by(ContributionRow.client_id)
        )
        asked = list(session.scalars(query))
        pairs = [(c, by_place.get((c.run_id, c.round_index, c.attempt, c.client_id))) for c in asked]
        yield from (_reserve(charge) for _, charge in pairs if charge is not None)
        yield from (_order(c, charge) for c, charge in pairs if c.message_id)
        for contribution, charge in pairs:
            if charge is not None:
                yield from _outcome(contribution, charge, attempt)


def _reserve(row: PrivacyEventRow) -> Reserve:
    return Reserve(
        reservation_id=row.reservation_id,
        run_id=row.run_id,
        round_index=row.round_index,
        attempt=row.attempt,
        client_id=row.client_id,
        event=row.event_json,
        rdp_nano=rdp_vector(charged_event(row.event_json)),
    )


def _order(row: ContributionRow, charge: PrivacyEventRow | None) -> Order:
    return Order(
        reservation_id=charge.reservation_id if charge is not None else "",
        run_id=row.run_id,
        round_index=row.round_index,
        attempt=row.attempt,
        client_id=row.client_id,
        message_id=row.message_id,
    )


def _outcome(row: ContributionRow, charge: PrivacyEventRow, attempt: RoundRow) -> Iterable[Body]:
    """Settled, or not given back; nothing while the answer is awaited."""
    if charge.state == "SETTLED":
        yield Settle(reservation_id=charge.reservation_id, payload_sha256=row.payload_sha256)
    elif row.state in ("FAILED", "LATE"):
        yield CancelRefused(reservation_id=charge.reservation_id, reason=row.error_code or row.state.lower())
    elif row.state == "SKIPPED":
        yield CancelRefused(reservation_id=charge.reservation_id, reason=NOT_DRAWN)
    elif attempt.state == "ABORTED":
        yield CancelRefused(reservation_id=charge.reservation_id, reason="aborted")

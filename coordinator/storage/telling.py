"""Orders that left and answers that came: many contributions of one attempt in one transaction.

A commit waits for the disk. A hundred clients a round are two commits here, not two hundred.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import select

from coordinator.rounds import table
from coordinator.rounds.table import ABSENT, Transition, moves
from coordinator.storage.models import ContributionRow, PrivacyEventRow
from coordinator.storage.scores import put_score
from privacy.ledger.entries import CancelRefused, Order, Settle, reservation_id

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from sqlalchemy.orm import Session

    from coordinator.storage.ledger import StoredLedger
    from coordinator.storage.scores import Score
    from privacy.ledger.entries import Body

NAMES_A_QUERY = 500  # SQLite takes no more than 999 values in old versions
LONGEST_MESSAGE = 2000
Attempt = tuple[str, int, int]
"""run_id, round_index, attempt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """An order left, carried by a message of ``bytes_down`` bytes of payload."""

    client_id: str
    message_id: str
    bytes_down: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """An update is stored and admitted; its charge is settled. ``lora_rank``: where it is not what was ordered.

    ``score``: of the adapter that the round starts from, where the client told one.
    """

    client_id: str
    payload_sha256: str
    bytes_up: int
    weight: float
    num_examples: int
    lora_rank: int | None = None
    compression_error: float | None = None
    withholds_metrics: bool = False
    score: Score | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A client refused, failed, or sent what is not admitted. Its charge stays reserved: it counts in full."""

    client_id: str
    code: str
    message: str


Told = Sent | Received | Refused


def transition_of(told: Told) -> Transition:
    """What happens to a contribution by it."""
    if isinstance(told, Sent):
        return table.SEND
    return table.RECEIVE if isinstance(told, Received) else table.REFUSE


def tell(session: Session, ledger: StoredLedger, attempt: Attempt, all_told: Sequence[Told]) -> None:
    """Write what happened to contributions of one attempt, and its ledger entries, within the caller's transaction.

    What was told before, or was overtaken by another answer, changes nothing.

    Raises:
      IllegalTransitionError: the table of transitions has no such way, or there is no such contribution.
      LedgerConflictError: the ledger has it otherwise.
    """
    names = sorted({told.client_id for told in all_told})
    rows = {row.client_id: row for row in _rows(session, attempt, names)}
    charges = {row.client_id: row for row in _charges(session, attempt, names)}
    bodies: list[Body] = []
    for told in all_told:
        row, charge = rows.get(told.client_id), charges.get(told.client_id)
        what = f"run {attempt[0]}, round {attempt[1]}, attempt {attempt[2]}, client {told.client_id}"
        transition = transition_of(told)
        if not moves(transition, row.state if row else ABSENT, what=what) or row is None:
            continue
        row.state = transition.after
        if isinstance(told, Received) and told.score is not None:
            put_score(session, row.run_id, row.round_index, row.client_id, told.score)
        bodies += _written(told, row, charge)
    session.flush()
    ledger.record(session, bodies)


def _written(told: Told, row: ContributionRow, charge: PrivacyEventRow | None) -> Iterator[Body]:
    """Fill in the row and the charge; what the ledger has to say about it."""
    name = charge.reservation_id if charge is not None else ""
    if isinstance(told, Sent):
        row.message_id, row.bytes_down = told.message_id, told.bytes_down
        yield Order(
            reservation_id=name,
            run_id=row.run_id,
            round_index=row.round_index,
            attempt=row.attempt,
            client_id=row.client_id,
            message_id=told.message_id,
        )
    elif isinstance(told, Refused):
        row.error_code, row.error_message = told.code, told.message[:LONGEST_MESSAGE]
        if charge is not None:
            yield CancelRefused(reservation_id=name, reason=told.code or "failed")
    else:
        row.payload_sha256, row.bytes_up = told.payload_sha256, told.bytes_up
        row.weight, row.num_examples = told.weight, told.num_examples
        row.compression_error, row.withholds_metrics = told.compression_error, told.withholds_metrics
        row.lora_rank = row.lora_rank if told.lora_rank is None else told.lora_rank
        if charge is not None:
            if moves(table.SETTLE, charge.state, what=f"charge {name}"):
                charge.state = table.SETTLE.after
            yield Settle(reservation_id=name, payload_sha256=told.payload_sha256)


def in_parts(names: Sequence[str]) -> Iterable[Sequence[str]]:
    """No more than a query may name."""
    return (names[i : i + NAMES_A_QUERY] for i in range(0, len(names), NAMES_A_QUERY))


def _rows(session: Session, attempt: Attempt, names: Sequence[str]) -> Iterator[ContributionRow]:
    run_id, round_index, number = attempt
    query = select(ContributionRow).where(
        ContributionRow.run_id == run_id,
        ContributionRow.round_index == round_index,
        ContributionRow.attempt == number,
    )
    for part in in_parts(names):
        yield from session.scalars(query.where(ContributionRow.client_id.in_(part)))


def _charges(session: Session, attempt: Attempt, names: Sequence[str]) -> Iterator[PrivacyEventRow]:
    for part in in_parts([reservation_id(*attempt, client_id) for client_id in names]):
        yield from session.scalars(select(PrivacyEventRow).where(PrivacyEventRow.reservation_id.in_(part)))

"""What leaves a coordinator after a commit: each effect has a committed record, and is repeated until that says done.

There is no table of its own for them. The record that makes an effect true is the row that says it is still to be
done, written in the same transaction; a second row could only agree with it. See docs/adr/0012.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

from coordinator.rounds.table import ASK_CANCEL, FINISH, ORDER, PLAN

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """One kind of effect.

    Attributes:
      name: as in ``Transition.effect``.
      after: transitions whose commit it follows.
      pending: what the database holds from that commit until it is done.
      done: what ends that.
      repeated: why doing it twice is doing it once.
    """

    name: str
    after: tuple[str, ...]
    pending: str
    done: str
    repeated: str


EFFECTS = (
    Effect(
        name=ORDER.effect,
        after=(ORDER.name,),
        pending="the contribution is ORDERED",
        done="it has another state: an answer was taken, or its time was over",
        repeated="a client knows an order by run, round and attempt, and answers one that it has done from its reply",
    ),
    Effect(
        name=PLAN.effect,
        after=(PLAN.name, FINISH.name),
        pending="`ledger_entries` has rows that the signed file lacks",
        done="the file is as long as the table, and signed",
        repeated="an entry has its place in the chain, and is there once",
    ),
    Effect(
        name=ASK_CANCEL.effect,
        after=(ASK_CANCEL.name,),
        pending="the run has `cancel_requested` and has not ended",
        done="the run is CANCELLED",
        repeated="a client drops an order by its key, and one that it does not know it passes over; a run ends once",
    ),
)
"""All of them. Files are no effects: they are written before the row that names them, under their content's name."""


class Stated(Protocol):
    """What has a state; a contribution."""

    state: str


_Stated = TypeVar("_Stated", bound=Stated)


def orders_to_send(contributions: Iterable[_Stated]) -> list[_Stated]:
    """The outbox of orders: each was committed with its charge, and its answer is awaited."""
    return [c for c in contributions if c.state == ORDER.after]

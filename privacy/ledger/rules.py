"""What must hold between the entries of a ledger, whoever wrote it. Each finding names its entry."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from privacy.errors import MalformedEventError
from privacy.events import Event, PoissonGaussianEvent, Unit, UnknownEvent, event_from_json, of_unit, units_of
from privacy.ledger.entries import (
    Approval,
    CancelRefused,
    Decision,
    Genesis,
    Order,
    Reserve,
    RunDeclared,
    Settle,
    identity,
    reservation_id,
)
from privacy.ledger.vectors import rdp_vector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from privacy.ledger.chain import Entry
    from privacy.ledger.entries import Body

# A charge may be above the recomputed value by the rounding of another machine's arithmetic, never below it.
_VECTOR_SLACK = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleFinding:
    """One thing that does not hold.

    Attributes:
      index: of the entry, from 0.
      code: short name of the rule.
      message: what is wrong, in words.
    """

    index: int
    code: str
    message: str


@dataclass(slots=True, kw_only=True)
class LedgerState:
    """What the entries add up to.

    Attributes:
      runs: run id -> recipe as plain JSON.
      reserves: reservation id -> the charge.
      charges: client id -> its charges, in order, over all runs.
      reserve_index: reservation id -> index of its entry.
      events: client id -> events charged, in order, over all runs.
      orders: number of training orders.
      settled: reservation ids whose update came back.
      decisions: data owners' decisions on recipes, each with the index of its entry.
      approvals: operators' approvals of runs, in order.
      after_refusal: orders to clients whose newest decision on the recipe, at that place, was a no.
      findings: what does not hold.
    """

    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    reserves: dict[str, Reserve] = field(default_factory=dict)
    charges: dict[str, list[Reserve]] = field(default_factory=dict)
    reserve_index: dict[str, int] = field(default_factory=dict)
    events: dict[str, list[Event]] = field(default_factory=dict)
    orders: int = 0
    settled: set[str] = field(default_factory=set)
    ordered: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    decisions: list[tuple[int, Decision]] = field(default_factory=list)
    approvals: list[Approval] = field(default_factory=list)
    after_refusal: list[Order] = field(default_factory=list)
    recipes: dict[str, str] = field(default_factory=dict)
    standing: dict[tuple[str, str], Decision] = field(default_factory=dict)
    findings: list[RuleFinding] = field(default_factory=list)

    def charge(self, body: Reserve) -> None:
        """Take a charge in; where its entry stands and what it costs is the caller's to note."""
        self.reserves[body.reservation_id] = body
        self.charges.setdefault(body.client_id, []).append(body)

    def charges_in(self, client_id: str, unit: Unit) -> list[Reserve]:
        """What counts against a client's budget of one unit, in order; what is not understood counts in every unit."""
        own = self.charges.get(client_id, ())
        return [charge for charge in own if of_unit([charged_event(charge.event)], unit)]

    def accounts(self) -> dict[tuple[str, Unit], list[Event]]:
        """(client id, unit) -> events charged to it, in order; what is not understood counts in every unit."""
        return {
            (client_id, unit): of_unit(events, unit)
            for client_id, events in sorted(self.events.items())
            for unit in units_of(events)
        }


def charged_event(text: str) -> Event:
    """The event of a charge; one that can not be read is unknown, so that it costs infinity."""
    try:
        return event_from_json(text)
    except MalformedEventError:
        return UnknownEvent(text=text)


def check_entries(entries: Iterable[Entry]) -> LedgerState:
    """Replay a ledger and hold every entry to the rules.

    Args:
      entries: in order, their chain verified by the caller.

    Returns:
      the state, with every breach in ``findings``; nothing is raised for content.
    """
    state = LedgerState()
    seen: set[tuple[str, ...]] = set()
    for index, entry in enumerate(entries):
        body = entry.body

        def report(code: str, message: str, index: int = index) -> None:
            state.findings.append(RuleFinding(index=index, code=code, message=message))

        if isinstance(body, Genesis) != (index == 0):
            report("genesis", "a ledger begins with its one genesis entry")
        name = identity(body)
        if name in seen:
            report("replayed", f"this {body.kind} entry was there before: {' '.join(name[1:])[:120]}")
            continue
        seen.add(name)
        _replay(state, body, index, report)
    return state


def _replay(state: LedgerState, body: Body, index: int, report: Callable[[str, str], None]) -> None:
    if isinstance(body, RunDeclared):
        _run(state, body, report)
    elif isinstance(body, Reserve):
        _reserve(state, body, index, report)
    elif isinstance(body, Order):
        _order(state, body, report)
    elif isinstance(body, Settle | CancelRefused):
        _outcome(state, body, report)
    elif isinstance(body, Decision):
        _decision(state, body, index, report)
    elif isinstance(body, Approval):
        _approval(state, body, report)


def _run(state: LedgerState, body: RunDeclared, report: Callable[[str, str], None]) -> None:
    if hashlib.sha256(body.recipe_json.encode()).hexdigest() != body.recipe_sha256:
        report("recipe_hash", f"the recipe of run {body.run_id} is not the one that its hash names")
    try:
        recipe = json.loads(body.recipe_json)
    except (ValueError, RecursionError):
        recipe = None
    if not isinstance(recipe, dict):
        report("recipe", f"the recipe of run {body.run_id} can not be read")
        recipe = {}
    state.runs[body.run_id] = recipe
    state.recipes[body.run_id] = body.recipe_sha256


def _decision(state: LedgerState, body: Decision, index: int, report: Callable[[str, str], None]) -> None:
    state.decisions.append((index, body))
    if body.decision not in ("approved", "refused"):
        report("decision", f"client {body.client_id} decided {body.decision[:40]!r}, which is no decision")
    if body.made_by not in ("owner", "rule"):
        report("decision", f"a decision of client {body.client_id} was made by {body.made_by[:40]!r}")
    place = body.client_id, body.recipe_sha256
    known = state.standing.get(place)
    if known is None or known.decided_at_ms <= body.decided_at_ms:
        state.standing[place] = body


def _approval(state: LedgerState, body: Approval, report: Callable[[str, str], None]) -> None:
    """An approval stands after its run, and is of the recipe that the run has."""
    state.approvals.append(body)
    if body.run_id not in state.runs:
        report("unknown_run", f"run {body.run_id} was not declared before it was approved")
    elif body.recipe_sha256 != state.recipes[body.run_id]:
        report("approval", f"run {body.run_id} was approved with another recipe than it has")


def _reserve(state: LedgerState, body: Reserve, index: int, report: Callable[[str, str], None]) -> None:
    expected = reservation_id(body.run_id, body.round_index, body.attempt, body.client_id)
    if body.reservation_id != expected:
        report("reservation_id", f"the charge is named {body.reservation_id}, its fields make {expected}")
    if body.run_id not in state.runs:
        report("unknown_run", f"run {body.run_id} was not declared before this charge")
    event = charged_event(body.event)
    try:
        event_from_json(body.event)
    except MalformedEventError as error:
        report("event", f"the charge can not be read: {error}")
    state.charge(body)
    state.reserve_index[body.reservation_id] = index
    state.events.setdefault(body.client_id, []).append(event)
    _check_vector(body, event, report)
    _check_against_recipe(state.runs.get(body.run_id, {}), body, event, report)


def _check_vector(body: Reserve, event: Event, report: Callable[[str, str], None]) -> None:
    truth = rdp_vector(event)
    if body.rdp_nano is None:
        return  # infinite: an upper bound of everything
    if truth is None:
        report("undercharged", "the event has no finite cost, the charge has one")
    elif any(
        charged < value * (1 - _VECTOR_SLACK) - 1 for charged, value in zip(body.rdp_nano, truth, strict=True)
    ):
        report("undercharged", "the charged Renyi vector is below that of the event")
    elif any(
        charged > value * (1 + _VECTOR_SLACK) + 1 for charged, value in zip(body.rdp_nano, truth, strict=True)
    ):
        report("overcharged", "the charged Renyi vector is above that of the event: one of them was altered")


def _check_against_recipe(
    recipe: dict[str, Any], body: Reserve, event: Event, report: Callable[[str, str], None]
) -> None:
    """The event is what the recipe, which clients approved by its hash, says a round costs."""
    privacy, training = recipe.get("privacy"), recipe.get("training")
    if not isinstance(privacy, dict) or not isinstance(training, dict):
        if recipe:
            report("not_private", f"run {body.run_id} has no privacy section, yet it is charged")
        return
    if not isinstance(event, PoissonGaussianEvent):
        return
    told = {
        "sampling_rate": (event.sampling_rate, privacy.get("sampling_rate")),
        "local_steps": (event.num_steps, training.get("local_steps")),
        "noise_multiplier": (event.noise_multiplier, privacy.get("noise_multiplier")),
        "unit": (event.unit, privacy.get("unit", "example")),
    }
    if event.unit == "client":  # noise is added once a round, to the sum
        told["local_steps"] = (event.num_steps, 1)
    for name, (charged, declared) in told.items():
        if declared is not None and charged != declared:
            report("recipe_differs", f"{name} {charged!r} is charged, the run's recipe says {declared!r}")


def _order(state: LedgerState, body: Order, report: Callable[[str, str], None]) -> None:
    state.orders += 1
    recipe = state.runs.get(body.run_id)
    if recipe is None:
        report("unknown_run", f"run {body.run_id} was not declared before this order")
        return
    where = f"run {body.run_id}, round {body.round_index}, attempt {body.attempt}, client {body.client_id}"
    decided = state.standing.get((body.client_id, state.recipes.get(body.run_id, "")))
    if decided is not None and decided.decision == "refused":
        state.after_refusal.append(body)
    if not body.reservation_id:
        if recipe.get("privacy") is not None:
            report("order_without_reservation", f"{where}: trained with privacy, but charged to nobody")
        return
    charge = state.reserves.get(body.reservation_id)
    if charge is None:
        report("order_before_reservation", f"{where}: the order stands before its charge, or there is none")
        return
    state.ordered.add(body.reservation_id)
    if (charge.run_id, charge.round_index, charge.attempt, charge.client_id) != (
        body.run_id,
        body.round_index,
        body.attempt,
        body.client_id,
    ):
        report("order_differs", f"{where}: the order rests on a charge of something else")


def _outcome(state: LedgerState, body: Settle | CancelRefused, report: Callable[[str, str], None]) -> None:
    if body.reservation_id not in state.reserves:
        report("no_reservation", f"{body.kind} of {body.reservation_id}, which was never charged")
        return
    if isinstance(body, Settle):
        if body.reservation_id not in state.ordered:
            report("no_order", f"an update came back for {body.reservation_id} before any order was given")
        if body.reservation_id in state.refused:
            report("two_outcomes", f"{body.reservation_id} came back and did not come back")
        state.settled.add(body.reservation_id)
    else:
        if body.reservation_id in state.settled:
            report("two_outcomes", f"{body.reservation_id} came back and did not come back")
        state.refused.add(body.reservation_id)

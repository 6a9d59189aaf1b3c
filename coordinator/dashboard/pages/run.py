"""One run: what it is, how far it is, its figures by round, and what each client did in each of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from coordinator.dashboard.pages.figures import ClientFigure, Figure, client_figures, figures_of
from coordinator.rounds.table import ENDED
from coordinator.rpc.records import approved_by, reason_of, rounds_of, scores_of
from coordinator.storage.scores import means

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from coordinator.dashboard.records import Records
    from motet.wire.control import Contribution, Round, Score

LEFT_BEHIND = frozenset({"deadline", "overtaken"})
"""Reasons of an answer that did not come in time; ``overtaken``: the round closed with others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One attempt at one round. ``outcomes``: client -> one of ``OUTCOMES``."""

    round_index: int
    attempt: int
    state: str
    reason: str
    started_at: float
    closed_at: float | None
    relative_error: float | None
    bytes_up: int
    bytes_down: int
    outcomes: Mapping[str, str]

    @property
    def seconds(self) -> float | None:
        """From plan to end; None while it is open."""
        return None if self.closed_at is None else self.closed_at - self.started_at

    @property
    def stragglers(self) -> tuple[str, ...]:
        """Clients whose answer did not come in time."""
        return tuple(c for c, o in self.outcomes.items() if o in {"late", "left behind"})

    @property
    def failures(self) -> tuple[str, ...]:
        """Clients that refused, failed, or sent what was not admitted."""
        return tuple(c for c, o in self.outcomes.items() if o == "failed")


OUTCOMES = ("answered", "clipped", "rejected", "asked", "late", "left behind", "failed", "not drawn")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientInRun:
    """What one client did in a run. ``rank``: of its last order; ``error``: its last complaint."""

    client_id: str
    rank: int
    asked: int
    answered: int
    late: int
    failed: int
    bytes_up: int
    bytes_down: int
    share: float | None
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPage:
    """Everything on the page of a run. Times are seconds since 1970, bytes are of payloads.

    ``scores``: what clients told of adapters on their held-out examples, by rounds done and client.
    """

    run_id: str
    name: str
    state: str
    reason: str
    method: str
    model: str
    task: str
    unit: str
    noise_multiplier: float | None
    epsilon_limit: float | None
    submitted_by: str
    approved_by: Sequence[str]
    priority: int
    recipe_sha256: str
    adapter_sha256: str
    created_at: float
    finished_at: float | None
    rounds_total: int
    attempts: Sequence[Attempt]
    clients: Sequence[ClientInRun]
    figures: Sequence[Figure]
    client_figures: Sequence[ClientFigure]
    scores: Sequence[Score]

    @property
    def is_over(self) -> bool:
        """Whether nothing more happens by itself."""
        return self.state in ENDED

    @property
    def closed(self) -> tuple[Attempt, ...]:
        """The attempts that closed their round, in order."""
        return tuple(a for a in self.attempts if a.state == "CLOSED")

    @property
    def bytes_up(self) -> int:
        """Of all answers."""
        return sum(a.bytes_up for a in self.attempts)

    @property
    def bytes_down(self) -> int:
        """Of all orders."""
        return sum(a.bytes_down for a in self.attempts)

    @property
    def seconds_a_round(self) -> float | None:
        """Mean over closed rounds; None before the first."""
        closed = [a.seconds for a in self.closed if a.seconds is not None]
        return sum(closed) / len(closed) if closed else None


def run_page(records: Records, run_id: str) -> RunPage:
    """The page of a run.

    Raises:
      RunNotFoundError: there is none of that id.
      StorageError: the database can not be read.
    """
    store = records.store
    row = store.get_run(run_id)
    recipe: dict[str, Any] = json.loads(row.recipe_json)
    privacy = recipe.get("privacy") or {}
    rounds = rounds_of(store, run_id)
    attempts = tuple(_attempt(r) for r in rounds)
    metrics = store.metrics(run_id)
    return RunPage(
        run_id=row.run_id,
        name=row.name,
        state=row.state,
        reason=reason_of(store, row),
        method=str(recipe["method"]["name"]),
        model=_model(recipe.get("base_model")),
        task=str((recipe.get("task") or {}).get("kind", "")),
        unit=str(privacy.get("unit", "example")) if privacy else "",
        noise_multiplier=privacy.get("noise_multiplier"),
        epsilon_limit=privacy.get("epsilon_limit"),
        submitted_by=row.submitted_by,
        approved_by=approved_by(store, row.recipe_sha256),
        priority=row.priority,
        recipe_sha256=row.recipe_sha256,
        adapter_sha256=row.adapter_sha256,
        created_at=row.created_at,
        finished_at=row.finished_at,
        rounds_total=int(recipe["training"]["rounds"]),
        attempts=attempts,
        clients=_clients(rounds),
        figures=figures_of(metrics, records.result_of(run_id), means(store.scores.of(run_id))),
        client_figures=client_figures(records.result_of(run_id)),
        scores=scores_of(store, run_id),
    )


def outcome_of(contribution: Contribution) -> str:
    """One of ``OUTCOMES``."""
    if contribution.state == "RECEIVED":
        return contribution.outcome if contribution.outcome in {"clipped", "rejected"} else "answered"
    if contribution.state == "FAILED":
        return "left behind" if contribution.error_code in LEFT_BEHIND else "failed"
    return {"ORDERED": "asked", "LATE": "late", "SKIPPED": "not drawn"}.get(contribution.state, "failed")


def _attempt(found: Round) -> Attempt:
    return Attempt(
        round_index=found.round_index,
        attempt=found.attempt,
        state=found.state,
        reason=found.reason,
        started_at=found.started_at,
        closed_at=found.closed_at,
        relative_error=found.relative_error,
        bytes_up=sum(c.bytes_up for c in found.contributions),
        bytes_down=sum(c.bytes_down for c in found.contributions),
        outcomes={c.client_id: outcome_of(c) for c in found.contributions},
    )


def _clients(rounds: Sequence[Round]) -> list[ClientInRun]:
    found: dict[str, list[Contribution]] = {}
    for attempt in rounds:
        for contribution in attempt.contributions:
            found.setdefault(contribution.client_id, []).append(contribution)
    return [_client(client_id, found[client_id]) for client_id in sorted(found)]


def _client(client_id: str, of: Sequence[Contribution]) -> ClientInRun:
    outcomes = [outcome_of(c) for c in of]
    shares = [c.share for c in of if c.share is not None]
    complaints = [c.error_message or c.error_code for c in of if c.error_message or c.error_code]
    return ClientInRun(
        client_id=client_id,
        rank=of[-1].lora_rank,
        asked=sum(o != "not drawn" for o in outcomes),
        answered=sum(c.state == "RECEIVED" for c in of),
        late=sum(o in {"late", "left behind"} for o in outcomes),
        failed=outcomes.count("failed"),
        bytes_up=sum(c.bytes_up for c in of),
        bytes_down=sum(c.bytes_down for c in of),
        share=shares[-1] if shares else None,
        error=complaints[-1] if complaints else "",
    )


def _model(base: object) -> str:
    """A base model as people call it."""
    if isinstance(base, dict):
        return next((str(v) for v in base.values() if isinstance(v, str)), "a model of one's own")
    return str(base or "")

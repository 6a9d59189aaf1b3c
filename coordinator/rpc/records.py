"""Rows of the store as the records that leave over the control API."""

from __future__ import annotations

import json
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from coordinator.engine.waiting import Situation, why_it_waits
from coordinator.rounds.table import ENDED
from coordinator.storage.scores import means
from motet.wire.control import Client, Contribution, Metric, Round, Run, RunAction, Score

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping, Sequence

    from coordinator.storage.models import ClientRow, ContributionRow, RoundRow, RunRow, ScoreRow
    from coordinator.storage.store import Store


def approved_by(store: Store, recipe_sha256: str) -> tuple[str, ...]:
    """The clients whose owners' newest decision on a recipe is a yes."""
    standing = store.decisions.standing(recipe_sha256)
    return tuple(sorted(client for client, made in standing.items() if made.decision == "approved"))


def run_record(store: Store, row: RunRow) -> Run:
    """One run."""
    approved = approved_by(store, row.recipe_sha256)
    closed = len(store.closed_rounds(row.run_id))
    run = run_of(row, rounds_closed=closed, approved=approved, reason=reason_of(store, row))
    return replace(run, actions=actions_of(store, row.run_id))


def reason_of(store: Store, row: RunRow) -> str:
    """Why a run ended so, or waits; while nobody leads the database it waits for the lead."""
    if row.state not in {"QUEUED", "RUNNING"}:
        return row.reason
    leader = store.leases.leader()
    is_leading = leader is not None and leader.left_s > 0
    return row.reason if is_leading else why_it_waits(Situation(is_leading=False))


def run_of(
    row: RunRow, *, rounds_closed: int, approved: Sequence[str] = (), reason: str | None = None
) -> Run:
    """One run whose closed rounds were counted; ``reason`` in the place of the row's own."""
    reason = row.reason if reason is None else reason
    return Run(
        run_id=row.run_id,
        name=row.name,
        state=row.state,
        reason=reason,
        rounds_total=int(json.loads(row.recipe_json)["training"]["rounds"]),
        rounds_closed=rounds_closed,
        adapter_sha256=row.adapter_sha256,
        recipe_sha256=row.recipe_sha256,
        created_at=row.created_at,
        finished_at=row.finished_at,
        cancel_requested=row.cancel_requested,
        submitted_by=row.submitted_by,
        priority=row.priority,
        approved_by=tuple(approved),
        waiting_for=(reason,) if reason and row.state not in ENDED else (),
    )


def actions_of(store: Store, run_id: str) -> tuple[RunAction, ...]:
    """Who did what to a run, in order."""
    return tuple(
        RunAction(
            action=row.action,
            made_by=row.made_by,
            serial=row.serial,
            fingerprint=row.fingerprint,
            at=row.made_at,
            detail=row.detail,
        )
        for row in store.actions.of(run_id)
    )


def rounds_of(store: Store, run_id: str) -> list[Round]:
    """Every attempt at every round of a run, with what each client did."""
    by_attempt: dict[tuple[int, int], list[ContributionRow]] = {}
    for row in store.contributions(run_id):
        by_attempt.setdefault((row.round_index, row.attempt), []).append(row)
    cuts = store.figures(run_id, "truncation_error")
    told: dict[int, list[ScoreRow]] = {}
    for score in store.scores.of(run_id):
        told.setdefault(score.rounds_done, []).append(score)
    return [
        round_of(row, by_attempt.get((row.round_index, row.attempt), ()), cuts, told.get(row.round_index, ()))
        for row in store.rounds(run_id)
    ]


def round_of(
    row: RoundRow,
    contributions: Iterable[ContributionRow],
    cuts: Mapping[int, float],
    scores: Iterable[ScoreRow] = (),
) -> Round:
    """One attempt.

    Args:
      row: of it.
      contributions: of it.
      cuts: round -> relative error of a cut of rank before it.
      scores: what clients told of the adapter that this round starts from.
    """
    told = {score.client_id: score for score in scores}
    return Round(
        run_id=row.run_id,
        round_index=row.round_index,
        attempt=row.attempt,
        state=row.state,
        reason=row.reason,
        started_at=row.started_at,
        closed_at=row.closed_at,
        deadline_at=row.deadline_at,
        start_sha256=row.start_sha256,
        adapter_sha256=row.adapter_sha256,
        relative_error=row.relative_error,
        truncation_error=cuts.get(row.round_index),
        contributions=tuple(
            _contribution(c, told.get(c.client_id) if c.state == "RECEIVED" else None) for c in contributions
        ),
    )


def _contribution(row: ContributionRow, score: ScoreRow | None) -> Contribution:
    return Contribution(
        client_id=row.client_id,
        state=row.state,
        lora_rank=row.lora_rank,
        bytes_up=row.bytes_up,
        bytes_down=row.bytes_down,
        change_norm=row.change_norm,
        share=row.share,
        outcome=row.outcome,
        compression_error=row.compression_error,
        error_code=row.error_code,
        error_message=row.error_message,
        held_out_loss=None if score is None else score.loss,
        held_out_accuracy=None if score is None else score.accuracy,
        held_out_examples=0 if score is None else score.num_examples,
    )


def metrics_of(store: Store, run_id: str) -> list[Metric]:
    """Figures of a run, by round and name: the coordinator's own, and means of what clients told of a round's start."""
    found = [Metric(round_index=m.round_index, name=m.name, value=m.value) for m in store.metrics(run_id)]
    for rounds_done, told in means(store.scores.of(run_id)).items():
        found += [Metric(round_index=rounds_done, name=name, value=value) for name, value in told.items()]
    return sorted(found, key=lambda m: (m.round_index, m.name))


def scores_of(store: Store, run_id: str) -> list[Score]:
    """What single clients told of adapters, by rounds done and client."""
    return [
        Score(
            rounds_done=row.rounds_done,
            client_id=row.client_id,
            loss=row.loss,
            accuracy=row.accuracy,
            num_examples=row.num_examples,
        )
        for row in store.scores.of(run_id)
    ]


def client_record(
    row: ClientRow, online: Container[str] = frozenset(), seen: Mapping[str, float] = MappingProxyType({})
) -> Client:
    """One registered client. ``online`` and ``seen``: by the coordinator that serves, newer than what is stored."""
    times = [at for at in (row.last_seen_at, seen.get(row.client_id)) if at]
    return Client(
        client_id=row.client_id,
        capacity_class=row.capacity_class,
        registered_at=row.registered_at,
        last_seen_at=max(times, default=None),
        is_online=row.client_id in online,
    )

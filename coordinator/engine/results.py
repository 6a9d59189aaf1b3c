"""How a run ended, as the store holds it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coordinator.storage.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """How a run ended.

    ``rounds``: one dict a closed round with round_index, relative_error, truncation_error, seconds and clients.
    """

    run_id: str
    state: str
    reason: str = ""
    adapter_sha256: str = ""
    rounds: Sequence[dict[str, Any]] = field(default_factory=tuple)


def run_result(store: Store, run_id: str) -> RunResult:
    """What the store holds of a run that has ended."""
    row = store.get_run(run_id)
    cuts = store.figures(run_id, "truncation_error")
    rounds = []
    for closed in store.closed_rounds(run_id):
        contributions = store.contributions(run_id, closed.round_index, closed.attempt)
        clients = {
            c.client_id: {
                "state": c.state,
                "lora_rank": c.lora_rank,
                "bytes_up": c.bytes_up,
                "bytes_down": c.bytes_down,
                "num_examples": c.num_examples,
                "change_norm": c.change_norm,
                "share": c.share,
                "outcome": c.outcome,
                "compression_error": c.compression_error,
            }
            for c in contributions
        }
        rounds.append(
            {
                "round_index": closed.round_index,
                "relative_error": closed.relative_error,
                "truncation_error": cuts.get(closed.round_index, 0.0),
                "seconds": (closed.closed_at or closed.started_at) - closed.started_at,
                "clients": clients,
            }
        )
    return RunResult(
        run_id=run_id,
        state=row.state,
        reason=row.reason,
        adapter_sha256=row.adapter_sha256,
        rounds=tuple(rounds),
    )

"""The one place that decides what trackers record of a round.

| a run | of the round | of each client |
|---|---|---|
| without privacy | all figures of the coordinator, bytes, times, who answered | all that it holds |
| DP-SGD at the clients (unit example or person) | what follows from noised updates and public constants | the same |
| unit client | the epsilon alone | nothing |

Recorded figures travel further than the coordinator's database: people hand plots on. So what is not noised and moves
with the data, such as the time that a private round takes, is not in them. With unit client the updates themselves are
in the clear at the coordinator; every figure of them, their number included, would tell of a client what the guarantee
hides. Loss and accuracy on held-out examples are of runs without privacy alone, from owners who share them; those of a
round are of the adapter that it starts from. A client whose owner withholds its metrics (``share_metrics`` of a policy)
is in no figure of single clients.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from coordinator.storage.scores import ACCURACY, EXAMPLES, LOSS, means
from motet.trackers.figures import RoundFigures

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from coordinator.storage.models import ContributionRow, RoundRow, ScoreRow
    from motet.recipe import Recipe

NOISED = ("relative_error", "truncation_error", "clipped", "rejected")
"""Of the coordinator's figures, those that follow from what noised updates hold and from the recipe."""
OF_A_CLIENT = ("lora_rank", "bytes_up", "bytes_down", "change_norm", "share", "compression_error")


def released_figures(
    recipe: Recipe,
    closed: RoundRow,
    contributions: Sequence[ContributionRow],
    metrics: Mapping[str, float],
    *,
    epsilon: float | None = None,
    scores: Sequence[ScoreRow] = (),
) -> RoundFigures:
    """What may be recorded of a closed round.

    Args:
      recipe: of the run.
      closed: the attempt that closed.
      contributions: of that attempt.
      metrics: the coordinator's own figures of the round, by name.
      epsilon: the most that a client was charged in this run so far; None without privacy.
      scores: what clients told of the adapter that the round starts from; of a run without privacy alone.

    Returns:
      figures; what is not finite is left out.
    """
    spent = {} if epsilon is None else {"epsilon": epsilon}
    if recipe.privacy is not None and not recipe.privacy.noise_is_local:
        return RoundFigures(run_id=closed.run_id, round_index=closed.round_index, figures=_finite(spent))
    received = sorted((c for c in contributions if c.state == "RECEIVED"), key=lambda c: c.client_id)
    is_private = recipe.privacy is not None
    figures = {n: v for n, v in metrics.items() if not is_private or n in NOISED}
    figures |= spent | {
        "received": float(len(received)),
        "bytes_up": float(sum(c.bytes_up for c in received)),
        "bytes_down": float(sum(c.bytes_down for c in received)),
    }
    clients = {c.client_id: _of(c, is_private=is_private) for c in received if not c.withholds_metrics}
    if not is_private:
        together, own = _held_out(scores)
        figures |= together
        clients = {client_id: told | own.get(client_id, {}) for client_id, told in clients.items()}
        figures |= {
            "failed": float(sum(c.state == "FAILED" for c in contributions)),
            "late": float(sum(c.state == "LATE" for c in contributions)),
        }
    return RoundFigures(
        run_id=closed.run_id,
        round_index=closed.round_index,
        at=None if is_private else closed.closed_at,
        figures=_finite(figures),
        clients=clients,
    )


def released_last_scores(recipe: Recipe, run_id: str, scores: Sequence[ScoreRow]) -> RoundFigures | None:
    """What clients told of the last adapter, as a step after the last round; None where nothing was, or may be."""
    if recipe.privacy is not None or not scores:
        return None
    together, own = _held_out(scores)
    return RoundFigures(run_id=run_id, round_index=recipe.training.rounds, figures=together, clients=own)


def _held_out(scores: Sequence[ScoreRow]) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Means over clients, and each client's own; all of one adapter."""
    together = next(iter(means(scores).values()), {})
    own = {
        row.client_id: {LOSS: row.loss, ACCURACY: row.accuracy, EXAMPLES: row.num_examples} for row in scores
    }
    return _finite(together), {client_id: _finite(told) for client_id, told in own.items()}


def _of(row: ContributionRow, *, is_private: bool) -> dict[str, float]:
    told = {name: getattr(row, name) for name in OF_A_CLIENT}
    if not is_private and row.num_examples:
        told["num_examples"] = row.num_examples
    told["clipped"], told["rejected"] = row.outcome == "clipped", row.outcome == "rejected"
    return _finite(told)


def _finite(figures: Mapping[str, float | None]) -> dict[str, float]:
    return {n: float(v) for n, v in figures.items() if v is not None and math.isfinite(v)}

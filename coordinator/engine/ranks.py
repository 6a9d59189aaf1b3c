"""Which rank each client trains in a round, and the global state at the rank of the round."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from aggregation.adapter import AdapterState
    from aggregation.methods import Method
    from aggregation.methods.base import Resized
    from coordinator.engine.grid import GridClient
    from coordinator.storage.models import ContributionRow
    from motet.recipe import Recipe

log = logging.getLogger(__name__)


def ranks_of(recipe: Recipe, clients: Mapping[str, GridClient], round_index: int) -> dict[str, int]:
    """Client id -> rank: by id, class or default, no more than the schedule's cap."""
    cap = recipe.rank_cap(round_index)
    ranks = {c: recipe.lora_rank_of(c, client.capacity_class or None) for c, client in clients.items()}
    return {c: rank if cap is None else min(rank, cap) for c, rank in ranks.items()}


def within_pruned(
    recipe: Recipe, ranks: Mapping[str, int], counted: Iterable[ContributionRow]
) -> dict[str, int]:
    """``ranks`` cut to what clients have pruned themselves to (``method.self_pruning``); it only shrinks.

    Args:
      recipe: of the run.
      ranks: of the round, by client.
      counted: updates of the run that went into a closed round. What the store holds decides, so that a client's rank
        outlives both processes, and one whose pruned update was lost has not pruned.
    """
    if recipe.method.self_pruning is None:
        return dict(ranks)
    kept: dict[str, int] = {}
    for row in counted:
        kept[row.client_id] = min(row.lora_rank, kept.get(row.client_id, row.lora_rank))
    return {c: min(rank, kept.get(c, rank)) for c, rank in ranks.items()}


def rank_of(state: AdapterState) -> int:
    """The global rank that a state holds; 0 where it holds no factors, as flora's and a head's alone."""
    ranks = [pair.lora_rank for pair in state.lora.values()]
    ranks += [half.lora_rank for half in state.halves.values()]
    ranks += [core.shape[0] for core in state.cores.values()]
    return max(ranks, default=0)


def resized_for_round(
    recipe: Recipe, method: Method, state: AdapterState, ranks: Mapping[str, int], round_index: int
) -> Resized | None:
    """The state at the rank of the round, or None where it has it.

    A larger client than all before makes the global rank grow. Only the schedule cuts it: the largest client may be
    away for a round.

    Raises:
      ValueError: the method binds its clients to one rank.
    """
    held = rank_of(state)
    if not held:
        return None
    cap = recipe.rank_cap(round_index)
    wanted = max(held, *ranks.values())
    wanted = wanted if cap is None else min(wanted, cap)
    if wanted == held:
        return None
    made = method.resized(state, lora_rank=wanted, scale=recipe.scale_of(wanted), seed=recipe.seed)
    log.info(
        "round %s: the global rank goes from %s to %s, relative error %.3g",
        round_index, held, wanted, made.relative_error,
    )  # fmt: skip
    return made

"""HetLoRA's self-pruning at the client: when a round is over, its rank is cut where the tail has shrunk.

Cho et al. 2024, https://arxiv.org/abs/2401.06432. The decision reads what the round started from, which the
coordinator sent, and what training made, and nothing else. Under DP-SGD the latter is noised in every step, so that
the rank that is sent is post-processing and costs no budget. The client keeps no note of its rank: the coordinator
orders the rank that it last counted, which outlives both.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from aggregation.methods.factors import resized
from aggregation.methods.hetlora import self_pruned

if TYPE_CHECKING:
    from aggregation.adapter import AdapterState
    from motet.recipe import Recipe


def pruned(recipe: Recipe, trained: AdapterState, start: AdapterState) -> AdapterState:
    """What is sent of ``trained``: at the rank that the client keeps, in that rank's PEFT scale.

    A change of scale leaves the product. Without ``method.self_pruning``, ``trained`` itself.

    Args:
      recipe: of the run.
      trained: after the round.
      start: what its training started from, of the same layers and rank.
    """
    asked = recipe.method.self_pruning
    if asked is None:
        return trained
    lora = {
        layer: resized(pair, layer, pair.lora_rank, recipe.scale_of(pair.lora_rank))
        for layer, pair in self_pruned(trained.lora, start.lora, keep=asked.decay).items()
    }
    return dataclasses.replace(trained, lora=lora)

"""HetLoRA: zero-padded means weighed by the size of each client's change, and ranks that prune themselves.

Cho et al. 2024, https://arxiv.org/abs/2401.06432. Weights are ``S_k / sum_j S_j`` with
``S_k = ||s_k B_k A_k||_F`` over the whole model, found by Grams; the clients' own weights are not used. On the
client, the tail of a rank is penalised, and cut when its size has fallen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from aggregation.adapter import FactorPair
from aggregation.kernels import norm
from aggregation.methods.base import Reduction, RunningFactors, RunningMean, in_order
from aggregation.methods.factors import rounded
from aggregation.methods.means import FactorMeans
from aggregation.methods.padded import ZeroPad

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from aggregation.adapter import AdapterState, ClientUpdate


@dataclass(frozen=True, slots=True)
class HetLoRA(ZeroPad):
    """Zero padding, each client weighed by the Frobenius norm of its product."""

    name: str = "hetlora"

    def reduce(self, state: AdapterState, updates: Iterable[ClientUpdate]) -> Reduction:
        """Average; see ``Method.reduce``. Heads are averaged by the clients' own weights.

        A round in which every product is zero leaves the factors as they were.
        """
        factors, heads = RunningFactors(state.lora), RunningMean(state.dense)
        sums = FactorMeans(state.lora, mixed_ranks=True)
        first: Mapping[str, FactorPair] = {}
        for update in in_order(updates):
            factors.add(update.state.lora, update.weight)
            heads.add(update.state.dense, update.weight)
            sums.add(update.state.lora, sparsity_weight(update.state.lora))
            first = first or update.state.lora
        nothing = {layer: rounded(pair) for layer, pair in (state.lora or first).items()}
        return self._reduction(factors, self.means(sums) if sums.weight > 0 else nothing, heads)


def sparsity_weight(lora: Mapping[str, FactorPair]) -> float:
    """S_k: the Frobenius norm of all layers' products as one vector, from factors only."""
    return math.sqrt(sum(norm(pair) ** 2 for pair in lora.values()))


def tail_rank(lora_rank: int, keep: float) -> int:
    """Where the tail begins: ``floor(keep * r)``, at least 1.

    Raises:
      ValueError: ``keep`` is not in (0, 1].
    """
    if not 0 < keep <= 1:
        raise ValueError(f"{keep=} must be above 0 and at most 1")
    return max(1, math.floor(keep * lora_rank))


def tail_penalty(pair: FactorPair, keep: float = 0.99) -> torch.Tensor:
    """``||B[:, k:]||_F ||A[k:, :]||_F`` with ``k = floor(keep r)``: a client adds its multiple to the loss.

    Differentiable; a scalar of the factors' dtype. Its gradient reads no data, so that it is added after per-example
    clipping.
    """
    cut = tail_rank(pair.lora_rank, keep)
    penalty: torch.Tensor = torch.linalg.norm(pair.B[:, cut:]) * torch.linalg.norm(pair.A[cut:])
    return penalty


def self_pruned(
    after: Mapping[str, FactorPair], before: Mapping[str, FactorPair], *, keep: float = 0.99
) -> dict[str, FactorPair]:
    """A client's factors at ``floor(keep * r)`` if its tails have shrunk in training, else as they are.

    Args:
      after: trained factors, all of one rank.
      before: what training started from, of the same layers.
      keep: the share of the rank that is never cut.

    Returns:
      layer -> pair; one decision for the whole model.

    Raises:
      ValueError: layers differ, or ``keep`` is not in (0, 1].
    """
    if after.keys() != before.keys():
        raise ValueError(f"layers differ: {sorted(after.keys() ^ before.keys())[:4]}")
    was = sum(float(tail_penalty(pair, keep)) for pair in before.values())
    now = sum(float(tail_penalty(pair, keep)) for pair in after.values())
    if not now < was:
        return dict(after)
    return {
        layer: FactorPair(
            B=pair.B[:, : tail_rank(pair.lora_rank, keep)].contiguous(),
            A=pair.A[: tail_rank(pair.lora_rank, keep)].contiguous(),
            scale=pair.scale,
        )
        for layer, pair in after.items()
    }

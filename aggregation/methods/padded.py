"""Means of factors of mixed ranks: zero padding, and the mean over those who have a component.

Both are FedIT's mean with its bias, and both let a client train the first components of the global factors only.
Zero padding divides by all clients, so that components which few clients have fade: Cho et al. 2024 (HetLoRA),
https://arxiv.org/abs/2401.06432, Sec. 3. Dividing by the weight of those that have a component, as RBLA does
(Chen et al. 2024, https://arxiv.org/abs/2408.08699), keeps its size, and counts few clients for many.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from aggregation.methods.base import Reduction, RunningFactors, RunningMean, in_order
from aggregation.methods.fedit import FedIT
from aggregation.methods.means import FactorMeans

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from aggregation.adapter import AdapterState, ClientUpdate, FactorPair


@dataclass(frozen=True, slots=True)
class ZeroPad(FedIT):
    """Factors of smaller rank are filled with zeros to the global rank, then averaged."""

    name: str = "zero-pad"
    allows_mixed_ranks: bool = True

    def means(self, sums: FactorMeans) -> Mapping[str, FactorPair]:
        """Which mean is taken."""
        return sums.zero_padded()

    def reduce(self, state: AdapterState, updates: Iterable[ClientUpdate]) -> Reduction:
        """Average; see ``Method.reduce``. The global rank is the state's, or the largest that was sent."""
        factors, heads = RunningFactors(state.lora), RunningMean(state.dense)
        sums = FactorMeans(state.lora, mixed_ranks=True)
        for update in in_order(updates):
            factors.add(update.state.lora, update.weight)
            heads.add(update.state.dense, update.weight)
            sums.add(update.state.lora, update.weight)
        return self._reduction(factors, self.means(sums), heads)


@dataclass(frozen=True, slots=True)
class RankIndex(ZeroPad):
    """Component i is the mean over the clients that have it; one that none of them has stays as it was."""

    name: str = "rank-index"

    def means(self, sums: FactorMeans) -> Mapping[str, FactorPair]:
        """Which mean is taken."""
        return sums.by_index()

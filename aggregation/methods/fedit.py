"""FedIT: average A and B apart. The baseline that everyone compares with, and biased.

Zhang et al. 2023, https://arxiv.org/abs/2305.05644. The mean of products is not the product of means:
``sum_k p_k B_k A_k - B_mean A_mean = sum_k p_k (B_k - B_mean)(A_k - A_mean)``; zero iff all A or all B agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from aggregation.adapter import AdapterState, ClientUpdate, FactorPair
from aggregation.kernels import relative_error
from aggregation.methods.base import Reduction, RunningFactors, RunningMean, in_order
from aggregation.methods.factors import FactorMethod, rounded
from aggregation.methods.means import FactorMeans

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


def mean_factors(pairs: Sequence[FactorPair], shares: Sequence[float]) -> FactorPair:
    """``B_mean = sum p_k B_k``, ``A_mean = sum p_k A_k`` (float64 sums), with the clients' common scale.

    Raises:
      ValueError: ranks differ, or scales by more than the rounding of a half-precision sender (1e-5).
    """
    means = FactorMeans({}, mixed_ranks=False)
    for pair, share in zip(pairs, shares, strict=True):
        means.add({"": pair}, share)
    return rounded(means.zero_padded()[""])


@dataclass(frozen=True, slots=True)
class FedIT(FactorMethod):
    """Trains and sends A and B; averages each; the base stays."""

    name: str = "fedit"

    def combine(self, mean: FactorPair, exact: FactorPair) -> FactorPair:
        """One layer's next factors, from the means of the factors and the exact sum; both float64."""
        return rounded(mean)

    def reduce(self, state: AdapterState, updates: Iterable[ClientUpdate]) -> Reduction:
        """Average; see ``Method.reduce``. Factors are let go as they are summed; see ``RunningFactors``."""
        factors, heads = RunningFactors(state.lora), RunningMean(state.dense)
        means = FactorMeans({}, mixed_ranks=False)
        for update in in_order(updates):
            factors.add(update.state.lora, update.weight)
            heads.add(update.state.dense, update.weight)
            means.add(update.state.lora, update.weight)
        return self._reduction(factors, means.zero_padded(), heads)

    def _reduction(
        self, factors: RunningFactors, means: Mapping[str, FactorPair], heads: RunningMean
    ) -> Reduction:
        exact = factors.exact()
        lora = {layer: self.combine(means[layer], exact[layer]) for layer in exact}
        error = relative_error([lora[layer] for layer in exact], list(exact.values()))
        return Reduction(
            state=AdapterState(lora=lora, dense=heads.mean()),
            relative_error=error,
            num_clients=len(factors.shares),
        )

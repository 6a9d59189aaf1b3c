"""FedEx-LoRA: FedIT's means, and what they miss goes into the base. Exact.

Singhal et al. 2024, https://arxiv.org/abs/2410.09432. With the means B, A of the factors,
``sum_k p_k s B_k A_k = s B A + residual``, and the residual is ``s sum_{k>0} p_k (B_k - B)(A_k - A_0)``: because
``sum_k p_k (B_k - B) = 0``, any one client's A may be taken off, and its term vanishes. So it has rank
``(K - 1) r`` at most (the paper counts K r) and is written down without a decomposition. It is added to (m, n)
weights as it stands; never transposed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from aggregation.adapter import AdapterState, ClientUpdate, FactorPair
from aggregation.kernels import difference, recompress, relative_error, stack
from aggregation.methods.base import Reduction, RunningFactors, RunningMean, in_order
from aggregation.methods.factors import FactorMethod, accumulate, rounded
from aggregation.methods.means import FactorMeans

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from aggregation.methods.base import Bases


@dataclass(frozen=True, slots=True)
class FedEx(FactorMethod):
    """Averages A and B; folds the exact residual into the base."""

    name: str = "fedex"
    changes_base: bool = True

    def reduce(self, state: AdapterState, updates: Iterable[ClientUpdate]) -> Reduction:
        """Average and fold; see ``Method.reduce``.

        The reported error is that of the new factors with what this round added to the base: rounding only.
        """
        factors, heads = RunningFactors(state.lora), RunningMean(state.dense)
        means = FactorMeans({}, mixed_ranks=False)
        for update in in_order(updates):
            factors.add(update.state.lora, update.weight)
            heads.add(update.state.dense, update.weight)
            means.add(update.state.lora, update.weight)
        exact, mean = factors.exact(), means.zero_padded()
        lora, base, achieved = {}, dict(state.base_delta), []
        for layer, target in exact.items():
            lora[layer] = rounded(mean[layer])
            kept = factors.kept(layer)
            missed = (
                recompress(difference(target, mean[layer])) if kept is None else residual(kept, mean[layer])
            )
            achieved.append(
                lora[layer] if missed is None else stack([lora[layer], rounded(missed)], [1.0, 1.0])
            )
            if missed is not None:
                base[layer] = accumulate(base.get(layer), missed)
        return Reduction(
            state=AdapterState(lora=lora, base_delta=base, dense=heads.mean()),
            relative_error=relative_error(achieved, list(exact.values())),
            num_clients=len(factors.shares),
        )

    def product(
        self, state: AdapterState, bases: Bases | None = None, scale: float = 1.0
    ) -> Mapping[str, FactorPair]:
        """The factors and what was folded into the base, as one pair."""
        return with_base(state)


def residual(kept: Sequence[tuple[FactorPair, float]], mean: FactorPair) -> FactorPair | None:
    """``sum_{k>0} p_k s (B_k - B)(A_k - A_0)``, rank (K - 1) r, float64; None for a single client."""
    first = kept[0][0].A.double()
    centred = [
        FactorPair(B=pair.B.double() - mean.B.double(), A=pair.A.double() - first, scale=mean.scale)
        for pair, _ in kept[1:]
    ]
    if not centred:
        return None
    return stack(centred, [share for _, share in kept[1:]], dtype=torch.float64)


def with_base(state: AdapterState) -> dict[str, FactorPair]:
    """Layer -> ``s B A + base_delta`` as one pair, scale 1."""
    made = {}
    for layer in sorted(state.lora.keys() | state.base_delta.keys()):
        parts = [m[layer] for m in (state.lora, state.base_delta) if layer in m]
        made[layer] = parts[0] if len(parts) == 1 else stack(parts, [1.0, 1.0])
    return made

"""FedIT: average A and B apart. The baseline that everyone compares with, and biased.

Zhang et al. 2023, https://arxiv.org/abs/2305.05644. The mean of products is not the product of means:
``sum_k p_k B_k A_k - B_mean A_mean = sum_k p_k (B_k - B_mean)(A_k - A_mean)``; zero iff all A or all B agree.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from aggregation.adapter import AdapterState, ClientUpdate, FactorPair
from aggregation.initial import fresh_factors
from aggregation.kernels import relative_error
from aggregation.methods.base import Bases, Reduction, RunningFactors, RunningMean, in_order

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


def mean_factors(pairs: list[FactorPair], shares: list[float]) -> FactorPair:
    """``B_mean = sum p_k B_k``, ``A_mean = sum p_k A_k`` (float64 sums), with the clients' common scale.

    Raises:
      ValueError: ranks differ, or scales by more than the rounding of a half-precision sender (1e-5).
    """
    first = pairs[0]
    if any(
        p.lora_rank != first.lora_rank or not math.isclose(p.scale, first.scale, rel_tol=1e-5) for p in pairs
    ):
        found = sorted({(p.lora_rank, p.scale) for p in pairs})
        raise ValueError(f"factors of different (rank, scale) can not be averaged: {found}; use flora")
    b = torch.zeros_like(pairs[0].B, dtype=torch.float64)
    a = torch.zeros_like(pairs[0].A, dtype=torch.float64)
    for pair, share in zip(pairs, shares, strict=True):
        b += share * pair.B.double()
        a += share * pair.A.double()
    return FactorPair(B=b.float(), A=a.float(), scale=pairs[0].scale)


@dataclass(frozen=True, slots=True)
class FedIT:
    """Trains and sends A and B; averages each; the base stays."""

    name: str = "fedit"
    allows_mixed_ranks: bool = False
    trains: Literal["lora", "core"] = "lora"
    changes_base: bool = False

    def initial_state(
        self,
        layer_shapes: Mapping[str, tuple[int, int]],
        *,
        lora_rank: int,
        scale: float,
        dense: Mapping[str, torch.Tensor],
        seed: int,
    ) -> AdapterState:
        """Fresh factors, the same for all clients."""
        return AdapterState(lora=fresh_factors(layer_shapes, lora_rank, scale, seed), dense=dict(dense))

    def starting_point(self, state: AdapterState) -> AdapterState:
        """The global factors and heads."""
        return state

    def trained_part(self, state: AdapterState) -> AdapterState:
        """Factors and heads."""
        return AdapterState(lora=state.lora, dense=state.dense)

    def combine(self, pairs: list[FactorPair], shares: list[float]) -> FactorPair:
        """One layer's factors from all clients'."""
        return mean_factors(pairs, shares)

    def reduce(self, state: AdapterState, updates: Iterable[ClientUpdate]) -> Reduction:
        """Average; see ``Method.reduce``."""
        factors, heads = RunningFactors(state.lora), RunningMean(state.dense)
        for update in in_order(updates):
            factors.add(update.state.lora, update.weight)
            heads.add(update.state.dense, update.weight)
        lora = {layer: self.combine(pairs, factors.shares) for layer, pairs in factors.pairs.items()}
        exact = factors.exact()
        error = relative_error([lora[layer] for layer in exact], list(exact.values()))
        return Reduction(
            state=AdapterState(lora=lora, dense=heads.mean()),
            relative_error=error,
            num_clients=len(factors.shares),
        )

    def product(
        self, state: AdapterState, bases: Bases | None = None, scale: float = 1.0
    ) -> Mapping[str, FactorPair]:
        """The factors themselves."""
        return state.lora

"""Fed-SB: train only the square core R between two frozen bases; its mean is exact and tiny.

Singhal et al. 2025, https://arxiv.org/abs/2502.15436; Ponkshe et al. 2024, https://arxiv.org/abs/2411.19557.
``W = W0 + s B R A`` with B (m, r), A (r, n) frozen and shared, R (r, r) trained:
``sum_k p_k B R_k A = B (sum_k p_k R_k) A``. Up and down r^2 floats a layer. With orthonormal bases
``||B X A||_F = ||X||_F``, so noise on R is not amplified.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from aggregation.adapter import AdapterState, ClientUpdate, FactorPair
from aggregation.methods.base import Bases, Reduction, Resized, RunningMean, in_order

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from aggregation.methods.base import TrainedFactors


@dataclass(frozen=True, slots=True)
class FedSB:
    """Trains and sends R; averages it; B, A and the base stay."""

    name: str = "fed-sb"
    allows_mixed_ranks: bool = False
    trains: Literal["lora", "core"] = "core"
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
        """R = 0: the product starts at zero, whatever the bases are.

        Raises:
          ValueError: ``lora_rank`` exceeds a layer's smaller side.
        """
        for layer, shape in layer_shapes.items():
            if lora_rank > min(shape):
                raise ValueError(f"{lora_rank=} exceeds the smaller side of {layer}, {min(shape)}")
        cores = {layer: torch.zeros(lora_rank, lora_rank) for layer in layer_shapes}
        return AdapterState(cores=cores, dense=dict(dense))

    def starting_point(
        self, state: AdapterState, *, lora_rank: int | None = None, scale: float | None = None
    ) -> AdapterState:
        """The cores and heads."""
        return state

    def local_start(
        self,
        received: AdapterState,
        *,
        layer_shapes: Mapping[str, tuple[int, int]],
        lora_rank: int,
        scale: float,
        seed: int,
        fresh_seed: int,
        personal: AdapterState | None = None,
    ) -> AdapterState:
        """What was received; the frozen bases are made elsewhere, from the base model or the seed."""
        return received

    def resized(self, state: AdapterState, *, lora_rank: int, scale: float, seed: int) -> Resized:
        """Refused: the frozen bases belong to one rank.

        Raises:
          ValueError: always.
        """
        raise ValueError("fed-sb binds its cores to bases of one rank; use ffa")

    def trained_factors(self, round_index: int) -> TrainedFactors:
        """The core."""
        return "core"

    def trained_part(self, state: AdapterState, round_index: int = 0) -> AdapterState:
        """The cores and heads."""
        return AdapterState(cores=state.cores, dense=state.dense)

    def personal_part(self, state: AdapterState) -> AdapterState:
        """Nothing."""
        return AdapterState()

    def reduce(self, state: AdapterState, updates: Iterable[ClientUpdate]) -> Reduction:
        """Average; see ``Method.reduce``. The reported error is the rounding of the mean to float32."""
        cores, heads = RunningMean(state.cores), RunningMean(state.dense)
        for update in in_order(updates):
            cores.add(update.state.cores, update.weight)
            heads.add(update.state.dense, update.weight)
        mean, wide = cores.mean(), cores.mean_double()
        miss = math.sqrt(sum(float(((mean[k].double() - wide[k]) ** 2).sum()) for k in mean))
        size = math.sqrt(sum(float((wide[k] ** 2).sum()) for k in mean))
        return Reduction(
            state=AdapterState(cores=mean, dense=heads.mean()),
            relative_error=miss / size if size > 0 else 0.0,
            num_clients=cores.count,
        )

    def product(
        self, state: AdapterState, bases: Bases | None = None, scale: float = 1.0
    ) -> Mapping[str, FactorPair]:
        """``(B R, A)`` with ``scale``.

        Raises:
          ValueError: no bases.
        """
        if bases is None:
            raise ValueError("fed-sb needs its frozen bases to form a product")
        return {
            layer: FactorPair(B=bases[layer][0].float() @ core, A=bases[layer][1].float(), scale=scale)
            for layer, core in state.cores.items()
        }

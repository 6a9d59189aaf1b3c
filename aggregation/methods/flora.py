"""FLoRA: stack the factors of all clients; the sum of products is exact for any mix of ranks.

Wang et al. 2024, https://arxiv.org/abs/2409.05976. Each round the stack is folded into the base that
clients start from, and they begin with fresh factors. Scales are folded into the weights, so alpha / r may
differ between clients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from aggregation.adapter import AdapterState, ClientUpdate, FactorPair
from aggregation.initial import fresh_factors
from aggregation.kernels import difference, relative_error
from aggregation.methods.base import Bases, Reduction, Resized, RunningFactors, RunningMean, in_order
from aggregation.methods.factors import FactorMethod, accumulate

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import torch


@dataclass(frozen=True, slots=True)
class Flora(FactorMethod):
    """Trains and sends A and B of any rank; the accumulated change of the base comes back.

    ``base_delta`` is the sum of all rounds. Once the stack would be wider than the layer, it is stored at its
    numerical rank, at most min(m, n), and stops growing.
    """

    name: str = "flora"
    allows_mixed_ranks: bool = True
    changes_base: bool = True

    def initial_state(
        self,
        layer_shapes: Mapping[str, tuple[int, int]],
        *,
        lora_rank: int,
        scale: float,
        dense: Mapping[str, torch.Tensor],
        seed: int,
    ) -> AdapterState:
        """No change of the base yet; clients make their own fresh factors."""
        return AdapterState(dense=dict(dense))

    def starting_point(
        self, state: AdapterState, *, lora_rank: int | None = None, scale: float | None = None
    ) -> AdapterState:
        """The accumulated change of the base, and the heads."""
        return AdapterState(base_delta=state.base_delta, dense=state.dense)

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
        """What was received, and fresh factors of this client's own."""
        fresh = fresh_factors(layer_shapes, lora_rank, scale, fresh_seed)
        return AdapterState(lora=fresh, base_delta=received.base_delta, dense=received.dense)

    def resized(self, state: AdapterState, *, lora_rank: int, scale: float, seed: int) -> Resized:
        """As it is: clients begin each round with fresh factors of their own rank."""
        return Resized(state=state, relative_error=0.0)

    def kept(self, exact: FactorPair) -> FactorPair:
        """What of a round's exact sum is added to the base: all of it."""
        return exact

    def reduce(self, state: AdapterState, updates: Iterable[ClientUpdate]) -> Reduction:
        """Stack, add to what was accumulated; see ``Method.reduce``.

        The reported error is that of what this round added to the accumulated change: rounding only.
        """
        factors, heads = RunningFactors(state.base_delta), RunningMean(state.dense)
        for update in in_order(updates):
            factors.add(update.state.lora, update.weight)
            heads.add(update.state.dense, update.weight)
        exact = factors.exact()
        moved = {
            layer: accumulate(state.base_delta.get(layer), self.kept(pair)) for layer, pair in exact.items()
        }
        achieved = [
            difference(moved[layer], state.base_delta[layer]) if layer in state.base_delta else moved[layer]
            for layer in exact
        ]
        return Reduction(
            state=AdapterState(base_delta=moved, dense=heads.mean()),
            relative_error=relative_error(achieved, list(exact.values())),
            num_clients=len(factors.shares),
        )

    def product(
        self, state: AdapterState, bases: Bases | None = None, scale: float = 1.0
    ) -> Mapping[str, FactorPair]:
        """The accumulated change."""
        return state.base_delta

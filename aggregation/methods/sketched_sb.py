"""Fed-SB whose frozen bases are the leading directions of the clients' own mean gradient, found in two sketches.

After LoRA-SB, Ponkshe et al. 2024, https://arxiv.org/abs/2411.19557: B and A are the leading singular vectors of the
first full gradient G = sum_k p_k G_k (m, n) of a layer. G itself is never formed, and no client sends its own. Two
rounds find the range as Halko et al. 2011, https://arxiv.org/abs/0909.4061, Alg. 4.1 and 5.1 do, at width l >= r::

    round 0   each client sends Y_k = s G_k Omega   with A = Omega^T from the seed, B = 0      Q = orth(sum_k p_k Y_k)
    round 1   each client sends Z_k = s Q^T G_k     with B = Q, A = 0           U S V^T = SVD(sum_k p_k Z_k)
    then      Fed-SB with B = Q U_r and A = V_r^T, both frozen, and R = 0

Y_k is the gradient of a LoRA's B and Z_k that of its A, at the base model: both products are zero. So DP-SGD of a LoRA
covers what leaves, in every step, and everything after the sum is post-processing. Where rank G <= l the bases span
G's singular subspace exactly. As with public examples the gradient is taken as it is, not its signs, and R starts at
zero. The state before round 0 holds heads alone, before round 1 Q as ``halves``, then ``cores`` and, as the pair of
the same layer in ``lora``, their bases.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch

from aggregation.adapter import AdapterState, FactorPair, HalfPair
from aggregation.initial import frozen_rows, svd_bases
from aggregation.methods.base import Reduction, RunningMean, in_order
from aggregation.methods.fed_sb import FedSB
from aggregation.methods.halves import halves_of
from aggregation.sketch import range_basis
from aggregation.sketch_rounds import SKETCH_ROUNDS, sketch_columns

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from aggregation.adapter import ClientUpdate
    from aggregation.methods.base import Bases, Resized, TrainedFactors
    from aggregation.methods.halves import Side

_CORES = FedSB()


@dataclass(frozen=True, slots=True, kw_only=True)
class SketchedFedSB:
    """Two rounds of gradient sketches, and then Fed-SB.

    Attributes:
      core_rank: r, of all clients; the sketches are wider.
    """

    core_rank: int
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
        """The heads: everybody makes Omega from the seed.

        Raises:
          ValueError: ``lora_rank`` exceeds a layer's smaller side.
        """
        _CORES.initial_state(layer_shapes, lora_rank=lora_rank, scale=scale, dense=dense, seed=seed)
        return AdapterState(dense=dict(dense))

    def starting_point(
        self, state: AdapterState, *, lora_rank: int | None = None, scale: float | None = None
    ) -> AdapterState:
        """The state: a client that was away needs the bases, too."""
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
        """B = 0 beside Omega^T, then A = 0 beside Q, then what was received."""
        if received.cores or not layer_shapes:
            return received
        if received.halves:
            width = {
                layer: (half.lora_rank, layer_shapes[layer][1]) for layer, half in received.halves.items()
            }
            lora = {
                layer: FactorPair(B=half.value, A=torch.zeros(width[layer]), scale=half.scale)
                for layer, half in received.halves.items()
            }
            return AdapterState(lora=lora, dense=received.dense)
        columns = sketch_columns(layer_shapes, lora_rank)
        lora = {
            layer: FactorPair(B=torch.zeros(m, columns), A=frozen_rows(layer, columns, n, seed), scale=scale)
            for layer, (m, n) in layer_shapes.items()
        }
        return AdapterState(lora=lora, dense=received.dense)

    def resized(self, state: AdapterState, *, lora_rank: int, scale: float, seed: int) -> Resized:
        """Refused, as in ``FedSB``.

        Raises:
          ValueError: always.
        """
        return _CORES.resized(state, lora_rank=lora_rank, scale=scale, seed=seed)

    def trained_factors(self, round_index: int) -> TrainedFactors:
        """B, A, and then the core."""
        return "core" if round_index >= SKETCH_ROUNDS else _side(round_index)

    def trained_part(self, state: AdapterState, round_index: int = 0) -> AdapterState:
        """The sketch alone, then cores and heads. In the sketch rounds the heads rest."""
        if round_index >= SKETCH_ROUNDS:
            return _CORES.trained_part(state, round_index)
        return AdapterState(halves=halves_of(state.lora, _side(round_index)))

    def personal_part(self, state: AdapterState) -> AdapterState:
        """Nothing."""
        return AdapterState()

    def reduce(self, state: AdapterState, updates: Iterable[ClientUpdate]) -> Reduction:
        """The mean sketch and what it tells of the bases, or the mean core; see ``Method.reduce``.

        The error is that of the mean core; a mean sketch changes no model, and counts as zero.

        Raises:
          ValueError: also where clients sent the other factor than the state's round needs.
        """
        if state.cores:
            made = _CORES.reduce(state, updates)
            return replace(made, state=replace(made.state, lora=state.lora))
        side: Side = "A" if state.halves else "B"
        means, scale = RunningMean({}), 1.0
        for update in in_order(updates):
            _check_sketch(update, side, state)
            scale = next((half.scale for half in update.state.halves.values()), scale)
            means.add({k: half.value for k, half in update.state.halves.items()}, update.weight)
        found = means.mean_double()
        if side == "B":
            halves = {
                k: HalfPair(side="B", value=range_basis(y).float(), scale=scale) for k, y in found.items()
            }
            return Reduction(
                state=AdapterState(halves=halves, dense=state.dense),
                relative_error=0.0,
                num_clients=means.count,
            )
        bases = {k: gradient_bases(state.halves[k].value, z, self.core_rank) for k, z in found.items()}
        ready = AdapterState(
            lora={k: FactorPair(B=b, A=a, scale=scale) for k, (b, a) in bases.items()},
            cores={k: torch.zeros(self.core_rank, self.core_rank) for k in bases},
            dense=state.dense,
        )
        return Reduction(state=ready, relative_error=0.0, num_clients=means.count)

    def product(
        self, state: AdapterState, bases: Bases | None = None, scale: float = 1.0
    ) -> Mapping[str, FactorPair]:
        """``(B R, A)`` with ``scale``, on the bases in the state; empty before there are cores."""
        held = {layer: (pair.B, pair.A) for layer, pair in state.lora.items()}
        return _CORES.product(state, bases=held, scale=scale)


def sketched_rounds(state: AdapterState) -> int:
    """How many of the sketch rounds lie behind a state: 0, 1, or 2 where its bases are found."""
    return SKETCH_ROUNDS if state.cores else int(bool(state.halves))


def gradient_bases(
    range_of_gradient: torch.Tensor, projected: torch.Tensor, lora_rank: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The leading singular vectors of ``Q Z``, which is Q Q^T G: what two sketches tell of G.

    Args:
      range_of_gradient: Q (m, l), orthonormal columns.
      projected: Z = Q^T G (l, n).
      lora_rank: r, at most l and n.

    Returns:
      B (m, r) with orthonormal columns and A (r, n) with orthonormal rows, float32. Directions that Z lacks are
      filled up by others, orthogonal to those.

    Raises:
      ValueError: ``lora_rank`` exceeds l or n.
    """
    turned, rows = svd_bases(projected, lora_rank)
    return (range_of_gradient.double() @ turned.double()).float().contiguous(), rows


def _side(round_index: int) -> Side:
    return "B" if round_index == 0 else "A"


def _check_sketch(update: ClientUpdate, side: Side, state: AdapterState) -> None:
    odd = [layer for layer, half in update.state.halves.items() if half.side != side]
    strange = state.halves.keys() ^ update.state.halves.keys() if state.halves else set()
    if odd or strange or not update.state.halves or update.state.dense:
        raise ValueError(
            f"client {update.client_id!r} sent no sketch of {side}, or of other layers than the round's: "
            f"{sorted(odd or strange)[:4]}"
        )

"""What methods on LoRA's factors have in common: fresh factors, a client's own rank, factors and heads sent."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from aggregation.adapter import AdapterState, FactorPair
from aggregation.initial import fresh_factors, spare_rows
from aggregation.kernels import norm, recompress, split, stack
from aggregation.methods.base import Resized

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aggregation.methods.base import Bases, TrainedFactors


@dataclass(frozen=True, slots=True)
class FactorMethod:
    """Both factors are trained and sent. Methods derive from this and bring ``reduce``."""

    name: str = ""
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

    def starting_point(
        self, state: AdapterState, *, lora_rank: int | None = None, scale: float | None = None
    ) -> AdapterState:
        """The global factors, their first ``lora_rank`` components where given, and the heads."""
        lora = {layer: resized(pair, layer, lora_rank, scale) for layer, pair in state.lora.items()}
        return AdapterState(lora=lora, base_delta=state.base_delta, dense=state.dense)

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
        """What was received."""
        return received

    def resized(self, state: AdapterState, *, lora_rank: int, scale: float, seed: int) -> Resized:
        """The best factors of ``lora_rank``; where the base may change, it takes what they can not hold."""
        lora, base, cut, whole = {}, dict(state.base_delta), 0.0, 0.0
        for layer, pair in state.lora.items():
            whole += norm(pair) ** 2
            if lora_rank >= pair.lora_rank:
                lora[layer] = resized(pair, layer, lora_rank, scale)
                continue
            spare = spare_rows(layer, lora_rank, pair.shape[1])
            lora[layer], rest = split(pair, lora_rank, scale=scale, spare=spare)
            if rest is not None and self.changes_base:
                base[layer] = accumulate(base.get(layer), rest)
            elif rest is not None:
                cut += norm(rest) ** 2
        return Resized(
            state=AdapterState(lora=lora, base_delta=base, dense=state.dense),
            relative_error=math.sqrt(cut / whole) if whole > 0 else 0.0,
        )

    def trained_factors(self, round_index: int) -> TrainedFactors:
        """Both."""
        return "AB"

    def trained_part(self, state: AdapterState, round_index: int = 0) -> AdapterState:
        """Factors and heads."""
        return AdapterState(lora=state.lora, dense=state.dense)

    def personal_part(self, state: AdapterState) -> AdapterState:
        """Nothing."""
        return AdapterState()

    def product(
        self,
        state: AdapterState,
        bases: Bases | None = None,
        scale: float = 1.0,
    ) -> Mapping[str, FactorPair]:
        """The factors themselves."""
        return state.lora


def resized(pair: FactorPair, layer: str, lora_rank: int | None, scale: float | None) -> FactorPair:
    """The first ``lora_rank`` components of a global pair, as a client of another PEFT scale holds them.

    Missing components get B = 0 and spare rows in A, so that they can learn. A change of scale from s to s'
    multiplies both factors by ``sqrt(s / s')``, which leaves the product.

    Raises:
      ValueError: the signs of the scales differ, or ``lora_rank`` is below 1.
    """
    rank, to_scale = lora_rank or pair.lora_rank, pair.scale if scale is None else scale
    if rank < 1:
        raise ValueError(f"{lora_rank=} must be at least 1")
    if rank == pair.lora_rank and to_scale == pair.scale:
        return pair
    if pair.scale * to_scale <= 0:
        raise ValueError(f"{layer}: scales {pair.scale} and {to_scale} can not be folded")
    fold = math.sqrt(pair.scale / to_scale)
    b, a = pair.B[:, :rank] * fold, pair.A[:rank] * fold
    missing = rank - pair.lora_rank
    if missing > 0:
        b = torch.cat([b, torch.zeros(pair.shape[0], missing, dtype=b.dtype)], dim=1)
        a = torch.cat([a, spare_rows(layer, rank, pair.shape[1])[pair.lora_rank :].to(a.dtype)], dim=0)
    return FactorPair(B=b.contiguous(), A=a.contiguous(), scale=to_scale)


def rounded(pair: FactorPair) -> FactorPair:
    """float32 factors."""
    return FactorPair(B=pair.B.float(), A=pair.A.float(), scale=pair.scale)


def accumulate(before: FactorPair | None, added: FactorPair) -> FactorPair:
    """``before + added`` as a stack, or at its numerical rank once the stack is wider than the layer."""
    parts = [added] if before is None else [before, added]
    total = stack(parts, [1.0] * len(parts), dtype=torch.float64)
    if total.lora_rank > min(total.shape):
        return recompress(total)
    return FactorPair(B=total.B.float(), A=total.A.float())

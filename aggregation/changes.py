"""What a client changed: numbers that it moved, and the same as products, whatever the method sends.

``moves`` are differences of the numbers as they are sent; signs and sizes of those can be compressed.
``product_change`` is the change of the layers' weights, the space in which clients are compared: it does not depend on
the gauge in which a client holds its factors.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import torch

from aggregation.adapter import AdapterState, FactorPair, HalfPair
from aggregation.kernels import difference, norm
from aggregation.methods.base import same_shapes
from aggregation.serialize import flatten

if TYPE_CHECKING:
    from collections.abc import Mapping


def numbers(state: AdapterState) -> dict[str, torch.Tensor]:
    """Key -> tensor as in ``aggregation.serialize``, float32, sorted; without scales, which the recipe gives."""
    return {key: value for key, value in flatten(state).items() if not key.endswith("/scale")}


def moves(now: AdapterState, start: AdapterState) -> dict[str, torch.Tensor]:
    """Key -> what was added to each sent number, float32.

    Args:
      now: what a client would send.
      start: the same part of what it started from.

    Raises:
      ValueError: names or shapes differ.
    """
    after, before = numbers(now), numbers(start)
    same_shapes(after, before, "what training started from")
    return {key: value - before[key] for key, value in after.items()}


def with_moves(start: AdapterState, moved: Mapping[str, torch.Tensor]) -> AdapterState:
    """``start`` with these moves added, float32: what a client that started there holds.

    Raises:
      ValueError: names or shapes differ.
    """
    before = numbers(start)
    same_shapes(moved, before, "what training started from")
    after = {key: value + moved[key].float() for key, value in before.items()}
    return AdapterState(
        lora={
            layer: FactorPair(B=after[f"lora/{layer}/B"], A=after[f"lora/{layer}/A"], scale=pair.scale)
            for layer, pair in start.lora.items()
        },
        halves={
            layer: HalfPair(side=half.side, value=after[f"half/{layer}/{half.side}"], scale=half.scale)
            for layer, half in start.halves.items()
        },
        cores={layer: after[f"core/{layer}"] for layer in start.cores},
        dense={name: after[f"dense/{name}"] for name in start.dense},
    )


def product_change(now: AdapterState, start: AdapterState) -> AdapterState:
    """The change of each layer's product, and of cores, single factors and heads; float64, scales folded in.

    A change of rank r is a pair of rank 2 r. Layers of ``lora`` that ``start`` does not hold count from zero.

    Raises:
      ValueError: shapes differ.
    """
    return AdapterState(
        lora={
            layer: _pair_change(pair, start.lora[layer]) if layer in start.lora else pair
            for layer, pair in now.lora.items()
        },
        halves={
            layer: HalfPair(side=half.side, value=_scaled(half) - _scaled(start.halves[layer]))
            for layer, half in now.halves.items()
        },
        cores={layer: core.double() - start.cores[layer].double() for layer, core in now.cores.items()},
        dense={name: value.double() - start.dense[name].double() for name, value in now.dense.items()},
    )


def change_norm(now: AdapterState, start: AdapterState) -> float:
    """Frobenius norm of ``product_change``, all as one vector; one layer's change is held at a time."""
    squares = [
        norm(_pair_change(pair, start.lora[layer]) if layer in start.lora else pair) ** 2
        for layer, pair in now.lora.items()
    ]
    rest = product_change(dataclasses.replace(now, lora={}), start)
    whole = [half.value for half in rest.halves.values()] + [*rest.cores.values(), *rest.dense.values()]
    squares += [float(value.square().sum()) for value in whole]
    return math.sqrt(math.fsum(squares))


def _pair_change(now: FactorPair, start: FactorPair) -> FactorPair:
    """``s (B A - B0 A0) = s (B - B0) A + s B0 (A - A0)``: small where the change is, so that its Gram keeps digits."""
    if now.lora_rank != start.lora_rank or now.scale != start.scale:
        return difference(now, start)
    b, a = start.B.double(), now.A.double()
    return FactorPair(
        B=now.scale * torch.cat([now.B.double() - b, b], dim=1), A=torch.cat([a, a - start.A.double()], dim=0)
    )


def _scaled(half: HalfPair) -> torch.Tensor:
    return half.scale * half.value.double()


def factor_move(now: AdapterState, start: AdapterState) -> float:
    """Frobenius norm of what was added to B and A of all layers, as one vector; 0 where no pairs are sent."""
    parts = [
        (after.double() - before.double()).square().sum()
        for layer, pair in now.lora.items()
        if layer in start.lora
        for after, before in ((pair.B, start.lora[layer].B), (pair.A, start.lora[layer].A))
    ]
    return math.sqrt(float(sum(parts)))

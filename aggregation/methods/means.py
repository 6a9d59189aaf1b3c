"""Weighted means of factors of several ranks, one client resident at a time, summed in float64."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import torch

from aggregation.adapter import FactorPair, HalfPair

if TYPE_CHECKING:
    from collections.abc import Mapping


def same_scale(left: float, right: float) -> bool:
    """Equal up to the rounding of a half-precision sender (1e-5)."""
    return math.isclose(left, right, rel_tol=1e-5)


class PaddedSum:
    """``sum_k w_k pad(X_k)``: factors of smaller rank are filled with zeros behind their last component."""

    def __init__(self, side: Literal["A", "B"], lora_rank: int = 0) -> None:
        """``side`` tells the rank's axis; ``lora_rank`` is the least rank of the result."""
        self._axis = 0 if side == "A" else 1
        self._total: torch.Tensor | None = None
        self._index_weights = torch.zeros(lora_rank, dtype=torch.float64)
        self._weight = 0.0

    def add(self, value: torch.Tensor, weight: float) -> None:
        """Add ``weight * pad(value)``; ``weight`` may be zero.

        Raises:
          ValueError: the side that is not the rank differs from that of the first.
        """
        term = value.double() * weight
        rank = max(len(self._index_weights), value.shape[self._axis])
        own = torch.zeros(value.shape[self._axis], dtype=torch.float64) + weight
        term, own = self._padded(term, rank), _grown(own, rank, 0)
        if self._total is not None:
            before = self._padded(self._total, rank)
            if before.shape != term.shape:
                raise ValueError(
                    f"shapes differ from the first client's: {tuple(value.shape)} beside {tuple(before.shape)}"
                )
            term = before + term
        self._total = term
        self._index_weights = _grown(self._index_weights, rank, 0) + own
        self._weight += weight

    def _padded(self, value: torch.Tensor, rank: int) -> torch.Tensor:
        return _grown(value, rank, self._axis)

    @property
    def weight(self) -> float:
        """The sum of the weights."""
        return self._weight

    def mean(self) -> torch.Tensor:
        """``sum_k w_k pad(X_k) / sum_k w_k``, float64.

        Raises:
          ValueError: nothing was added, or all weights are zero.
        """
        if self._total is None or self._weight <= 0:
            raise ValueError("a mean needs a client of positive weight")
        return self._total / self._weight

    def mean_by_index(self, otherwise: torch.Tensor | None) -> torch.Tensor:
        """Component i: the mean over the clients that have it; ``otherwise`` (zero) where none has. float64."""
        if self._total is None:
            raise ValueError("a mean needs a client of positive weight")
        shape = (-1, 1) if self._axis == 0 else (1, -1)
        held = (self._index_weights > 0).reshape(shape)
        weights = torch.where(self._index_weights > 0, self._index_weights, 1.0).reshape(shape)
        fallback = torch.zeros_like(self._total)
        if otherwise is not None:
            fallback = self._padded(otherwise.double(), len(self._index_weights))
        return torch.where(held, self._total / weights, fallback)


def _grown(value: torch.Tensor, rank: int, axis: int) -> torch.Tensor:
    """``value`` with zeros behind, up to ``rank`` along ``axis``."""
    missing = rank - value.shape[axis]
    if missing <= 0:
        return value
    shape = list(value.shape)
    shape[axis] = missing
    return torch.cat([value, torch.zeros(shape, dtype=value.dtype)], dim=axis)


class FactorMeans:
    """Means of B and of A for every layer.

    Clients of another scale s_k than the result's s are folded in as ``sqrt(s_k / s)`` on each factor: the product
    ``s B A`` is the client's, and neither factor is favoured. Equal scales are left bit for bit.
    """

    def __init__(self, like: Mapping[str, FactorPair], *, mixed_ranks: bool) -> None:
        """``like``: the state before, whose ranks and scales bind where it has any.

        Without ``mixed_ranks`` all clients must share one rank and scale.
        """
        self._like, self._mixed = like, mixed_ranks
        self._kinds: dict[str, tuple[int, float]] = {k: (p.lora_rank, p.scale) for k, p in like.items()}
        self._b: dict[str, PaddedSum] = {}
        self._a: dict[str, PaddedSum] = {}

    def add(self, lora: Mapping[str, FactorPair], weight: float) -> None:
        """Add one client's factors.

        Raises:
          ValueError: ranks or scales differ where they must not, or a scale can not be folded.
        """
        for layer, pair in lora.items():
            rank, scale = self._kinds.setdefault(layer, (pair.lora_rank, pair.scale))
            fits = same_scale(pair.scale, scale)
            if not self._mixed and not (fits and pair.lora_rank == rank):
                found = sorted({(rank, scale), (pair.lora_rank, pair.scale)})
                raise ValueError(
                    f"factors of different (rank, scale) can not be averaged: {found}; use flora"
                )
            if not fits and pair.scale * scale <= 0:
                raise ValueError(f"{layer}: scales {scale} and {pair.scale} can not be folded")
            fold = 1.0 if fits else math.sqrt(pair.scale / scale)
            if layer not in self._b:
                least = rank if self._mixed else 0
                self._b[layer], self._a[layer] = PaddedSum("B", least), PaddedSum("A", least)
            self._b[layer].add(pair.B if fits else pair.B.double() * fold, weight)
            self._a[layer].add(pair.A if fits else pair.A.double() * fold, weight)

    @property
    def weight(self) -> float:
        """The sum of the weights; 0 without layers."""
        return max((s.weight for s in self._b.values()), default=0.0)

    def zero_padded(self) -> dict[str, FactorPair]:
        """Layer -> the means over all clients, missing components counting as zero; float64."""
        return {
            layer: FactorPair(B=self._b[layer].mean(), A=self._a[layer].mean(), scale=self._kinds[layer][1])
            for layer in self._b
        }

    def by_index(self) -> dict[str, FactorPair]:
        """Layer -> the means over the clients that have a component; what none has stays as before. float64."""
        made = {}
        for layer in self._b:
            before = self._like.get(layer)
            made[layer] = FactorPair(
                B=self._b[layer].mean_by_index(before.B if before else None),
                A=self._a[layer].mean_by_index(before.A if before else None),
                scale=self._kinds[layer][1],
            )
        return made


class HalfMeans:
    """Means of one factor for every layer, when the other is shared: products average exactly."""

    def __init__(self, side: Literal["A", "B"], like: Mapping[str, tuple[torch.Size, float]]) -> None:
        """``like``: layer -> shape and scale of that factor in the state before."""
        self._side, self._like = side, like
        self._sums: dict[str, PaddedSum] = {}
        self._count = 0

    def add(self, halves: Mapping[str, HalfPair], weight: float, *, folds_scale: bool) -> None:
        """Add one client's factors; a scale s_k other than the state's s multiplies by s_k / s (``folds_scale``).

        Raises:
          ValueError: layers, sides or shapes differ from the state's, or a rank exceeds it.
        """
        if halves.keys() != self._like.keys():
            odd = sorted(halves.keys() ^ self._like.keys())[:4]
            raise ValueError(f"layers differ from the state's or the first client's: {odd}")
        axis = 0 if self._side == "A" else 1
        for layer, half in halves.items():
            shape, scale = self._like[layer]
            fits = half.side == self._side and half.value.shape[1 - axis] == shape[1 - axis]
            if not fits or half.lora_rank > shape[axis]:
                raise ValueError(
                    f"shapes differ from the state's: {half.side} of {layer} is {tuple(half.value.shape)}, "
                    f"{self._side} there is {tuple(shape)}"
                )
            same = not folds_scale or same_scale(half.scale, scale)
            value = half.value if same else half.value.double() * (half.scale / scale)
            self._sums.setdefault(layer, PaddedSum(self._side, shape[axis])).add(value, weight)
        self._count += 1

    @property
    def count(self) -> int:
        """Clients added."""
        return self._count

    def zero_padded(self) -> dict[str, torch.Tensor]:
        """Layer -> mean over all clients, float64."""
        return {layer: total.mean() for layer, total in self._sums.items()}

    def by_index(self, otherwise: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Layer -> mean over the clients that have a component, else ``otherwise``; float64."""
        return {layer: total.mean_by_index(otherwise[layer]) for layer, total in self._sums.items()}

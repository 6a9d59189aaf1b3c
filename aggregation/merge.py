"""One aggregation without a federation: adapters that exist already, combined layer by layer.

There is no state before and no next round, so a method is its ``reduce`` on the clients' factors; what it would fold
into the base is part of the result, as extra rank. With ``p_k`` the weights over their sum, every result is measured
against ``sum_k p_k s_k B_k A_k``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from aggregation.adapter import AdapterState, ClientUpdate, FactorPair, HalfPair
from aggregation.errors import AggregationError
from aggregation.kernels import distance, norm, recompress
from aggregation.methods.base import RunningFactors, RunningMean
from aggregation.methods.padded import ZeroPad

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aggregation.methods.base import Method

_ONLY = "layer"
_TRUNCATING = ("flexlora", "florist")
_NOT_OFFLINE: Mapping[str, tuple[str, str]] = {
    "fed-sb": ("its square cores are not in an adapter folder", "ffa"),
    "fedsa": ("every client keeps its own B, so there is no model for all", "flora"),
}


class CannotMergeError(AggregationError, ValueError):
    """A method that these adapters can not be combined by.

    Attributes:
      instead: the nearest method that can; empty where none is known.
    """

    def __init__(self, reason: str, *, instead: str = "") -> None:
        super().__init__(reason)
        self.instead = instead


@dataclass(frozen=True, slots=True, kw_only=True)
class MergedLayer:
    """One layer's result, with squared Frobenius norms, so that layers add up.

    Attributes:
      pair: the change that is written; float32 factors of any scale.
      exact_square: of ``sum_k p_k s_k B_k A_k``.
      miss_square: of ``pair`` minus that sum.
      whole_square: of what ranks were cut from: the exact sum for flexlora and florist, else the method's result.
      cut_square: of what was cut from it; 0 where nothing was.
    """

    pair: FactorPair
    exact_square: float
    miss_square: float
    whole_square: float
    cut_square: float

    @property
    def relative_error(self) -> float:
        """Distance to the exact sum over its norm; 0 where both vanish, infinite where the sum alone does."""
        return share_of([(self.miss_square, self.exact_square)])

    @property
    def discarded_energy(self) -> float:
        """The share of the squared norm that rank limits cut, in [0, 1]."""
        return share_of([(self.cut_square, self.whole_square)]) ** 2


def share_of(squares: Sequence[tuple[float, float]]) -> float:
    """``sqrt(sum of the first / sum of the second)``; 0 for 0 / 0, infinite where the second sum alone is 0."""
    part, whole = math.fsum(p for p, _ in squares), math.fsum(w for _, w in squares)
    if whole > 0:
        return math.sqrt(part / whole)
    return 0.0 if part == 0 else math.inf


def check_offline(method: str) -> None:
    """Raise for a method that has nothing to reduce in adapters of B and A.

    Raises:
      CannotMergeError: fed-sb, fedsa.
    """
    if method in _NOT_OFFLINE:
        reason, instead = _NOT_OFFLINE[method]
        raise CannotMergeError(f"{method} can not combine adapters: {reason}", instead=instead)


def merge_layer(
    method: Method,
    pairs: Sequence[FactorPair],
    weights: Sequence[float],
    *,
    lora_rank: int | None = None,
    sizes: Sequence[float] | None = None,
) -> MergedLayer:
    """Combine one layer's pairs, in the order given.

    Args:
      method: see ``check_offline``. ffa and rolora need adapters that share a factor, as those methods leave them.
      pairs: at least one, of one shape (m, n), finite; ranks and scales as the method allows.
      weights: as many, positive and finite, not normalised.
      lora_rank: the largest rank of the result; what is more is cut by SVD. flexlora keeps this rank instead of the
        largest that came.
      sizes: read by hetlora, which weighs an adapter by the norm of its whole change: ``sum`` over all layers, see
        ``aggregation.methods.hetlora.sparsity_weight``.

    Raises:
      CannotMergeError: the method does not take these ranks, scales or factors.
      ValueError: shapes or lengths differ, or a weight is not positive and finite.
    """
    check_offline(method.name)
    if not pairs or len(pairs) != len(weights):
        raise ValueError(f"need a weight for each pair and at least one, got {len(pairs)} and {len(weights)}")
    if not all(math.isfinite(w) and w > 0 for w in weights):
        raise ValueError(f"{weights=} must be positive and finite")
    factors = RunningFactors({})
    for pair, weight in zip(pairs, weights, strict=True):
        factors.add({_ONLY: pair}, weight)
    exact = factors.exact()[_ONLY]
    try:
        product = _product(method, pairs, weights, lora_rank, sizes)
    except CannotMergeError:
        raise
    except ValueError as e:
        raise CannotMergeError(str(e)) from e
    kept = product if lora_rank is None or product.lora_rank <= lora_rank else recompress(product, lora_rank)
    whole = exact if method.name in _TRUNCATING else product
    cut = method.name in _TRUNCATING or kept is not product
    miss = distance(kept, exact)
    return MergedLayer(
        pair=kept,
        exact_square=norm(exact) ** 2,
        miss_square=miss**2,
        whole_square=norm(whole) ** 2,
        cut_square=0.0 if not cut else (miss**2 if whole is exact else distance(kept, whole) ** 2),
    )


def merge_dense(tensors: Sequence[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
    """``sum_k p_k T_k``, summed in float64, float32.

    Raises:
      ValueError: shapes differ.
    """
    mean = RunningMean({})
    for tensor, weight in zip(tensors, weights, strict=True):
        mean.add({_ONLY: tensor}, weight)
    return mean.mean()[_ONLY]


def _product(
    method: Method,
    pairs: Sequence[FactorPair],
    weights: Sequence[float],
    lora_rank: int | None,
    sizes: Sequence[float] | None,
) -> FactorPair:
    """The method's whole learned change, whatever it trains on and whatever it folds into the base."""
    if method.name == "hetlora":
        return _by_size(pairs, [norm(p) for p in pairs] if sizes is None else sizes)
    if method.name in ("ffa", "rolora"):
        return _by_half(method, pairs, weights)
    before = AdapterState()
    if method.name == "flexlora" and lora_rank is not None:
        rows, columns = pairs[0].shape
        goal = FactorPair(
            B=torch.zeros(rows, lora_rank), A=torch.zeros(lora_rank, columns), scale=pairs[0].scale
        )
        before = AdapterState(lora={_ONLY: goal})
    states = [AdapterState(lora={_ONLY: pair}) for pair in pairs]
    return _reduced(method, before, states, weights)


def _reduced(
    method: Method, before: AdapterState, states: Sequence[AdapterState], weights: Sequence[float]
) -> FactorPair:
    updates = [
        ClientUpdate(client_id=f"{k:09d}", weight=weight, state=state)
        for k, (state, weight) in enumerate(zip(states, weights, strict=True))
    ]
    return method.product(method.reduce(before, updates).state)[_ONLY]


def _by_size(pairs: Sequence[FactorPair], sizes: Sequence[float]) -> FactorPair:
    """hetlora: zero padding, an adapter weighed by its size; one without any size says nothing."""
    states = [AdapterState(lora={_ONLY: p}) for p, size in zip(pairs, sizes, strict=True) if size > 0]
    if not states:
        return pairs[0]
    return _reduced(ZeroPad(), AdapterState(), states, [size for size in sizes if size > 0])


def _by_half(method: Method, pairs: Sequence[FactorPair], weights: Sequence[float]) -> FactorPair:
    """ffa, rolora: one factor is the same in all adapters, and the other is averaged, which is exact."""
    widest = max(pairs, key=lambda pair: pair.lora_rank)
    shares_a = all(_same(p.A, widest.A[: p.lora_rank]) for p in pairs)
    shares_b = all(_same(p.B, widest.B[:, : p.lora_rank]) for p in pairs)
    if not shares_a and (method.name == "ffa" or not shares_b):
        shared = "A" if method.name == "ffa" else "A or the same B"
        raise CannotMergeError(
            f"{method.name} needs adapters that have the same {shared}; these have not", instead="flora"
        )
    side: Literal["A", "B"] = "B" if shares_a else "A"
    states = [
        AdapterState(halves={_ONLY: HalfPair(side=side, value=p.B if side == "B" else p.A, scale=p.scale)})
        for p in pairs
    ]
    return _reduced(method, AdapterState(lora={_ONLY: widest}), states, weights)


def _same(left: torch.Tensor, right: torch.Tensor) -> bool:
    return torch.equal(left.double(), right.double())

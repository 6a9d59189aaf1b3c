"""Rules that bound what a few wrong clients can do, on products and from inner products alone.

Distances are those of the clients' changes ``s_k B_k A_k``, never of their factors: factors of one product can be
rotated and scaled at will, and an honest client's gauge must not look like an attack. All rules start from the Gram
matrix G (K, K) of ``aggregation.geometry.changes_gram`` and give weights, so that they go before every method that
takes weights: ``reweighted(updates, geometric_median(gram, shares))``. For Fed-SB, whose cores are coordinates of one
shared basis, there are coordinate rules as well.

No rule is best against every attack (Baruch et al. 2019, https://arxiv.org/abs/1902.06156). A method that averages B
and A apart is still open to a client whose product is harmless and whose factors are huge; ``canonical`` closes that.
These rules need to see single updates: they do not go with secure sums.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import torch

from aggregation.adapter import AdapterState, ClientUpdate
from aggregation.gauge import balanced
from aggregation.geometry import distances_to_mean, norms, squared_distances

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    _Rule = Callable[[torch.Tensor], torch.Tensor]

Weights = tuple[float, ...]


def norm_clip(gram: torch.Tensor, shares: Sequence[float], bound: float) -> Weights:
    """Weights ``p_k min(1, bound / ||P_k||)``, normalised: nobody counts for more than a change of norm ``bound``.

    Args:
      gram: (K, K) of the changes.
      shares: p_k > 0.
      bound: C > 0, a Frobenius norm.

    Returns:
      K weights that sum to 1. A client with share p moves the mean by at most ``p C / (1 - p)`` if the others are
      within the bound.

    Raises:
      ValueError: ``bound`` is not positive, or the sizes do not fit.
    """
    if not bound > 0:
        raise ValueError(f"{bound=} must be positive")
    factors = torch.clamp(bound / norms(gram).clamp(min=1e-300), max=1.0)
    return _normalised(_checked(gram, shares) * factors)


def geometric_median(
    gram: torch.Tensor, shares: Sequence[float], *, smoothing: float = 1e-6, steps: int = 100
) -> Weights:
    """Weights of the smoothed geometric median of the changes, by Weiszfeld's iteration in Gram coordinates.

    RFA, Pillutla et al. 2019, https://arxiv.org/abs/1912.13445: ``w_k`` is proportional to
    ``p_k / max(||P_k - sum_j w_j P_j||, smoothing)``. Up to half of the weight may be anything: the result stays
    near the rest.

    Args:
      gram: (K, K) of the changes.
      shares: p_k > 0.
      smoothing: as a share of the median norm of the changes.
      steps: at most.

    Returns:
      K weights that sum to 1.
    """
    p = _checked(gram, shares)
    floor = max(smoothing * float(norms(gram).median()), 1e-300) if len(p) else 1.0
    weights = p / p.sum()
    for _ in range(steps):
        following = p / distances_to_mean(gram, weights).clamp(min=floor)
        following = following / following.sum()
        moved = float((following - weights).abs().sum())
        weights = following
        if moved < 1e-10:
            break
    return _normalised(weights)


def multi_krum(gram: torch.Tensor, shares: Sequence[float], num_bad: int) -> Weights:
    """Keep the ``K - num_bad`` clients whose nearest neighbours are nearest; the others get weight 0.

    Blanchard et al. 2017, https://arxiv.org/abs/1703.02757: a client's score is the sum of its squared distances to
    its ``K - num_bad - 2`` nearest others.

    Args:
      gram: (K, K) of the changes.
      shares: p_k > 0, which the kept ones keep in proportion.
      num_bad: f >= 0.

    Raises:
      ValueError: fewer than ``2 num_bad + 3`` clients.
    """
    p = _checked(gram, shares)
    count = len(p)
    if num_bad < 0 or count < 2 * num_bad + 3:
        raise ValueError(f"{count} clients can not outvote {num_bad} wrong ones; multi-Krum needs 2 f + 3")
    between = squared_distances(gram) + torch.diag(torch.full((count,), math.inf, dtype=torch.float64))
    scores = between.sort(dim=1).values[:, : count - num_bad - 2].sum(1)
    return _normalised(p * _smallest(scores, count - num_bad))


def trimmed(gram: torch.Tensor, shares: Sequence[float], num_trimmed: int) -> Weights:
    """Drop the ``num_trimmed`` clients that lie farthest from the geometric median; the others keep their shares.

    Raises:
      ValueError: nobody would be left, or ``num_trimmed`` is negative.
    """
    p = _checked(gram, shares)
    if not 0 <= num_trimmed < len(p):
        raise ValueError(f"{num_trimmed} of {len(p)} clients can not be dropped")
    centre = torch.tensor(geometric_median(gram, shares), dtype=torch.float64)
    return _normalised(p * _smallest(distances_to_mean(gram, centre), len(p) - num_trimmed))


def _smallest(scores: torch.Tensor, count: int) -> torch.Tensor:
    """1 for the ``count`` smallest, ties by position; else 0."""
    chosen = torch.zeros_like(scores)
    chosen[scores.argsort(stable=True)[:count]] = 1
    return chosen


def _checked(gram: torch.Tensor, shares: Sequence[float]) -> torch.Tensor:
    p = torch.tensor(list(shares), dtype=torch.float64)
    if gram.shape != (len(p), len(p)) or not bool((p > 0).all()) or not bool(torch.isfinite(gram).all()):
        raise ValueError(
            f"need a finite (K, K) Gram matrix and K positive shares, not {tuple(gram.shape)}, {len(p)}"
        )
    return p


def _normalised(weights: torch.Tensor) -> Weights:
    total = weights.sum() if len(weights) else torch.ones(())
    return tuple((weights / total).tolist())


def reweighted(updates: Sequence[ClientUpdate], weights: Weights) -> list[ClientUpdate]:
    """The updates with these weights, in their order; those of weight 0 are left out.

    Raises:
      ValueError: not as many weights as updates.
    """
    paired = zip(updates, weights, strict=True)
    return [dataclasses.replace(update, weight=weight) for update, weight in paired if weight > 0]


def canonical(update: ClientUpdate) -> ClientUpdate:
    """The update with every pair in the balanced gauge: the same products, factors no larger than they need be."""
    lora = {layer: balanced(pair) for layer, pair in update.state.lora.items()}
    return dataclasses.replace(update, state=dataclasses.replace(update.state, lora=lora))


# -- coordinates: Fed-SB's cores, and heads --------------------------------------------------------------------------


def coordinate_trimmed_mean(states: Sequence[AdapterState], num_trimmed: int) -> AdapterState:
    """Cores and heads, each number the mean without its ``num_trimmed`` largest and smallest; float32, unweighted.

    Yin et al. 2018, https://arxiv.org/abs/1803.01498. For cores in one shared basis and heads only: factors have a
    gauge, which a rule on single numbers would mistake for disagreement.

    Raises:
      ValueError: pairs among the states, no client left, or names that differ.
    """
    if not 0 <= 2 * num_trimmed < len(states):
        raise ValueError(f"{num_trimmed} at either end leave none of {len(states)} clients")

    def middle(values: torch.Tensor) -> torch.Tensor:
        ordered = values.sort(dim=0).values
        kept: torch.Tensor = ordered[num_trimmed : len(values) - num_trimmed].mean(dim=0)
        return kept

    return _by_coordinate(states, middle)


def coordinate_median(states: Sequence[AdapterState]) -> AdapterState:
    """Cores and heads, each number the median (the mean of the two middle ones); float32, unweighted.

    Raises:
      ValueError: as in ``coordinate_trimmed_mean``.
    """
    return coordinate_trimmed_mean(states, max((len(states) - 1) // 2, 0))


def _by_coordinate(states: Sequence[AdapterState], rule: _Rule) -> AdapterState:
    if any(s.lora or s.halves or s.base_delta for s in states):
        raise ValueError("coordinate rules are for cores and heads; factors have a gauge, use weights")
    return AdapterState(
        cores=_each([s.cores for s in states], rule), dense=_each([s.dense for s in states], rule)
    )


def _each(maps: Sequence[Mapping[str, torch.Tensor]], rule: _Rule) -> dict[str, torch.Tensor]:
    if any(m.keys() != maps[0].keys() for m in maps):
        raise ValueError("names of tensors differ between clients")
    return {name: rule(torch.stack([m[name].double() for m in maps])).float() for name in maps[0]}


def clipped(state: AdapterState, start: AdapterState, bound: float) -> AdapterState:
    """Cores and heads, their change from ``start`` scaled to norm ``bound`` at most, all as one vector.

    Raises:
      ValueError: ``bound`` is not positive, or pairs among the state.
    """
    if not bound > 0:
        raise ValueError(f"{bound=} must be positive")
    if state.lora or state.halves:
        raise ValueError("clipping single changes is for cores and heads; for factors use norm_clip")
    kinds = ((state.cores, start.cores), (state.dense, start.dense))
    moves = [{k: v.double() - before[k].double() for k, v in now.items()} for now, before in kinds]
    size = math.sqrt(sum(float(v.square().sum()) for move in moves for v in move.values()))
    factor = min(1.0, bound / size) if size > 0 else 1.0
    cores, dense = (
        {k: (before[k].double() + factor * move[k]).float() for k in move}
        for (_, before), move in zip(kinds, moves, strict=True)
    )
    return dataclasses.replace(state, cores=cores, dense=dense)

"""Inner products, norms and distances among many clients' changes, from the factors alone.

``<s B A, s' B' A'> = s s' sum(B^T B' * A A'^T)``: one pass over the factors gives all pairs, in
O((m + n) (K r)^2) time and never a matrix of a layer's size. Inner products accumulate in float64; where
two products of norm N nearly agree, their distance is good to about ``1e-8 N`` (half of the digits).
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch

from aggregation.adapter import FactorPair, HalfPair
from aggregation.kernels import recompress

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aggregation.adapter import AdapterState


def gram(pairs: Sequence[FactorPair]) -> torch.Tensor:
    """G (K, K) float64 with ``G_ij = <P_i, P_j>_F``, ``P_k = s_k B_k A_k``; symmetric.

    Args:
      pairs: all of one shape; ranks and scales may differ. A pair wider than the layer is recompressed first.

    Raises:
      ValueError: shapes differ.
    """
    if len({p.shape for p in pairs}) > 1:
        raise ValueError(f"pairs of different shapes have no inner product: {[p.shape for p in pairs]}")
    narrow = [recompress(p) if p.lora_rank > min(p.shape) else p for p in pairs]
    if not narrow:
        return torch.zeros(0, 0, dtype=torch.float64)
    b = torch.cat([p.scale * p.B.double() for p in narrow], dim=1)
    a = torch.cat([p.A.double() for p in narrow], dim=0)
    owner = torch.repeat_interleave(torch.tensor([p.lora_rank for p in narrow]))
    rows = []
    for pair in narrow:  # one client's rows at a time: r x K r resident, not K r x K r
        left, a_k = pair.scale * pair.B.double(), pair.A.double()
        products = ((left.T @ b) * (a_k @ a.T)).sum(0)
        rows.append(torch.zeros(len(narrow), dtype=torch.float64).index_add_(0, owner, products))
    found = torch.stack(rows)
    return (found + found.T) / 2


def tensor_gram(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """The same for whole tensors of one shape (cores, heads): G (K, K), float64."""
    flat = torch.stack([t.double().flatten() for t in tensors])
    return flat @ flat.T


def half_gram(halves: Sequence[HalfPair]) -> torch.Tensor:
    """The same for one factor of each client, times its scale; smaller ranks are padded with zeros.

    Raises:
      ValueError: some sent A and some B.
    """
    if len({h.side for h in halves}) > 1:
        raise ValueError("factors of different sides have no inner product")
    rank = max((h.lora_rank for h in halves), default=0)
    padded = []
    for half in halves:
        value = half.scale * half.value.double()
        missing = rank - half.lora_rank
        padded.append(
            torch.nn.functional.pad(value, (0, 0, 0, missing) if half.side == "A" else (0, missing))
        )
    return tensor_gram(padded)


def state_gram(states: Sequence[AdapterState]) -> torch.Tensor:
    """The same for whole states as one vector: products of ``lora``, ``cores`` and ``dense`` together.

    A core R counts as it stands: with orthonormal bases ``||B R A||_F = ||R||_F``. A factor alone counts times
    its scale, smaller ranks padded: beside an orthonormal frozen factor that is its product.

    Raises:
      ValueError: the states hold different layers, or layers of different shapes.
    """
    total = torch.zeros(len(states), len(states), dtype=torch.float64)
    for layer in _common([s.lora for s in states]):
        total += gram([s.lora[layer] for s in states])
    for layer in _common([s.halves for s in states]):
        total += half_gram([s.halves[layer] for s in states])
    for name in _common([s.cores for s in states]):
        total += tensor_gram([s.cores[name] for s in states])
    for name in _common([s.dense for s in states]):
        total += tensor_gram([s.dense[name] for s in states])
    return total


def _common(maps: Sequence[Mapping[str, object]]) -> list[str]:
    names = set(maps[0]) if maps else set()
    if any(set(m) != names for m in maps):
        raise ValueError("the states do not hold the same layers")
    return sorted(names)


def changes_gram(states: Sequence[AdapterState], start: AdapterState) -> torch.Tensor:
    """G (K, K) of what each client changed: ``<P_i - P_start, P_j - P_start>``, in product space.

    Args:
      states: what the clients sent.
      start: the same part of what they started from. Layers of ``lora`` that it does not hold count from zero
        (FLoRA's fresh factors).

    Raises:
      ValueError: as in ``state_gram``.
    """
    if not states:
        return torch.zeros(0, 0, dtype=torch.float64)
    lora = {layer: start.lora.get(layer) or _zero_like(pair) for layer, pair in states[0].lora.items()}
    whole = state_gram([*states, dataclasses.replace(start, lora=lora, base_delta={})])
    cross = whole[:-1, -1:]
    return whole[:-1, :-1] - cross - cross.T + whole[-1, -1]


def _zero_like(pair: FactorPair) -> FactorPair:
    rows, columns = pair.shape
    return FactorPair(B=torch.zeros(rows, 1), A=torch.zeros(1, columns))


def norms(gram_matrix: torch.Tensor) -> torch.Tensor:
    """(K,) Frobenius norms; rounding below zero reads as 0."""
    return gram_matrix.diagonal().clamp(min=0).sqrt()


def squared_distances(gram_matrix: torch.Tensor) -> torch.Tensor:
    """(K, K) ``||P_i - P_j||_F^2``; zero on the diagonal, never negative."""
    own = gram_matrix.diagonal()
    found = (own[:, None] + own[None, :] - 2 * gram_matrix).clamp(min=0)
    return found - torch.diag(found.diagonal())


def distances_to_mean(gram_matrix: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """(K,) ``||P_i - sum_j w_j P_j||_F`` for weights that sum to 1, from the Gram matrix alone."""
    towards = gram_matrix @ weights
    own = gram_matrix.diagonal()
    return (own - 2 * towards + weights @ towards).clamp(min=0).sqrt()

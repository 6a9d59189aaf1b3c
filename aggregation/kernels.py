"""Linear algebra on factor pairs. No function here forms an (m, n) matrix, except where noted.

Notation as in ``aggregation.adapter``. Inputs may be float16, bfloat16, float32 or float64; inner products
and decompositions run in float64, results come back as float32 unless asked otherwise.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from aggregation.adapter import FactorPair

if TYPE_CHECKING:
    from collections.abc import Sequence

_BLOCK_ROWS = 256


def stack(
    pairs: Sequence[FactorPair], weights: Sequence[float], *, dtype: torch.dtype = torch.float32
) -> FactorPair:
    """The exact weighted sum ``sum_k w_k s_k B_k A_k`` as one pair of inner dimension ``sum_k r_k``.

    FLoRA, Wang et al. 2024, https://arxiv.org/abs/2409.05976, Eq. 6-8: B is concatenated along its columns,
    A along its rows. ``w_k s_k`` multiplies A only; on both factors it would count twice.

    Args:
      pairs: at least one, all of one shape (m, n); ranks and scales may differ.
      weights: as many, finite.
      dtype: of the result; each entry is multiplied in float64 and rounded once.

    Returns:
      One pair, scale 1.

    Raises:
      ValueError: nothing to stack, lengths differ, or shapes differ.
    """
    if not pairs or len(pairs) != len(weights):
        raise ValueError(f"need a weight for each pair and at least one, got {len(pairs)} and {len(weights)}")
    if len({p.shape for p in pairs}) != 1:
        raise ValueError(f"pairs of different shapes can not be stacked: {[p.shape for p in pairs]}")
    b = torch.cat([p.B.to(dtype) for p in pairs], dim=1)
    scaled = [(p.A.double() * (w * p.scale)).to(dtype) for p, w in zip(pairs, weights, strict=True)]
    a = torch.cat(scaled, dim=0)
    return FactorPair(B=b, A=a)


def factor_svd(pair: FactorPair) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Singular values and vectors of ``scale * B @ A`` from QR of the factors and SVD of the small core.

    ``B = Q_b R_b``, ``A^T = Q_a R_a``, ``R_b R_a^T = u S v^T``, hence ``U = Q_b u``, ``V^T = v^T Q_a^T``:
    O((m + n) r^2 + r^3).

    Returns:
      U (m, k), S (k,), Vh (k, n) in float64, k = min(m, n, r). Where r > min(m, n) the factors are wider than
      the product, which is formed. Each column of U has its entry of largest size positive, so that the
      result is the same on every machine up to rounding.
    """
    b, a = _scaled(pair), pair.A.double()
    if pair.lora_rank > min(pair.shape):
        u, s, vh = torch.linalg.svd(b @ a, full_matrices=False)
    else:
        q_b, r_b = torch.linalg.qr(b)
        q_a, r_a = torch.linalg.qr(a.T)
        core_u, s, core_vh = torch.linalg.svd(r_b @ r_a.T)
        u, vh = q_b @ core_u, core_vh @ q_a.T
    signs = torch.sign(u[u.abs().argmax(dim=0), torch.arange(u.shape[1])])
    signs = torch.where(signs == 0, torch.ones_like(signs), signs)
    return u * signs, s, vh * signs[:, None]


def _scaled(pair: FactorPair) -> torch.Tensor:
    """``s B``, float64; no copy where there is nothing to change."""
    return pair.B.double() if pair.scale == 1.0 else pair.B.double() * pair.scale


def recompress(pair: FactorPair, lora_rank: int | None = None) -> FactorPair:
    """The best pair of at most ``lora_rank`` (Eckart-Young), balanced in B and A; lossless without a limit.

    Singular values below ``max(m, n) * 2^-52 * s_1`` are rounding and dropped. At least rank 1 remains.

    Returns:
      ``B = U sqrt(S)``, ``A = sqrt(S) Vh``, scale 1, float32.
    """
    u, s, vh = factor_svd(pair)
    numerical = numerical_rank(s, pair.shape)
    return _balanced_pair(u, s, vh, max(1, min(numerical, lora_rank) if lora_rank is not None else numerical))


def numerical_rank(singular_values: torch.Tensor, shape: tuple[int, int]) -> int:
    """How many of the descending values exceed the rounding of the largest, ``max(m, n) * 2^-52 * s_1``."""
    if not len(singular_values):
        return 0
    floor = max(shape) * torch.finfo(torch.float64).eps * singular_values[0]
    return int((singular_values > floor).sum())


def truncate_energy(pair: FactorPair, energy: float) -> FactorPair:
    """The best pair of the smallest rank that keeps a share ``energy`` of ``||s B A||_F^2``.

    FLoRIST, Ramesh and Dass 2025, https://arxiv.org/abs/2506.09199. What is cut has relative Frobenius error
    at most ``sqrt(1 - energy)``.

    Args:
      pair: any rank.
      energy: in (0, 1]; 1 cuts rounding only.

    Returns:
      As ``recompress``; a product that is zero keeps rank 1.

    Raises:
      ValueError: ``energy`` is not in (0, 1].
    """
    if not 0 < energy <= 1:
        raise ValueError(f"{energy=} must be above 0 and at most 1")
    u, s, vh = factor_svd(pair)
    return _balanced_pair(u, s, vh, max(1, min(energy_rank(s, energy), numerical_rank(s, pair.shape))))


def energy_rank(singular_values: torch.Tensor, energy: float) -> int:
    """The least k with ``s_1^2 + ... + s_k^2 >= energy * sum_i s_i^2``; 0 where all are zero."""
    squares = singular_values.double().square()
    total = float(squares.sum())
    if total == 0:
        return 0
    tail = squares.flip(0).cumsum(0).flip(0)  # summed from the small end, so that energy = 1 keeps the least
    cut = torch.cat([tail[1:], tail.new_zeros(1)])
    return int((cut > (1 - energy) * total).sum()) + 1


def split(
    pair: FactorPair, lora_rank: int, *, scale: float = 1.0, spare: torch.Tensor
) -> tuple[FactorPair, FactorPair | None]:
    """The best pair of exactly ``lora_rank``, ready to be trained on, and what it leaves.

    Components that the product does not have get ``B = 0`` and rows of ``spare``: with both factors zero no
    gradient would ever reach them.

    Args:
      pair: any rank and scale.
      lora_rank: r, at least 1.
      scale: s > 0 of the first result.
      spare: (r, n) rows for components that are empty.

    Returns:
      ``B = U sqrt(S / s)`` (m, r), ``A = sqrt(S / s) Vh`` (r, n), float32; and the components after r,
      balanced, scale 1, float64, or None where there are none above rounding.

    Raises:
      ValueError: ``lora_rank`` below 1, ``scale`` not positive, or ``spare`` of another shape.
    """
    rows, columns = pair.shape
    if lora_rank < 1 or scale <= 0 or spare.shape != (lora_rank, columns):
        raise ValueError(f"{lora_rank=}, {scale=}, spare {tuple(spare.shape)}: need r >= 1, s > 0, (r, n)")
    u, s, vh = factor_svd(pair)
    numerical = numerical_rank(s, pair.shape)
    keep = min(lora_rank, numerical)
    root = (s[:keep] / scale).sqrt()
    b, a = torch.zeros(rows, lora_rank, dtype=torch.float64), spare.double().clone()
    b[:, :keep], a[:keep] = u[:, :keep] * root, root[:, None] * vh[:keep]
    first = FactorPair(B=b.float(), A=a.float(), scale=scale)
    if numerical <= lora_rank:
        return first, None
    root = s[lora_rank:numerical].sqrt()
    rest = FactorPair(B=u[:, lora_rank:numerical] * root, A=root[:, None] * vh[lora_rank:numerical])
    return first, rest


def _balanced_pair(u: torch.Tensor, s: torch.Tensor, vh: torch.Tensor, keep: int) -> FactorPair:
    root = s[:keep].sqrt()
    b, a = u[:, :keep] * root, root[:, None] * vh[:keep]
    return FactorPair(B=b.float().contiguous(), A=a.float().contiguous())


def inner(left: FactorPair, right: FactorPair) -> float:
    """Frobenius inner product ``<s B A, s' B' A'> = s s' tr((B'^T B)(A A'^T))``, in float64."""
    gram_b = right.B.double().T @ left.B.double()
    gram_a = left.A.double() @ right.A.double().T
    return left.scale * right.scale * float((gram_b * gram_a.T).sum())


def norm(pair: FactorPair) -> float:
    """Frobenius norm of the product; rounding below zero reads as 0."""
    return math.sqrt(max(inner(pair, pair), 0.0))


def difference(left: FactorPair, right: FactorPair) -> FactorPair:
    """``left - right`` as one pair, float64 inside."""
    return FactorPair(
        B=torch.cat([_scaled(left), -_scaled(right)], dim=1),
        A=torch.cat([left.A.double(), right.A.double()], dim=0),
    )


def distance(left: FactorPair, right: FactorPair) -> float:
    """``||left - right||_F`` without cancellation: the norm of the core of the QR factors of the difference.

    The Gram formula loses half of the digits where both products are nearly equal; QR does not. Where the
    difference is wider than the layer, QR saves nothing: the product is then summed 256 rows at a time.
    """
    both = difference(left, right)
    if both.lora_rank > min(both.shape):
        squares = [float((rows @ both.A).square().sum()) for rows in torch.split(both.B, _BLOCK_ROWS)]
        return math.sqrt(math.fsum(squares))
    r_b = torch.linalg.qr(both.B, mode="r").R
    r_a = torch.linalg.qr(both.A.T, mode="r").R
    return float(torch.linalg.norm(r_b @ r_a.T))


def relative_error(approximate: Sequence[FactorPair], exact: Sequence[FactorPair]) -> float:
    """``||approximate - exact||_F / ||exact||_F`` over all layers as one vector; 0 when both are zero."""
    miss = math.sqrt(sum(distance(a, e) ** 2 for a, e in zip(approximate, exact, strict=True)))
    total = math.sqrt(sum(norm(e) ** 2 for e in exact))
    return miss / total if total > 0 else (0.0 if miss == 0 else math.inf)

"""Choosing among the factors of one product: ``(B T^-1, T A)`` is the same change for every invertible T.

Means of factors depend on that choice, means of products do not. Balancing and alignment make the choice alike
for all clients before factors are averaged. No (m, n) matrix is formed.
"""

from __future__ import annotations

from typing import Literal

import torch

from aggregation.adapter import FactorPair
from aggregation.kernels import factor_svd


def balanced(pair: FactorPair) -> FactorPair:
    """The same product, scale and rank with ``B^T B = A A^T`` diagonal and descending: one gauge for all clients.

    With ``B A = U S V^T``: ``B = U sqrt(S)``, ``A = sqrt(S) V^T``. Unique up to sign where singular values
    differ; the sign is that of ``factor_svd``. Where the rank exceeds min(m, n), the rest is zero.

    Returns:
      B (m, r), A (r, n), float32.
    """
    u, s, vh = factor_svd(FactorPair(B=pair.B, A=pair.A))
    (rows, columns), lora_rank = pair.shape, pair.lora_rank
    b = torch.zeros(rows, lora_rank, dtype=torch.float64)
    a = torch.zeros(lora_rank, columns, dtype=torch.float64)
    root = s.sqrt()
    b[:, : len(s)], a[: len(s)] = u * root, root[:, None] * vh
    return FactorPair(B=b.float(), A=a.float(), scale=pair.scale)


def align(
    pair: FactorPair, reference: FactorPair, *, by: Literal["A", "B", "both"] = "both", soft: float = 1.0
) -> FactorPair:
    """Rotate ``pair`` towards ``reference``: the same product in the gauge ``(B T^T, T A)``, T orthogonal.

    Orthogonal Procrustes, Schoenemann 1966: T minimises ``||T A - A_ref||_F^2`` (``by="A"``),
    ``||B T^T - B_ref||_F^2`` (``"B"``) or their sum; with ``A_ref A^T = U S V^T`` it is ``U V^T``. As in
    FedRot-LoRA it is used before factors are averaged.

    Args:
      pair: rank r.
      reference: rank r and the same (m, n).
      by: what is compared.
      soft: 1 rotates in full, 0 not at all; between them T is the orthogonal matrix nearest to
        ``soft T + (1 - soft) I``.

    Returns:
      B (m, r), A (r, n), float32, the scale of ``pair``.

    Raises:
      ValueError: ranks or shapes differ, or ``soft`` is not in [0, 1].
    """
    if pair.shape != reference.shape or pair.lora_rank != reference.lora_rank:
        raise ValueError(
            f"only pairs of one shape and rank can be aligned, not {pair.shape} of rank {pair.lora_rank} "
            f"with {reference.shape} of rank {reference.lora_rank}"
        )
    if not 0 <= soft <= 1:
        raise ValueError(f"{soft=} must be from 0 to 1")
    b, a = pair.B.double(), pair.A.double()
    cross = torch.zeros(pair.lora_rank, pair.lora_rank, dtype=torch.float64)
    if by in ("A", "both"):
        cross += reference.A.double() @ a.T
    if by in ("B", "both"):
        cross += reference.B.double().T @ b
    turn = _nearest_orthogonal(cross)
    if soft < 1:
        turn = _nearest_orthogonal(soft * turn + (1 - soft) * torch.eye(len(turn), dtype=torch.float64))
    return FactorPair(B=(b @ turn.T).float(), A=(turn @ a).float(), scale=pair.scale)


def _nearest_orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    u, _, vh = torch.linalg.svd(matrix)
    nearest: torch.Tensor = u @ vh
    return nearest

"""LoRA-FAIR: keep the mean of A, correct B so that the product comes closest to the exact sum.

Bian et al. 2025, https://arxiv.org/abs/2411.14961, Eq. 8, with the squared Frobenius distance in
place of the cosine: ``min_B' ||DW - B' A_mean||_F^2 + lambda ||B' - B_mean||_F^2`` has the closed form
``B' = (C + lambda B_mean)(G + lambda I)^-1``, ``C = sum_k p_k B_k (A_k A_mean^T)``, ``G = A_mean A_mean^T``.
Nothing of size (m, n) is formed. ``lambda -> inf`` gives FedIT; ``lambda = 0`` projects DW onto the row space
of A_mean.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from aggregation.adapter import FactorPair
from aggregation.methods.fedit import FedIT, mean_factors


def ridge_correction(pairs: list[FactorPair], shares: list[float], ridge: float) -> FactorPair:
    """The closed form above with ``lambda = ridge``, in float64.

    Args:
      pairs: all of one rank and scale.
      shares: p_k, summing to 1.
      ridge: lambda >= 0, in the unit of ``||A_mean||_F^2``. At 0 the pseudo-inverse of G is used.

    Returns:
      B' (m, r) and A_mean (r, n), float32, the clients' scale.
    """
    mean = mean_factors(pairs, shares)
    a = sum((p * pair.A.double() for p, pair in zip(shares, pairs, strict=True)), torch.zeros(())).double()
    b = sum((p * pair.B.double() for p, pair in zip(shares, pairs, strict=True)), torch.zeros(())).double()
    gram = a @ a.T
    c = torch.zeros_like(b)
    for pair, share in zip(pairs, shares, strict=True):
        c += share * (pair.B.double() @ (pair.A.double() @ a.T))
    if ridge > 0:
        system = gram + ridge * torch.eye(len(gram), dtype=gram.dtype)
        corrected = torch.linalg.solve(system, (c + ridge * b).T).T
    else:
        corrected = c @ torch.linalg.pinv(gram, hermitian=True)
    return FactorPair(B=corrected.float(), A=mean.A, scale=mean.scale)


@dataclass(frozen=True, slots=True)
class LoraFair(FedIT):
    """FedIT with the ridge correction of B. ``ridge`` is relative: lambda = ridge * tr(G) / r."""

    name: str = "lora-fair"
    ridge: float = 0.01

    def combine(self, pairs: list[FactorPair], shares: list[float]) -> FactorPair:
        """One layer's factors from all clients'."""
        a = mean_factors(pairs, shares).A.double()
        return ridge_correction(pairs, shares, self.ridge * float((a * a).sum()) / len(a))

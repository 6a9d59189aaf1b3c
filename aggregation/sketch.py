"""The exact sum of products from two sums of small matrices: what a server can do that sees sums only.

Two exchanges. First each client sends ``p_k s_k B_k (A_k Omega)`` (m, l); the server adds them and finds an
orthonormal basis Q of the range. Then each sends ``p_k s_k (Q^T B_k) A_k`` (l, n); their sum Z gives the result
``Q Z``. Halko et al. 2011, https://arxiv.org/abs/0909.4061; FedASK, https://arxiv.org/abs/2507.09990.
Exact when the width l reaches the rank of the sum; else the error is close to that of the best rank. Both
messages are linear in the clients' products, so that masks cancel. No (m, n) matrix is formed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from aggregation.adapter import FactorPair

if TYPE_CHECKING:
    from collections.abc import Sequence

OVERSAMPLE = 8


def sketch_width(ranks: Sequence[int], shape: tuple[int, int], lora_rank: int | None = None) -> int:
    """The width l for clients of ``ranks``: exact without a limit, ``lora_rank + 8`` for that rank at most.

    ``min(sum(ranks), m, n)`` always suffices for an exact result.
    """
    enough = min(sum(ranks), *shape)
    return enough if lora_rank is None else min(enough, lora_rank + OVERSAMPLE)


def range_test(columns: int, width: int, generator: torch.Generator) -> torch.Tensor:
    """Omega (n, l), standard normal, float64. The generator is seeded publicly: Omega hides nothing."""
    return torch.randn(columns, width, generator=generator, dtype=torch.float64)


def first_message(pair: FactorPair, weight: float, omega: torch.Tensor) -> torch.Tensor:
    """``weight * s B (A Omega)``, (m, l) float64: what a client adds to the first sum."""
    return pair.B.double() @ ((weight * pair.scale) * (pair.A.double() @ omega))


def range_basis(first_sum: torch.Tensor) -> torch.Tensor:
    """Q (m, min(m, l)), orthonormal columns that span those of the first sum."""
    basis: torch.Tensor = torch.linalg.qr(first_sum.double()).Q
    return basis


def second_message(pair: FactorPair, weight: float, basis: torch.Tensor) -> torch.Tensor:
    """``weight * s (Q^T B) A``, (l, n) float64: what a client adds to the second sum."""
    return (weight * pair.scale) * (basis.T @ pair.B.double()) @ pair.A.double()


def from_sums(basis: torch.Tensor, second_sum: torch.Tensor) -> FactorPair:
    """``Q Z`` as a pair of rank l, scale 1, float64."""
    return FactorPair(B=basis, A=second_sum.double())


def sketched_sum(
    pairs: Sequence[FactorPair],
    weights: Sequence[float],
    width: int,
    generator: torch.Generator,
    *,
    power_steps: int = 0,
) -> FactorPair:
    """``sum_k w_k s_k B_k A_k`` at rank ``width`` by the two messages above, all in one place.

    Args:
      pairs: at least one, all of one shape (m, n).
      weights: as many.
      width: l >= 1; more than min(m, n) is cut to that.
      generator: of Omega.
      power_steps: each multiplies the error of a slowly decaying spectrum down, for two more passes.

    Returns:
      A pair of rank at most ``width``, scale 1, float64.

    Raises:
      ValueError: no pairs, unequal lengths or shapes, or ``width`` below 1.
    """
    if not pairs or len(pairs) != len(weights) or len({p.shape for p in pairs}) != 1:
        raise ValueError("need at least one pair, all of one shape, and a weight for each")
    if width < 1:
        raise ValueError(f"{width=} must be at least 1")
    rows, columns = pairs[0].shape
    omega = range_test(columns, min(width, rows, columns), generator)
    weighed = list(zip(pairs, weights, strict=True))
    basis = range_basis(_added([first_message(p, w, omega) for p, w in weighed]))
    for _ in range(power_steps):
        row_basis = range_basis(_added([second_message(p, w, basis) for p, w in weighed]).T)
        basis = range_basis(_added([first_message(p, w, row_basis) for p, w in weighed]))
    return from_sums(basis, _added([second_message(p, w, basis) for p, w in weighed]))


def _added(terms: Sequence[torch.Tensor]) -> torch.Tensor:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total

"""LoRA-FAIR: keep the mean of A, correct B so that the product comes closest to the exact sum.

Bian et al. 2025, https://arxiv.org/abs/2411.14961, Eq. 8: ``min_B' S(DW, B' A) + lambda ||B' - B||^2`` with A, B the
means of the factors and S a measure of unlikeness. The paper names the cosine; three readings are here. In each, DW
enters through ``C = DW A^T`` (m, r) and ``G = A A^T`` (r, r) or the stack's Grams; nothing of size (m, n) is formed.

- ``ridge`` (default), ``S = ||DW - B' A||_F^2``: ``B' = (C + lambda B)(G + lambda I)^-1``. ``lambda -> inf`` gives
  FedIT, ``lambda = 0`` projects DW onto the row space of A.
- ``cosine_global``, ``S = 1 - cos(DW, B' A)`` of the whole matrices. The cosine knows no size: with a small lambda the
  product can come out much too short.
- ``cosine_columns``, ``S = 1 - mean_j cos(DW_j, (B' A)_j)`` over columns, as a public implementation does. It has
  no closed form; found by L-BFGS on factors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from aggregation.adapter import FactorPair
from aggregation.kernels import norm, stack
from aggregation.methods.factors import rounded
from aggregation.methods.fedit import FedIT
from aggregation.methods.means import FactorMeans

if TYPE_CHECKING:
    from collections.abc import Sequence

Objective = Literal["ridge", "cosine_global", "cosine_columns"]


@dataclass(frozen=True, slots=True)
class LoraFair(FedIT):
    """FedIT with a correction of B.

    Attributes:
      ridge: lambda >= 0. For ``objective="ridge"`` relative: lambda = ridge * tr(G) / r. The cosines have no unit, so
        for them lambda = ridge / ||B||_F^2.
      objective: which measure of unlikeness.
    """

    name: str = "lora-fair"
    ridge: float = 0.01
    objective: Objective = "ridge"

    def combine(self, mean: FactorPair, exact: FactorPair) -> FactorPair:
        """One layer's next factors."""
        target = FactorPair(B=exact.B, A=exact.A, scale=exact.scale / mean.scale)  # both in the clients' unit
        if self.objective == "ridge":
            a = mean.A
            corrected = ridge_solution(mean, target, self.ridge * float((a * a).sum()) / len(a))
        else:
            size = float(mean.B.square().sum())
            weight = self.ridge / size if size > 0 else self.ridge
            solve = cosine_global if self.objective == "cosine_global" else cosine_columns
            corrected = solve(mean, target, weight)
        return rounded(FactorPair(B=corrected, A=mean.A, scale=mean.scale))


def ridge_solution(mean: FactorPair, target: FactorPair, ridge: float) -> torch.Tensor:
    """``(C + lambda B)(G + lambda I)^-1``, float64.

    Args:
      mean: B (m, r) and A (r, n), float64; its scale is not read.
      target: DW in the unit of ``B A``, any rank.
      ridge: lambda >= 0, in the unit of ``||A||_F^2``. At 0 the pseudo-inverse of G is used.
    """
    return ridge_from_sums(mean, _times(target, mean.A.double().T), ridge)


def _times(pair: FactorPair, right: torch.Tensor) -> torch.Tensor:
    return pair.scale * (pair.B.double() @ (pair.A.double() @ right))


def ridge_correction(pairs: Sequence[FactorPair], shares: Sequence[float], ridge: float) -> FactorPair:
    """The closed form for clients at hand, in float64.

    Args:
      pairs: all of one rank and scale.
      shares: p_k, summing to 1.
      ridge: as in ``ridge_solution``.

    Returns:
      B' (m, r) and the mean of A (r, n), float32, the clients' scale.
    """
    means = FactorMeans({}, mixed_ranks=False)
    for pair, share in zip(pairs, shares, strict=True):
        means.add({"": pair}, share)
    mean, exact = means.zero_padded()[""], stack(pairs, shares, dtype=torch.float64)
    target = FactorPair(B=exact.B, A=exact.A, scale=1 / mean.scale)
    return rounded(FactorPair(B=ridge_solution(mean, target, ridge), A=mean.A, scale=mean.scale))


def ridge_from_sums(mean: FactorPair, second_sum: torch.Tensor, ridge: float) -> torch.Tensor:
    """The same B' from two sums, which a server that sees sums only can have.

    Args:
      mean: the first sum: the means of B (m, r) and of A (r, n).
      second_sum: C (m, r), ``sum_k p_k B_k (A_k A^T)``; each client adds its term once it knows the mean of A.
      ridge: as in ``ridge_solution``.

    Returns:
      ``(C + lambda B)(G + lambda I)^-1`` with ``G = A A^T``, (m, r), float64.
    """
    a, b, c = mean.A.double(), mean.B.double(), second_sum.double()
    gram = a @ a.T
    if ridge > 0:
        system = gram + ridge * torch.eye(len(gram), dtype=gram.dtype)
        solution: torch.Tensor = torch.linalg.solve(system, (c + ridge * b).T).T
        return solution
    projected: torch.Tensor = c @ torch.linalg.pinv(gram, hermitian=True)
    return projected


def cosine_global(mean: FactorPair, target: FactorPair, weight: float) -> torch.Tensor:
    """A stationary point of ``1 - cos(DW, B' A) + weight ||B' - B||_F^2``, from the mean on, float64.

    At a stationary point ``B' (2 weight I + s / (w q^3) G) = 2 weight B + C / (w q)`` with ``w = ||DW||``,
    ``q = ||B' A||``, ``s = <DW, B' A>``. In the eigenbasis of G the columns are apart, so only s and q are iterated:
    O(m r^2) once, O(r) a step. With ``weight = 0`` nothing fixes the length: the limit ``weight -> 0`` is returned,
    the multiple of ``DW A^+`` that is nearest to B. B itself is returned where DW or ``B A`` is zero.

    Args:
      mean: B (m, r) and A (r, n), float64.
      target: DW, any rank.
      weight: lambda >= 0.
    """
    a, b = mean.A.double(), mean.B.double()
    w = norm(target)
    values, basis = torch.linalg.eigh(a @ a.T)
    values = values.clamp(min=0)
    b_, c_ = b @ basis, _times(target, a.T) @ basis
    if w == 0 or weight == 0:
        unchanged: torch.Tensor = b if w == 0 else _nearest_multiple(b_, c_, values) @ basis.T
        return unchanged
    # Three numbers a column: ||b||^2, <b, c>, ||c||^2. All that s and q need.
    bb, bc, cc = b_.square().sum(0), (b_ * c_).sum(0), c_.square().sum(0)
    x, y = torch.ones_like(values), torch.zeros_like(values)  # b'_j = x_j b_j + y_j c_j
    for _ in range(_STEPS):
        s = float((x * bc + y * cc).sum())
        q = math.sqrt(max(float((values * (x * x * bb + 2 * x * y * bc + y * y * cc)).sum()), 0.0))
        if q <= 1e-12 * w:
            return b
        below = (2 * weight + s * values / (w * q**3)).clamp(min=2 * weight)  # s < 0 only on the way
        next_x, next_y = 2 * weight / below, 1 / (w * q) / below
        moved = float((next_x - x).abs().max()) + w * float((next_y - y).abs().max())
        x, y = (x + next_x) / 2, (y + next_y) / 2  # half steps: the plain iteration may swing
        if moved < _TOLERANCE:
            break
    found: torch.Tensor = (b_ * x + c_ * y) @ basis.T
    return found


def _nearest_multiple(b: torch.Tensor, c: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """``t C G^+`` with the t that comes nearest to B; in the eigenbasis of G, whose null columns keep B's."""
    held = values > values.max() * len(values) * torch.finfo(values.dtype).eps
    solved = torch.where(held, c / torch.where(held, values, 1.0), 0.0)
    size = float(solved.square().sum())
    factor = float((b * solved).sum()) / size if size > 0 else 0.0
    return torch.where(held, factor * solved, b)


_STEPS = 500
_TOLERANCE = 1e-13


def cosine_columns(mean: FactorPair, target: FactorPair, weight: float) -> torch.Tensor:
    """A minimum of ``1 - mean_j cos(DW_j, (B' A)_j) + weight ||B' - B||_F^2`` by L-BFGS from the mean on, float64.

    Loss and gradient need the stack's Grams only: with ``DW = T Z`` (R wide), ``<DW_j, (B' A)_j> = z_j^T (T^T B')
    a_j`` and ``||(B' A)_j||^2 = a_j^T (B'^T B') a_j``: O((m + n) R r) a step. Columns of DW that are zero do not
    count.

    Args:
      mean: B (m, r) and A (r, n), float64.
      target: DW, any rank.
      weight: lambda >= 0.
    """
    a, b = mean.A.double(), mean.B.double()
    t, z = target.scale * target.B.double(), target.A.double()
    lengths = ((t.T @ t @ z) * z).sum(0).clamp(min=0).sqrt()
    counted = lengths > 1e-12 * lengths.max() if lengths.numel() else lengths > 0
    if not bool(counted.any()):
        return b
    z, a_j, lengths = z[:, counted], a[:, counted], lengths[counted]
    solution = b.clone().requires_grad_(True)
    floor = (1e-12 * float(lengths.max())) ** 2

    def loss() -> torch.Tensor:
        inner = ((t.T @ solution @ a_j) * z).sum(0)
        own = ((solution.T @ solution @ a_j) * a_j).sum(0)
        cosine = inner / (lengths * (own + floor).sqrt())
        return 1 - cosine.mean() + weight * (solution - b).square().sum()

    optimiser = torch.optim.LBFGS(
        [solution],
        max_iter=_STEPS,
        tolerance_grad=1e-10,
        tolerance_change=1e-14,
        line_search_fn="strong_wolfe",
    )

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        value = loss()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    with torch.enable_grad():
        optimiser.step(closure)  # type: ignore[no-untyped-call]
    return solution.detach()

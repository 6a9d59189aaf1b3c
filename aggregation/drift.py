"""How far a base has moved beside what an adapter changes: is an adapter of the old base still at home on the new one?

PortLLM, Khan et al. 2024, https://arxiv.org/abs/2410.10870, carries ``s B A`` unchanged from ``W`` to a newer ``W'`` of
the same shape: the ported weight is ``W' + s B A``. What it leaves out is how training on ``W'`` would have differed,
which the paper takes to be small where ``W' - W`` is. Here both are measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aggregation.adapter import FactorPair
from aggregation.kernels import norm

if TYPE_CHECKING:
    from collections.abc import Iterable

    import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """One layer's, or many layers' as one vector; float64.

    Attributes:
      change_square: ``||W' - W||_F^2``.
      adapter_square: ``||s B A||_F^2``.
      inner: ``<W' - W, s B A>``.
    """

    change_square: float
    adapter_square: float
    inner: float

    @property
    def ratio(self) -> float:
        """``||W' - W|| / ||s B A||``; 0 where the base stands still, infinite where the adapter alone is zero."""
        if self.change_square == 0:
            return 0.0
        return math.sqrt(self.change_square / self.adapter_square) if self.adapter_square > 0 else math.inf

    @property
    def cosine(self) -> float:
        """In [-1, 1]; NaN where one of the two is zero."""
        size = math.sqrt(self.change_square) * math.sqrt(self.adapter_square)
        return max(-1.0, min(1.0, self.inner / size)) if size > 0 else math.nan


def layer_drift(pair: FactorPair, blocks: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> Drift:
    """Measure one layer, rows of the base passing by; nothing of size (m, n) is formed.

    Args:
      pair: the adapter's, shape (m, n).
      blocks: rows of W and of W' as ``(old, new)``, each (rows, n), in order, m rows in all; any floating type.

    Raises:
      ValueError: the blocks are not the rows of an (m, n) matrix.
    """
    rows, columns = pair.shape
    b, a = pair.B.double(), pair.A.double()
    start, change_square, inner = 0, 0.0, 0.0
    for old, new in blocks:
        stop = start + len(old)
        if old.shape != new.shape or old.shape[1:] != (columns,) or stop > rows:
            raise ValueError(
                f"rows {tuple(old.shape)} and {tuple(new.shape)} at {start} do not fit a layer of {pair.shape}"
            )
        change = new.double() - old.double()
        change_square += float(change.square().sum())
        inner += pair.scale * float(((b[start:stop].T @ change) * a).sum())
        start = stop
    if start != rows:
        raise ValueError(f"{start} rows are not the {rows} of the layer")
    return Drift(change_square=change_square, adapter_square=norm(pair) ** 2, inner=inner)


def transposed(pair: FactorPair) -> FactorPair:
    """The pair of ``(s B A)^T``, for bases that keep a layer's weight transposed."""
    return FactorPair(B=pair.A.T, A=pair.B.T, scale=pair.scale)


def together(drifts: Iterable[Drift]) -> Drift:
    """All layers as one vector."""
    found = list(drifts)
    return Drift(
        change_square=math.fsum(d.change_square for d in found),
        adapter_square=math.fsum(d.adapter_square for d in found),
        inner=math.fsum(d.inner for d in found),
    )

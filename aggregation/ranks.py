"""Products cut to a rank, with the error of the cut told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from aggregation.kernels import recompress, relative_error

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aggregation.adapter import FactorPair


@dataclass(frozen=True, slots=True, kw_only=True)
class Truncation:
    """What became of a product.

    Attributes:
      product: layer -> pair of at most the rank asked for, float32.
      relative_error: Frobenius norm of what was cut over that of the whole, all layers as one vector; 0 where
        nothing was cut.
    """

    product: Mapping[str, FactorPair]
    relative_error: float


def truncated(product: Mapping[str, FactorPair], lora_rank: int) -> Truncation:
    """The best pairs of at most ``lora_rank`` (Eckart-Young), by SVD of the factors; no (m, n) matrix is formed.

    Args:
      product: layer -> pair of any rank and scale; may be empty.
      lora_rank: at least 1. A layer that does not exceed it is passed on as it is, bit for bit.

    Raises:
      ValueError: ``lora_rank`` below 1.
    """
    if lora_rank < 1:
        raise ValueError(f"{lora_rank=} must be at least 1")
    cut = {k: recompress(p, lora_rank) if p.lora_rank > lora_rank else p for k, p in product.items()}
    wide = [layer for layer, pair in product.items() if pair.lora_rank > lora_rank]
    if not wide:
        return Truncation(product=cut, relative_error=0.0)
    return Truncation(
        product=cut, relative_error=relative_error([cut[k] for k in product], list(product.values()))
    )

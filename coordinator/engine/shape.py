"""What the coordinator knows of a model: names and shapes. It never loads weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """``layer_shapes``: layer -> (out, in) of what gets adapters. ``dense``: heads before training."""

    layer_shapes: Mapping[str, tuple[int, int]]
    dense: Mapping[str, torch.Tensor]

"""The methods by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aggregation.methods.base import Method, Reduction
from aggregation.methods.fed_sb import FedSB
from aggregation.methods.fedit import FedIT
from aggregation.methods.flora import Flora
from aggregation.methods.lora_fair import LoraFair

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["METHODS", "FedIT", "FedSB", "Flora", "LoraFair", "Method", "Reduction", "get_method"]

METHODS: Mapping[str, Method] = {m.name: m for m in (FedIT(), Flora(), FedSB(), LoraFair())}


def get_method(name: str, *, ridge: float = 0.01) -> Method:
    """The method of a recipe.

    Raises:
      KeyError: no such method; the message lists all.
    """
    if name == "lora-fair":
        return LoraFair(ridge=ridge)
    if name not in METHODS:
        raise KeyError(f"no method {name!r}; there are {', '.join(sorted(METHODS))}")
    return METHODS[name]

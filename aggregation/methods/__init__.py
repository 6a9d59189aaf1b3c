"""The methods by name: those a recipe can name, and the whole library."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from aggregation.methods.base import Method, Reduction
from aggregation.methods.dp_lora import DPLoRA
from aggregation.methods.fed_sb import FedSB
from aggregation.methods.fedex import FedEx
from aggregation.methods.fedit import FedIT
from aggregation.methods.flora import Flora
from aggregation.methods.florist import Florist
from aggregation.methods.halves import FedSALoRA, FFALoRA, RoLoRA
from aggregation.methods.hetlora import HetLoRA
from aggregation.methods.lora_fair import LoraFair
from aggregation.methods.padded import RankIndex, ZeroPad
from aggregation.methods.redistribute import ExactProduct, FlexLoRA

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "LIBRARY",
    "METHODS",
    "DPLoRA",
    "ExactProduct",
    "FFALoRA",
    "FedEx",
    "FedIT",
    "FedSALoRA",
    "FedSB",
    "FlexLoRA",
    "Flora",
    "Florist",
    "HetLoRA",
    "LoraFair",
    "Method",
    "RankIndex",
    "Reduction",
    "RoLoRA",
    "ZeroPad",
    "configured",
    "get_method",
]

METHODS: Mapping[str, Method] = {m.name: m for m in (FedIT(), Flora(), FedSB(), LoraFair())}
"""What a recipe can name."""

_LIBRARY: tuple[Method, ...] = (
    ZeroPad(),
    RankIndex(),
    ExactProduct(),
    FlexLoRA(),
    Florist(),
    FedEx(),
    FFALoRA(),
    RoLoRA(),
    FedSALoRA(),
    HetLoRA(),
    DPLoRA(),
)
LIBRARY: Mapping[str, Method] = {**METHODS, **{m.name: m for m in _LIBRARY}}
"""Every method of this package."""


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


def configured(name: str, **options: float | str) -> Method:
    """A method of the library with options: ``ridge`` and ``objective`` of lora-fair, ``energy`` of florist.

    Raises:
      KeyError: no such method; the message lists all.
      TypeError: an option that the method does not have.
    """
    if name not in LIBRARY:
        raise KeyError(f"no method {name!r}; there are {', '.join(sorted(LIBRARY))}")
    made: Method = dataclasses.replace(LIBRARY[name], **options)  # type: ignore[type-var]
    return made

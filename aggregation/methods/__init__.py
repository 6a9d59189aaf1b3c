"""The methods by name."""

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
from aggregation.methods.sketched_sb import SketchedFedSB

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
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
    "SketchedFedSB",
    "ZeroPad",
    "get_method",
]

_ALL: tuple[Method, ...] = (
    FedIT(),
    Flora(),
    FedSB(),
    LoraFair(),
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
METHODS: Mapping[str, Method] = {method.name: method for method in _ALL}
"""Every method by the name that a recipe gives it, with its default options."""


def get_method(name: str, **options: float | str) -> Method:
    """A method, with options: ``ridge`` and ``objective`` of lora-fair, ``energy`` of florist.

    Raises:
      KeyError: no such method; the message lists all.
      TypeError: an option that the method does not have.
    """
    if name not in METHODS:
        raise KeyError(f"no method {name!r}; there are {', '.join(sorted(METHODS))}")
    made: Method = dataclasses.replace(METHODS[name], **options)  # type: ignore[type-var]
    return made

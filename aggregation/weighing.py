"""From the changes of one round to the weights of its clients: a norm clip for all, then a rule.

**Clip**, always on: with n_k the norm of a client's change as products, and N the median of these (the lower one of
two), a client counts ``min(1, clip_factor N / n_k)`` of its weight. Nobody's pull is then longer than
``clip_factor`` times what half of the clients do. It reads one update at a time. Heads are measured apart, with a
median of their own, since a head moves so far that a huge change of the layers would hide beside it. Where B and A are
averaged apart, the moves of the factors themselves are bounded in the same way, since a harmless product can hide huge
factors; the least of these parts counts. Where a weight does not bind (``aggregation.options.weights_bind``), a
client over the bound is left out.

**Rules** (``aggregation.robust``) compare all pairs of changes: every update of the round is held in memory for them.
The weights go before any method that takes weights, so what is exact stays exact for these weights.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from aggregation.adapter import AdapterState
from aggregation.geometry import state_gram
from aggregation.robust import geometric_median, multi_krum, trimmed

if TYPE_CHECKING:
    from collections.abc import Sequence

Rule = Literal[
    "none", "geometric_median", "multi_krum", "trimmed", "coordinate_median", "coordinate_trimmed_mean"
]
COORDINATE_RULES = ("coordinate_median", "coordinate_trimmed_mean")


@dataclass(frozen=True, slots=True, kw_only=True)
class RobustOptions:
    """How wrong clients are bounded.

    Attributes:
      rule: of ``aggregation.robust``, after the clip.
      num_bad: clients that may be wrong (multi_krum, trimmed, coordinate_trimmed_mean).
      clip_factor: >= 1, times the median norm.

    Raises:
      ValueError: a number out of its range.
    """

    rule: Rule = "none"
    num_bad: int = 1
    clip_factor: float = 10.0

    def __post_init__(self) -> None:
        if not self.clip_factor >= 1 or self.num_bad < 0:
            raise ValueError(f"{self}: need clip_factor >= 1 and num_bad >= 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How far one client went: ``change`` in products and cores, ``heads``, and ``factors`` as B and A themselves."""

    change: float
    heads: float = 0.0
    factors: float = 0.0

    @property
    def norm(self) -> float:
        """Of layers and heads as one vector."""
        return math.hypot(self.change, self.heads)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What became of one client's update.

    Attributes:
      change_norm: Frobenius norm of its change, layers and heads as one vector.
      share: of the result, from 0 to 1; the shares of a round sum to 1. With a coordinate rule: before that rule.
      outcome: ``clipped``: over the bound, counted in part. ``rejected``: not counted. Else empty.
    """

    change_norm: float
    share: float
    outcome: Literal["", "clipped", "rejected"] = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weighing:
    """One round's weights.

    Attributes:
      weights: for ``ClientUpdate.weight``, in the order of the clients; 0 means leave out. Where nobody is
        clipped and no rule is set they are those that were given, bit for bit.
      verdicts: as many.
      bound: the most that a change's norm counted for; infinite where all changes are zero.
    """

    weights: tuple[float, ...]
    verdicts: tuple[Verdict, ...]
    bound: float


def weigh(
    sizes: Sequence[Size],
    weights: Sequence[float],
    options: RobustOptions,
    *,
    gram: torch.Tensor | None = None,
    bounds_factors: bool = False,
    weights_bind: bool = True,
) -> Weighing:
    """The weights of one round.

    Args:
      sizes: of the updates, in the order of the clients.
      weights: of the clients, > 0.
      options: the clip and the rule.
      gram: (K, K) of the changes (``balanced_gram``); needed by rules on weights.
      bounds_factors: also bound the moves of B and A (``AVERAGES_FACTORS``).
      weights_bind: False leaves out who is over the bound, instead of counting it in part.

    Raises:
      ValueError: nobody is there, a rule without its Gram matrix, too few clients for the rule, or nobody is left:
        each is over the bound of another part.
    """
    if not sizes or len(sizes) != len(weights):
        raise ValueError(f"need a weight for each update and at least one, got {len(sizes)}, {len(weights)}")
    bound = _bound([size.norm for size in sizes], options.clip_factor)
    measured = [[size.change for size in sizes], [size.heads for size in sizes]]
    if bounds_factors:
        measured.append([size.factors for size in sizes])
    parts = [1.0] * len(sizes)
    for found in measured:
        own = _bound(found, options.clip_factor)
        parts = [min(part, _part(norm, own)) for part, norm in zip(parts, found, strict=True)]
    if not weights_bind:
        parts = [part if part == 1.0 else 0.0 for part in parts]
        if not any(parts):
            raise ValueError(
                f"each of the {len(sizes)} updates goes {options.clip_factor:g} times as far as the median, one in its "
                "layers, another in its heads or factors: nobody is left to count"
            )
    clipped = [weight if part == 1.0 else weight * part for weight, part in zip(weights, parts, strict=True)]
    final = _ruled(clipped, gram, options)
    total = sum(final)
    verdicts = tuple(
        Verdict(
            change_norm=size.norm,
            share=weight / total,
            outcome="rejected" if weight == 0 else "clipped" if part < 1 else "",
        )
        for size, weight, part in zip(sizes, final, parts, strict=True)
    )
    return Weighing(weights=tuple(final), verdicts=verdicts, bound=bound)


def balanced_gram(changes: Sequence[AdapterState]) -> torch.Tensor:
    """G (K, K) of changes, layers and heads each in units of their median norm, so that neither hides the other.

    Args:
      changes: of all clients (``aggregation.changes.product_change``).
    """
    total = torch.zeros(len(changes), len(changes), dtype=torch.float64)
    layers = [dataclasses.replace(change, dense={}) for change in changes]
    heads = [AdapterState(dense=change.dense) for change in changes]
    for part in (layers, heads):
        found = state_gram(part)
        middle = sorted(found.diagonal().tolist())[(len(changes) - 1) // 2]
        total += found / middle if middle > 0 else found
    return total


def _ruled(clipped: list[float], gram: torch.Tensor | None, options: RobustOptions) -> list[float]:
    """The weights after the rule; clients that the clip left out stay out of it."""
    if options.rule == "none" or options.rule in COORDINATE_RULES:
        return clipped
    if gram is None:
        raise ValueError(f"{options.rule} compares all changes: it needs their Gram matrix")
    among = [i for i, weight in enumerate(clipped) if weight > 0]
    shares, inner = [clipped[i] for i in among], gram[among][:, among]
    if options.rule == "geometric_median":
        found = geometric_median(inner, shares)
    elif options.rule == "multi_krum":
        found = multi_krum(inner, shares, options.num_bad)
    else:
        found = trimmed(inner, shares, options.num_bad)
    final = [0.0] * len(clipped)
    for place, weight in zip(among, found, strict=True):
        final[place] = weight
    return final


def _bound(found: Sequence[float], factor: float) -> float:
    middle = sorted(found)[(len(found) - 1) // 2]
    return factor * middle if middle > 0 else float("inf")


def _part(norm: float, bound: float) -> float:
    return 1.0 if norm <= bound else bound / norm

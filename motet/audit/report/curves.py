"""The two curves of the report: how epsilon grew, and how often an attacker can be right."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from privacy.accounting import epsilon_pld

if TYPE_CHECKING:
    from collections.abc import Sequence

    from privacy.events import Event

_POINTS = 16
_LARGEST_EXPONENT = 700.0  # beyond it e^epsilon is no float, and the bound says nothing
_DELTAS = (0.5, 0.3, 0.2, 0.1, 3e-2, 1e-2, 3e-3, 1e-3, 1e-4, 1e-5)
_FALSE_POSITIVES = (
    0.0,
    0.001,
    0.003,
    0.01,
    0.03,
    0.05,
    0.1,
    0.15,
    0.2,
    0.3,
    0.4,
    0.5,
    0.6,
    0.7,
    0.8,
    0.9,
    1.0,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Points of a curve, x ascending."""

    x: tuple[float, ...]
    y: tuple[float, ...]

    def to_json(self) -> dict[str, list[float | None]]:
        """Plain lists; infinities are null."""
        return {"x": list(self.x), "y": [value if math.isfinite(value) else None for value in self.y]}


def epsilon_by_round(events: Sequence[Event], target_delta: float) -> Curve:
    """Epsilon after each charge, at no more than 18 of them.

    Args:
      events: of one client, in the order of their charge.
      target_delta: in (0, 1).

    Returns:
      x: number of charges, from 0; y: epsilon by PLD.
    """
    count = len(events)
    places = sorted({min(1, count), *(round(i * count / _POINTS) for i in range(_POINTS + 1))})
    return Curve(
        x=tuple(float(n) for n in places), y=tuple(epsilon_pld(events[:n], target_delta) for n in places)
    )


def attack_curve(events: Sequence[Event]) -> Curve:
    """The most true positives that any attack can have at each rate of false positives.

    (epsilon, delta) holds at every delta at once; each pair gives two lines (Kairouz, Oh, Viswanath 2015,
    https://arxiv.org/abs/1311.0776, theorem 2.1)::

      TPR <= e^eps FPR + delta        TPR <= 1 - e^-eps (1 - FPR - delta)

    and the lowest of all lines is the bound.

    Args:
      events: of one client.

    Returns:
      x: false positive rate; y: true positive rate, at most.
    """
    pairs = _pairs(events)
    return Curve(x=_FALSE_POSITIVES, y=tuple(_bound(pairs, fpr) for fpr in _FALSE_POSITIVES))


def best_guess(events: Sequence[Event]) -> float:
    """The most that an attacker can be right about one example who could only toss a coin before.

    ``(e^eps + delta) / (1 + e^eps)`` at every pair, and the lowest of them; 1 where epsilon is infinite.
    """
    rates = [(1 + delta * math.exp(-epsilon)) / (1 + math.exp(-epsilon)) for epsilon, delta in _pairs(events)]
    return min(1.0, *rates)


def _pairs(events: Sequence[Event]) -> list[tuple[float, float]]:
    """(epsilon, delta) at several deltas, all of which hold at once."""
    return [(epsilon_pld(events, delta), delta) for delta in _DELTAS]


def _bound(pairs: Sequence[tuple[float, float]], fpr: float) -> float:
    best = 1.0
    for epsilon, delta in pairs:
        if epsilon < _LARGEST_EXPONENT:
            best = min(best, math.exp(epsilon) * fpr + delta, 1 - math.exp(-epsilon) * (1 - fpr - delta))
    return max(best, fpr)

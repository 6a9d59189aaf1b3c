"""Renyi vectors as integers: what a ledger adds up, with nothing lost and every rounding upwards.

Entry i is the Renyi divergence at order ``ORDERS[i]`` in billionths, rounded up. Sums of integers are exact, in
any order and any language.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

from privacy.events import PoissonGaussianEvent
from privacy.ledger.canonical import LARGEST_INTEGER

if TYPE_CHECKING:
    from collections.abc import Iterable

    from privacy.events import Event

ORDERS = (2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64, 128, 256)
SCALE = 10**9
# What the floating-point formula may be off by, held against 50-digit arithmetic by a test.
_RELATIVE_ERROR = 1e-12
_STEP_ERROR = 2e-12

RdpVector = tuple[int, ...]


@lru_cache(maxsize=4096)
def rdp_vector(event: Event) -> RdpVector | None:
    """Return the vector of one event, in billionths, rounded up; None where it is infinite or unknown.

    Returns:
      ``len(ORDERS)`` integers >= 0, zeros where nothing is charged. None also where one does not fit 53 bits.
    """
    if not isinstance(event, PoissonGaussianEvent):
        return None
    if event.num_steps == 0 or event.sampling_rate == 0:
        return (0,) * len(ORDERS)
    if event.noise_multiplier == 0:
        return None
    from privacy.accounting import rdp_of_step  # loads scipy: a second that most commands do not need

    step = rdp_of_step(float(event.noise_multiplier), float(event.sampling_rate), ORDERS)
    values = []
    for value in step:
        total = float(value) * event.num_steps * SCALE
        if not total < LARGEST_INTEGER / 2:
            return None
        slack = total * _RELATIVE_ERROR + event.num_steps * _STEP_ERROR * SCALE
        values.append(math.ceil(total + slack) + 1)
    return tuple(values)


def add_vectors(vectors: Iterable[RdpVector | None]) -> RdpVector | None:
    """Sum of vectors, exact; None if one of them is None."""
    total = (0,) * len(ORDERS)
    for vector in vectors:
        if vector is None:
            return None
        total = tuple(a + b for a, b in zip(total, vector, strict=True))
    return total


def epsilon_of_vector(vector: RdpVector | None, target_delta: float) -> float:
    """Epsilon of a sum, by the conversion of Canonne, Kamath and Steinke 2020, proposition 12.

    Args:
      vector: a sum of vectors of events; None is infinite.
      target_delta: in (0, 1).

    Returns:
      An upper bound, looser than ``privacy.accounting.epsilon_rdp``, which has more orders. Zero for zeros.

    Raises:
      ValueError: ``target_delta`` is outside (0, 1), or the vector has another length.
    """
    if not 0 < target_delta < 1:
        raise ValueError(f"target_delta must lie in (0, 1), not {target_delta!r}")
    if vector is None:
        return math.inf
    if len(vector) != len(ORDERS):
        raise ValueError(f"a vector has {len(ORDERS)} entries, not {len(vector)}")
    if not any(vector):
        return 0.0
    return max(
        0.0,
        min(
            value / SCALE + math.log1p(-1 / order) - (math.log(target_delta) + math.log(order)) / (order - 1)
            for value, order in zip(vector, ORDERS, strict=True)
        ),
    )

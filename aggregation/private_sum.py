"""A mean under client-level differential privacy: clipped changes are summed, noised once, and divided by a constant.

McMahan et al. 2018, https://arxiv.org/abs/1710.06963, with add/remove neighbours and Poisson sampling of clients::

    mean = (sum_k min(1, C / ||d_k||) d_k + N(0, (sigma C)^2 I)) / m

d_k is what client k changed of what it sends, all numbers as one vector, in the coordinates in which the method sums.
One client moves the sum by at most C, whatever it sends and whoever else is there, so the noise covers its whole data.
Weights are uniform, and m is the public expected cohort, never the number who came: both would depend on who is there.
Nobody at all is a valid sum, of noise alone.

What a method makes of the mean is post-processing. That needs a method whose result is a function of the sum alone
(``client_dp`` in ``aggregation.table``).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from aggregation.adapter import AdapterState, ClientUpdate
from aggregation.changes import moves, numbers, with_moves
from aggregation.methods.base import Reduction, same_shapes

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from aggregation.methods import Method
    from privacy.noise import NoiseSource

_ROUNDING = 1 - 1e-9  # float64 sums of squares are good to far less; the bound is met from below


class ClippedSum:
    """``sum_k min(1, C / ||d_k||) d_k`` in float64, one client at a time.

    Args:
      like: names and shapes of what is summed.
      clipping_norm: C > 0, finite.

    Raises:
      ValueError: ``clipping_norm`` is out of its range.
    """

    def __init__(self, like: Mapping[str, torch.Tensor], clipping_norm: float) -> None:
        if not (math.isfinite(clipping_norm) and clipping_norm > 0):
            raise ValueError(f"{clipping_norm=} must be finite and > 0")
        self._norm = clipping_norm
        self._sums = {
            name: torch.zeros(value.shape, dtype=torch.float64) for name, value in sorted(like.items())
        }

    def add(self, change: Mapping[str, torch.Tensor]) -> None:
        """Add one client. A change that is not finite counts as zero, in silence.

        Raises:
          ValueError: names or shapes differ.
        """
        same_shapes(change, self._sums, "what is summed")
        wide = {name: value.double() for name, value in change.items()}
        size = math.sqrt(sum(float(value.square().sum()) for value in wide.values()))
        if not math.isfinite(size):
            return
        factor = 1.0 if size <= self._norm else self._norm / size * _ROUNDING
        for name, value in wide.items():
            self._sums[name] += factor * value

    def total(self) -> dict[str, torch.Tensor]:
        """The sum before noise, float64. It must not be released."""
        return {name: value.clone() for name, value in self._sums.items()}

    def noised_mean(
        self, *, noise_multiplier: float, expected_cohort: float, noise: NoiseSource
    ) -> dict[str, torch.Tensor]:
        """The released mean, float32. Every call draws new noise over the same sum and is a release of its own.

        Args:
          noise_multiplier: sigma >= 0. Zero: no privacy (tests only).
          expected_cohort: m > 0, public.
          noise: where the noise comes from.

        Raises:
          ValueError: a number is out of its range.
        """
        if not (math.isfinite(noise_multiplier) and noise_multiplier >= 0):
            raise ValueError(f"{noise_multiplier=} must be finite and >= 0")
        if not (math.isfinite(expected_cohort) and expected_cohort > 0):
            raise ValueError(f"{expected_cohort=} must be finite and > 0")
        std = noise_multiplier * self._norm
        return {
            name: ((value + noise.normal(tuple(value.shape), std).double()) / expected_cohort).float()
            for name, value in self._sums.items()
        }


def private_reduction(
    method: Method,
    state: AdapterState,
    pairs: Iterable[tuple[AdapterState, AdapterState]],
    *,
    round_index: int,
    clipping_norm: float,
    noise_multiplier: float,
    expected_cohort: float,
    noise: NoiseSource,
) -> Reduction:
    """One round of a method under client-level privacy.

    Args:
      method: one whose row says yes to ``client_dp``, or any where the head alone is trained.
      state: the global state that the round started from.
      pairs: for each client that arrived, what it sent and what it started from of that, at its own rank. Smaller
        ranks are lifted to the global one as the method does; what a client does not hold it does not change.
      round_index: of the round.
      clipping_norm: C.
      noise_multiplier: sigma.
      expected_cohort: m.
      noise: where the noise comes from.

    Returns:
      the next state; ``relative_error`` 0, since no figure is computed from single updates.

    Raises:
      ValueError: an update does not fit the state.
    """
    start = method.trained_part(state, round_index)
    summed = ClippedSum(numbers(start), clipping_norm)
    count = 0
    for sent, began in pairs:
        lifted = [_lifted(method, state, part, round_index) for part in (sent, began)]
        summed.add(moves(*lifted))
        count += 1
    mean = summed.noised_mean(noise_multiplier=noise_multiplier, expected_cohort=expected_cohort, noise=noise)
    one = ClientUpdate(client_id="sum", weight=1.0, state=with_moves(start, mean))
    return Reduction(state=method.reduce(state, [one]).state, relative_error=0.0, num_clients=count)


def _lifted(method: Method, state: AdapterState, part: AdapterState, round_index: int) -> AdapterState:
    """What a client sends, in the coordinates of the global state: the method's own mean of this client alone."""
    alone = method.reduce(state, [ClientUpdate(client_id="one", weight=1.0, state=part)])
    return method.trained_part(alone.state, round_index)

"""The least noise that meets a target epsilon: RDP brackets, PLD refines, the result is re-checked."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

from privacy.accounting import epsilon_pld, epsilon_rdp
from privacy.errors import CalibrationError
from privacy.events import PoissonGaussianEvent

if TYPE_CHECKING:
    from collections.abc import Callable

LARGEST_NOISE_MULTIPLIER = 10_000.0
_SMALLEST_NOISE_MULTIPLIER = 0.05
_STEP = 10_000  # the result is a multiple of 1 / _STEP
_CLOSE_ENOUGH = 0.998  # stop when epsilon lies in [0.998, 1] * target


@lru_cache(maxsize=256)
def calibrate_noise_multiplier(
    target_epsilon: float, target_delta: float, sampling_rate: float, num_steps: int
) -> float:
    """Return the least noise multiplier (within 0.3 %) for which all steps together meet the target.

    Args:
      target_epsilon: > 0, finite; for the whole run.
      target_delta: in (0, 1).
      sampling_rate: in (0, 1], of each step.
      num_steps: of the whole run, >= 1.

    Returns:
      A multiple of 1e-4, rounded up, whose ``epsilon_pld``, computed with the very number returned, is at
      most ``target_epsilon``. At least 0.05, however loose the target. For targets of 0.002 and less the grid of PLD is
      coarse beside them, and the result may be some percent above the least.

    Raises:
      CalibrationError: even ``LARGEST_NOISE_MULTIPLIER`` does not reach the target.
      ValueError: an argument is outside its range.
    """
    if not (
        0 < target_epsilon < math.inf and 0 < target_delta < 1 and 0 < sampling_rate <= 1 and num_steps >= 1
    ):
        raise ValueError(
            "need target_epsilon > 0, target_delta in (0, 1), sampling_rate in (0, 1], num_steps >= 1, not "
            f"{target_epsilon!r}, {target_delta!r}, {sampling_rate!r}, {num_steps!r}"
        )

    def event(noise_multiplier: float) -> list[PoissonGaussianEvent]:
        return [
            PoissonGaussianEvent(
                noise_multiplier=noise_multiplier, sampling_rate=sampling_rate, num_steps=num_steps
            )
        ]

    def rdp(noise_multiplier: float) -> float:
        return epsilon_rdp(event(noise_multiplier), target_delta)

    def pld(noise_multiplier: float) -> float:
        return epsilon_pld(event(noise_multiplier), target_delta)

    upper = _bracket_by_rdp(rdp, target_epsilon)
    if pld(upper) > target_epsilon:
        raise CalibrationError(_unreachable(target_epsilon))
    noise = _round_up(_refine_by_pld(pld, target_epsilon, upper))
    while pld(noise) > target_epsilon:
        noise = _round_up(1.01 * noise + 1 / _STEP)
        if noise > LARGEST_NOISE_MULTIPLIER:
            raise CalibrationError(_unreachable(target_epsilon))
    return noise


def _unreachable(target_epsilon: float) -> str:
    return (
        f"no noise multiplier up to {LARGEST_NOISE_MULTIPLIER:g} reaches epsilon {target_epsilon:g}; use "
        "fewer steps, a lower sampling rate, a larger delta or a larger target"
    )


def _round_up(noise_multiplier: float) -> float:
    # The subtraction keeps an exact multiple of 1 / _STEP where it is.
    return math.ceil(noise_multiplier * _STEP - 1e-6) / _STEP


def _bracket_by_rdp(rdp: Callable[[float], float], target_epsilon: float) -> float:
    """A noise multiplier that meets the target by RDP, within 0.5 % of the least such; the largest where none does.

    However much noise there is, the conversion from Renyi divergences to epsilon leaves a floor, about
    ``-log(delta largest_order) / largest_order``; a target below it is PLD's to meet.
    """
    upper = 1.0
    while rdp(upper) > target_epsilon:
        upper *= 2
        if upper > LARGEST_NOISE_MULTIPLIER:
            return LARGEST_NOISE_MULTIPLIER
    lower = upper / 2
    while lower > _SMALLEST_NOISE_MULTIPLIER and rdp(lower) <= target_epsilon:
        upper, lower = lower, lower / 2
    while upper / lower > 1.005:
        middle = math.sqrt(lower * upper)
        lower, upper = (lower, middle) if rdp(middle) <= target_epsilon else (middle, upper)
    return max(upper, _SMALLEST_NOISE_MULTIPLIER)


def _refine_by_pld(pld: Callable[[float], float], target_epsilon: float, upper: float) -> float:
    """Lower ``upper`` while PLD stays within the target: secant steps on log noise against log epsilon.

    A step that lands above the target becomes the lower end and the secant goes on, so the result always
    meets it.
    """
    lower, lower_epsilon = 0.0, math.inf
    upper_epsilon = pld(upper)
    for _ in range(8):
        if upper_epsilon >= _CLOSE_ENOUGH * target_epsilon or upper <= _SMALLEST_NOISE_MULTIPLIER:
            break
        aim = 0.9995 * target_epsilon
        if lower and math.isfinite(lower_epsilon) and upper_epsilon > 0:
            slope = math.log(upper_epsilon / lower_epsilon) / math.log(upper / lower)
        else:
            slope = -1.3
        ratio = (aim / max(upper_epsilon, 1e-3 * target_epsilon)) ** (1 / slope)
        middle = max(upper * ratio, _SMALLEST_NOISE_MULTIPLIER, 0.5 * upper)
        if not lower < middle < upper:
            middle = 0.5 * (lower + upper)
        epsilon = pld(middle)
        if epsilon <= target_epsilon:
            upper, upper_epsilon = middle, epsilon
        else:
            lower, lower_epsilon = middle, epsilon
    return upper

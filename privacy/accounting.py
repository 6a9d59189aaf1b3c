"""Epsilon of a list of privacy events, by two accountants that share no code.

Neighbours differ by adding or removing one unit, which the events name. Both results are upper bounds: they never
under-report. Events of different units have no common epsilon: one that protects examples says nothing about persons.
Together they cost infinity; ``privacy.events.of_unit`` takes them apart.

  * ``epsilon_pld``: privacy loss distributions (Koskela et al. 2020, https://arxiv.org/abs/1906.03049;
    Doroshenko et al. 2022, https://arxiv.org/abs/2207.04380) by ``dp_accounting``, rounded pessimistically
    on a fixed grid. The figure that is reported.
  * ``epsilon_rdp``: Renyi DP at integer orders, written here from the formula. Looser, fast, and the
    independent check.

No torch, no clock, no files.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from dp_accounting import NeighboringRelation
from dp_accounting.pld.privacy_loss_distribution import (
    PrivacyLossDistribution,
    from_gaussian_mechanism,
    identity,
)
from scipy.special import gammaln

from privacy.events import Event, PoissonGaussianEvent

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# Grid of the privacy loss: the rounding is pessimistic, so a coarse grid costs tightness, never soundness.
# Each step may lose up to one grid cell, hence a finer one for many steps and for a small epsilon.
_PLD_INTERVAL = 1e-3
_PLD_FINE_INTERVAL = 1e-4
_PLD_FINE_STEPS = 5_000
_PLD_FINE_EPSILON = 0.5
# Above this the RDP bound is returned: the distribution's grid would grow without limit and the figure means
# nothing.
PLD_LARGEST_EPSILON = 100.0
# Outside of this range the square of a noise multiplier, or its inverse, is no float any more.
_LEAST_NOISE, _MOST_NOISE = 1e-140, 1e140
_PLD_MOST_NOISE = 1e7  # more noise than this is taken for this: an upper bound, which is zero in the grid
# The grid widens by up to a cell a step: of more steps than this the RDP bound is returned, which takes no memory.
PLD_MOST_STEPS = 1_000_000

_ORDERS = (*range(2, 65), *(int(2 ** (6 + i / 6)) for i in range(1, 37)))

_Rows = tuple[tuple[float, float, int], ...]


def epsilon_pld(events: Iterable[Event], target_delta: float) -> float:
    """Return the epsilon of all events together (tight).

    Args:
      events: what was charged; order does not matter. Equal rows are grouped before composing.
      target_delta: in (0, 1).

    Returns:
      Epsilon >= 0. Zero for no events; infinite for an unknown event, one without noise, or several units. Where
      the RDP bound is above ``PLD_LARGEST_EPSILON``, or of more than ``PLD_MOST_STEPS`` steps, that bound is returned.

    Raises:
      ValueError: ``target_delta`` is outside (0, 1).
    """
    rows = _grouped(events)
    _check_delta(target_delta)
    return math.inf if rows is None else _pld_of_rows(rows, target_delta)


def epsilon_rdp(events: Iterable[Event], target_delta: float) -> float:
    """Return the epsilon of all events together by Renyi DP: looser than PLD and independent of it.

    For the Poisson-subsampled Gaussian at integer order a (Mironov, Talwar, Zhang 2019,
    https://arxiv.org/abs/1908.10530, section 3.3)::

      rdp(a) = 1/(a-1) * log sum_k C(a,k) (1-q)^(a-k) q^k exp(k(k-1) / (2 sigma^2))

    and ``epsilon = min_a rdp(a) + log(1 - 1/a) - (log delta + log a) / (a - 1)`` (Canonne, Kamath, Steinke
    2020, https://arxiv.org/abs/2004.00010, proposition 12).

    Args:
      events: what was charged; order does not matter.
      target_delta: in (0, 1).

    Returns:
      Epsilon >= 0; infinite for an unknown event, one without noise, or several units.

    Raises:
      ValueError: ``target_delta`` is outside (0, 1).
    """
    rows = _grouped(events)
    _check_delta(target_delta)
    return math.inf if rows is None else _rdp_of_rows(rows, target_delta)


def would_exceed(spent_events: Iterable[Event], event: Event, limit: float, target_delta: float) -> bool:
    """Say whether charging ``event`` on top of ``spent_events`` takes epsilon over ``limit``.

    Args:
      spent_events: everything reserved or spent so far.
      event: the next charge.
      limit: the epsilon limit. Reaching it exactly is allowed. NaN and an infinite epsilon are refused.
      target_delta: in (0, 1).

    Returns:
      True: refuse. Decided by RDP when that bound is already within the limit (sound), else by PLD.
    """
    events = [*spent_events, event]
    if epsilon_rdp(events, target_delta) <= limit < math.inf:
        return False
    epsilon = epsilon_pld(events, target_delta)
    return not (math.isfinite(epsilon) and epsilon <= limit)


def _check_delta(target_delta: float) -> None:
    if not 0 < target_delta < 1:
        raise ValueError(f"target_delta must lie in (0, 1), not {target_delta!r}")


def _grouped(events: Iterable[Event]) -> _Rows | None:
    """Sum the steps of equal (noise, rate); None: some event has no finite epsilon, or the units differ."""
    steps: dict[tuple[float, float], int] = {}
    units = set()
    for event in events:
        if not isinstance(event, PoissonGaussianEvent):
            return None
        if event.num_steps == 0 or event.sampling_rate == 0:
            continue
        if event.noise_multiplier == 0:
            return None
        units.add(event.unit)
        key = (float(event.noise_multiplier), float(event.sampling_rate))
        steps[key] = steps.get(key, 0) + event.num_steps
    if len(units) > 1:
        return None
    return tuple(sorted((noise, rate, count) for (noise, rate), count in steps.items()))


@lru_cache(maxsize=1024)
def _pld_of_rows(rows: _Rows, target_delta: float) -> float:
    if not rows:
        return 0.0
    bound = _rdp_of_rows(rows, target_delta)
    if bound > PLD_LARGEST_EPSILON or sum(count for _, _, count in rows) > PLD_MOST_STEPS:
        return bound
    fine = bound < _PLD_FINE_EPSILON or sum(count for _, _, count in rows) > _PLD_FINE_STEPS
    composed = _composed(rows, _PLD_FINE_INTERVAL if fine else _PLD_INTERVAL)
    return float(composed.get_epsilon_for_delta(target_delta))


@lru_cache(maxsize=2)  # the same events are asked for at several deltas, one after the other
def _composed(rows: _Rows, interval: float) -> PrivacyLossDistribution:
    """What ``dp_accounting``'s own ``PLDAccountant`` composes, call for call; steps that are known are kept."""
    composed = identity(value_discretization_interval=interval)
    for noise, rate, count in rows:
        deviation = min(noise, _PLD_MOST_NOISE)
        if rate == 1:
            composed = composed.compose(_of_step(deviation / math.sqrt(count), 1.0, interval))
        else:
            composed = composed.compose(_of_step(deviation, rate, interval).self_compose(count))
    return composed


@lru_cache(maxsize=4)  # a curve over time asks for the same step, composed ever more often
def _of_step(deviation: float, rate: float, interval: float) -> PrivacyLossDistribution:
    return from_gaussian_mechanism(
        standard_deviation=deviation,
        value_discretization_interval=interval,
        sampling_prob=rate,
        neighboring_relation=NeighboringRelation.ADD_OR_REMOVE_ONE,
    )


@lru_cache(maxsize=1024)
def _rdp_of_rows(rows: _Rows, target_delta: float) -> float:
    if not rows:
        return 0.0
    orders = np.asarray(_ORDERS, dtype=np.float64)
    rdp = np.zeros_like(orders)
    for noise, rate, count in rows:
        rdp += count * _rdp_at_all_orders(noise, rate)
    epsilons = rdp + np.log1p(-1 / orders) - (math.log(target_delta) + np.log(orders)) / (orders - 1)
    best = float(np.min(epsilons))
    return (
        math.inf if math.isnan(best) else max(0.0, best)
    )  # max(0.0, nan) is 0.0: what is not known costs all


@lru_cache(maxsize=256)
def _rdp_at_all_orders(
    noise_multiplier: float, sampling_rate: float
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.asarray(rdp_of_step(noise_multiplier, sampling_rate, _ORDERS))


def rdp_of_step(noise_multiplier: float, sampling_rate: float, orders: Sequence[int]) -> list[float]:
    """Return the Renyi divergence of one step of the Poisson-subsampled Gaussian, at each order.

    Args:
      noise_multiplier: > 0.
      sampling_rate: in (0, 1].
      orders: integers >= 2.

    Returns:
      One value >= 0 for each order; the formula stands at ``epsilon_rdp``. Infinite where the noise is below 1e-140;
      above 1e140 it is taken for 1e140, an upper bound.
    """
    if noise_multiplier < _LEAST_NOISE:
        return [math.inf] * len(orders)
    noise_multiplier = min(noise_multiplier, _MOST_NOISE)
    if sampling_rate == 1:
        return [order / (2 * noise_multiplier**2) for order in orders]
    log_rate, log_rest = math.log(sampling_rate), math.log1p(-sampling_rate)
    values = []
    for order in orders:
        k, log_binomial = _binomials(order)
        terms = log_binomial + k * log_rate + (order - k) * log_rest + k * (k - 1) / (2 * noise_multiplier**2)
        largest = float(terms.max())
        values.append((largest + math.log(float(np.exp(terms - largest).sum()))) / (order - 1))
    return values


@lru_cache(maxsize=256)
def _binomials(order: int) -> tuple[np.ndarray[tuple[int], np.dtype[np.float64]], ...]:
    """``k = 0..order`` and ``log C(order, k)``, each of shape (order + 1,)."""
    k = np.arange(order + 1, dtype=np.float64)
    return k, np.asarray(gammaln(order + 1) - gammaln(k + 1) - gammaln(order - k + 1))

"""Epsilon is pinned to published figures, grows with what is spent, and both accountants agree on the side of
caution.
"""

from __future__ import annotations

import math

import pytest

from privacy.accounting import PLD_LARGEST_EPSILON, epsilon_pld, epsilon_rdp, would_exceed
from privacy.events import PoissonGaussianEvent
from privacy.ledger.vectors import rdp_vector


def event(noise=1.0, rate=0.064, steps=200) -> PoissonGaussianEvent:
    return PoissonGaussianEvent(noise_multiplier=noise, sampling_rate=rate, num_steps=steps)


@pytest.mark.parametrize(
    ("spent", "delta", "low", "high"),
    [
        (event(1.1, 256 / 60_000, 14_100), 1e-5, 2.380, 2.395),  # the MNIST setting of the DP-SGD tutorials
        (event(), 1e-5, 6.180, 6.183),
        (event(), 1e-3, 4.207, 4.209),
        (event(1.0, 1.0, 1), 1e-5, 4.375, 4.379),  # the Gaussian mechanism, Balle and Wang 2018
    ],
)
def test_epsilon_is_the_known_figure(spent, delta, low, high):
    assert low <= epsilon_pld([spent], delta) <= high


def test_the_gaussian_mechanism_agrees_with_its_closed_form():
    # Balle and Wang 2018, theorem 8: delta = Phi(1/(2s) - eps s) - e^eps Phi(-1/(2s) - eps s).
    from scipy.stats import norm

    epsilon = epsilon_pld([event(1.0, 1.0, 1)], 1e-5)
    delta = norm.cdf(0.5 - epsilon) - math.exp(epsilon) * norm.cdf(-0.5 - epsilon)
    assert delta <= 1e-5
    assert delta == pytest.approx(1e-5, rel=0.02)


@pytest.mark.parametrize(
    "events",
    [
        [event()],
        [event(1.1, 256 / 60_000, 1_000)],
        [event(4.0, 1.0, 1), event(1.2, 0.064, 40), event(0.9, 0.05, 40)],
        [event(2.0, 0.5, 50)],
        [event(0.7, 0.01, 300)],
    ],
)
@pytest.mark.parametrize("delta", [1e-3, 1e-5, 1e-7])
def test_pld_is_below_rdp_and_not_far_below(events, delta):
    tight, loose = epsilon_pld(events, delta), epsilon_rdp(events, delta)
    assert tight <= loose <= 1.8 * tight


def test_epsilon_grows_with_steps_and_rate_and_falls_with_noise():
    for epsilon in (epsilon_pld, epsilon_rdp):
        base = epsilon([event()], 1e-5)
        assert epsilon([event(steps=201)], 1e-5) > base
        assert epsilon([event(rate=0.065)], 1e-5) > base
        assert epsilon([event(noise=1.01)], 1e-5) < base
        assert epsilon([event()], 1e-6) > base


def test_equal_rows_are_one_row_and_order_does_not_matter():
    rounds = [event(steps=40), event(noise=2.0), *[event(steps=40)] * 4]
    assert epsilon_pld(rounds, 1e-5) == epsilon_pld([event(noise=2.0), event(steps=200)], 1e-5)
    assert epsilon_rdp(rounds, 1e-5) == epsilon_rdp(rounds[::-1], 1e-5)


def test_retried_rounds_are_charged():
    assert epsilon_pld([event(steps=260)], 1e-5) == pytest.approx(7.04, abs=0.02)


@pytest.mark.parametrize("epsilon", [epsilon_pld, epsilon_rdp])
def test_the_edges(epsilon):
    assert epsilon([], 1e-5) == 0
    assert epsilon([event(steps=0), event(rate=0.0), event(noise=0.0, steps=0)], 1e-5) == 0
    assert epsilon([event(noise=0.0)], 1e-5) == math.inf
    for delta in (0.0, 1.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="target_delta"):
            epsilon([event()], delta)


def test_hardly_any_noise_is_answered_at_once_by_the_looser_bound():
    value = epsilon_pld([event(noise=0.01)], 1e-5)
    assert PLD_LARGEST_EPSILON < value < math.inf


def test_the_limit_holds_at_its_edge():
    spent = [event(steps=160)]
    exact = epsilon_pld([event(steps=200)], 1e-5)
    assert not would_exceed(spent, event(steps=40), exact, 1e-5)
    assert would_exceed(spent, event(steps=40), exact - 1e-6, 1e-5)
    assert not would_exceed(spent, event(steps=40), 100.0, 1e-5)
    assert would_exceed(spent, event(noise=0.0), math.inf, 1e-5)
    assert would_exceed(spent, event(), math.nan, 1e-5)
    assert not would_exceed(spent, event(), math.inf, 1e-5)


@pytest.mark.parametrize("rate", [1e-300, 0.064, 1 - 1e-16, 1.0])
@pytest.mark.parametrize("noise", [5e-324, 1e-200, 1e-160, 1e-141])
def test_noise_too_small_to_be_squared_costs_infinity(noise, rate):
    spent = [event(noise, rate, 1)]
    assert epsilon_rdp(spent, 1e-5) == math.inf
    assert epsilon_pld(spent, 1e-5) == math.inf
    assert would_exceed([], spent[0], 1e9, 1e-5)
    assert rdp_vector(spent[0]) is None


@pytest.mark.parametrize("rate", [1e-300, 0.064, 1.0])
def test_noise_too_large_to_be_squared_costs_next_to_nothing(rate):
    spent = [event(1e200, rate, 10)]
    assert 0 <= epsilon_pld(spent, 1e-5) <= epsilon_rdp(spent, 1e-5) < 0.001
    assert not would_exceed([], spent[0], 0.001, 1e-5)
    assert rdp_vector(spent[0]) is not None


def test_a_count_of_steps_that_would_fill_the_memory_is_answered_at_once_by_the_looser_bound():
    many = [event(noise=1e4, rate=0.5, steps=10**10)]  # minutes and gigabytes as a distribution
    assert epsilon_pld(many, 1e-5) == epsilon_rdp(many, 1e-5) < PLD_LARGEST_EPSILON
    few = [event(noise=100.0, rate=0.5, steps=1000)]
    assert epsilon_pld(few, 1e-5) < epsilon_rdp(few, 1e-5)  # control

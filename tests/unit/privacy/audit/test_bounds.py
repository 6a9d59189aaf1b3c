"""Lower bounds from attacks, held to closed forms, published figures and another library."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom, norm

from privacy.accounting import epsilon_pld
from privacy.audit.bounds import (
    clopper_pearson_upper,
    epsilon_of_gaussian,
    gaussian_mu_lower_bound,
    one_run_epsilon,
    one_run_p_value,
)
from privacy.events import PoissonGaussianEvent


def bound(canaries, guesses, correct, delta=1e-5, p=0.05):
    return one_run_epsilon(canaries=canaries, guesses=guesses, correct=correct, delta=delta, p=p)


@pytest.mark.parametrize("guesses", [10, 50, 200, 1000])
def test_without_delta_the_ceiling_is_the_closed_form(guesses):
    rate = 0.05 ** (1 / guesses)  # all right: q^r = p
    assert bound(guesses, guesses, guesses, delta=0.0) == pytest.approx(math.log(rate / (1 - rate)), abs=1e-6)


@pytest.mark.parametrize(
    ("guesses", "ceiling"), [(10, 1.05), (50, 2.78), (100, 3.49), (200, 4.19), (1000, 5.78)]
)
def test_the_ceiling_when_every_guess_is_right(guesses, ceiling):
    assert bound(guesses, guesses, guesses) == pytest.approx(ceiling, abs=0.006)


@pytest.mark.parametrize(
    ("correct", "epsilon"), [(120, 0.16), (130, 0.37), (150, 0.82), (170, 1.40), (190, 2.39), (200, 4.17)]
)
def test_the_bound_of_two_hundred_guesses_among_a_thousand(correct, epsilon):
    assert bound(1000, 200, correct) == pytest.approx(epsilon, abs=0.006)


def test_a_claim_of_eight_is_out_of_reach_of_a_thousand_canaries():
    assert bound(1000, 1000, 1000) < 8


def test_guessing_by_coin_proves_nothing():
    assert bound(1000, 200, 100) == 0.0
    assert bound(1000, 0, 0) == 0.0


def test_the_bound_is_refuted_just_below_and_not_just_above():
    epsilon = bound(1000, 200, 170)
    common = {"canaries": 1000, "guesses": 200, "correct": 170, "delta": 1e-5}
    assert one_run_p_value(**common, epsilon=epsilon - 1e-6) <= 0.05
    assert one_run_p_value(**common, epsilon=epsilon + 1e-6) > 0.05


def test_a_mechanism_at_the_limit_is_accused_no_oftener_than_stated():
    """Randomised response at epsilon 1: each guess is right with probability e / (1 + e)."""
    rng = np.random.default_rng(0)
    correct = rng.binomial(200, math.e / (1 + math.e), size=400)
    accused = sum(bound(200, 200, int(v), delta=0.0) > 1.0 for v in correct)
    assert accused <= binom.ppf(0.999, 400, 0.05)
    assert accused > 0  # positive control: it is no bound that never speaks


@pytest.mark.parametrize(
    "change",
    [{"correct": 5}, {"guesses": 11, "correct": 11}, {"epsilon": -1}, {"delta": 2.0}, {"correct": -1}],
)
def test_meaningless_numbers_are_refused(change):
    good = {"canaries": 10, "guesses": 4, "correct": 4, "epsilon": 0.0, "delta": 0.0}
    with pytest.raises(ValueError, match="need"):
        one_run_p_value(**{**good, **change})


@pytest.mark.parametrize(("errors", "trials"), [(0, 100), (3, 100), (50, 100), (100, 100)])
def test_the_interval_of_a_rate_is_exact(errors, trials):
    upper = clopper_pearson_upper(errors, trials, 0.05)
    if errors == trials:
        assert upper == 1.0
    else:
        assert binom.cdf(errors, trials, upper) == pytest.approx(0.05, rel=1e-6)


@pytest.mark.parametrize(("errors", "trials"), [(-1, 5), (6, 5), (0, 0)])
def test_a_rate_of_nothing_is_refused(errors, trials):
    with pytest.raises(ValueError, match="need"):
        clopper_pearson_upper(errors, trials, 0.05)


def test_mu_is_bounded_by_the_rates_of_the_gaussian_test():
    wrong = round(1_000_000 * norm.cdf(-0.5))  # the best test of a 1-GDP mechanism errs so often on each side
    counts = {
        "false_positives": wrong,
        "negatives": 1_000_000,
        "false_negatives": wrong,
        "positives": 1_000_000,
    }
    assert 0.99 < gaussian_mu_lower_bound(**counts, p=0.05) < 1.0
    all_wrong = {**counts, "false_positives": 1_000_000}
    assert gaussian_mu_lower_bound(**all_wrong, p=0.05) == 0.0


@pytest.mark.parametrize(("mu", "delta"), [(0.25, 1e-5), (1.0, 1e-5), (2.0, 1e-3)])
def test_epsilon_of_a_gaussian_agrees_with_the_accountant(mu, delta):
    event = PoissonGaussianEvent(noise_multiplier=1 / mu, sampling_rate=1.0, num_steps=1)
    assert epsilon_of_gaussian(mu, delta) == pytest.approx(epsilon_pld([event], delta), abs=3e-3)


def test_epsilon_of_nothing_is_zero_and_of_nonsense_an_error():
    assert epsilon_of_gaussian(0.0, 1e-5) == 0.0
    assert epsilon_of_gaussian(1e-9, 0.5) == 0.0
    with pytest.raises(ValueError, match="need"):
        epsilon_of_gaussian(-1.0, 1e-5)
    with pytest.raises(ValueError, match="need"):
        epsilon_of_gaussian(1.0, 0.0)

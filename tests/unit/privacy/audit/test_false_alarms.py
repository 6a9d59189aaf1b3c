"""How often the audit accuses the right mechanism: stated, and the statement held against draws."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.stats import binom

from privacy.audit.canary import CanaryPlan, run_canary_audit
from privacy.audit.controls import FALSE_MECHANISMS, honest
from privacy.audit.false_alarms import _most_right, false_alarms, one_run_alarm, tells_apart_alarm
from privacy.audit.mechanism import (
    NUM_CHECKS,
    _independence,
    _noise_size,
    _tells_apart,
    check_mechanism,
)
from privacy.noise import SeededNoise

RUNS = 40
SIZES = [(1000, CanaryPlan(canaries=1000, guesses=200)), (2000, CanaryPlan())]


def in_forty_runs(trials, plan, confidence):
    return false_alarms(trials=trials, noise_multiplier=1.0, confidence=confidence, plan=plan).in_runs(RUNS)


@pytest.mark.parametrize(("trials", "plan"), SIZES)
def test_the_chance_of_any_false_alarm_in_forty_runs_is_below_one_percent(trials, plan):
    used = check_mechanism(honest, SeededNoise(0), trials=100).confidence
    assert in_forty_runs(trials, plan, used) < 0.01


@pytest.mark.parametrize(("trials", "plan"), SIZES)
def test_three_checks_at_0_999_each_would_not_do(trials, plan):
    """Positive control: at the level of before, one series of forty in twelve accused the right mechanism."""
    assert 0.07 < in_forty_runs(trials, plan, 0.997) < 0.09


def test_a_one_run_audit_with_a_claim_that_is_too_small_is_counted_as_alarms():
    """Positive control: few guesses are noisy, and the statement says so."""
    assert one_run_alarm(CanaryPlan(canaries=100, guesses=20)) > 100 * one_run_alarm(SIZES[0][1])
    lax = dataclasses.replace(SIZES[0][1], confidence=0.2)
    assert one_run_alarm(lax) > 100 * one_run_alarm(SIZES[0][1])


@pytest.mark.parametrize(("check", "stated"), [(_noise_size, 0.1), (_independence, 0.1)])
def test_a_check_accuses_ideal_noise_as_often_as_is_stated(check, stated):
    draws, runs = np.random.default_rng(7), 3000
    accused = sum(not check(draws.normal(0, 0.5, (60, 6)), 0.5, stated).holds for _ in range(runs))
    low, high = binom.ppf([0.001, 0.999], runs, stated)
    assert 0.8 * low <= accused <= high  # the halves of the correlation are added up, hence the room below
    worse = sum(not check(draws.normal(0, 0.5, (60, 6)), 0.5, 2 * stated).holds for _ in range(runs))
    assert worse > high


def test_the_attack_on_single_steps_accuses_as_often_as_the_sum_says():
    draws, runs, trials, p = np.random.default_rng(8), 4000, 200, 0.6
    stated = tells_apart_alarm(trials, 1.0, p)
    accused = sum(
        not _tells_apart(draws.normal(0, 1, trials), draws.normal(1, 1, trials), 1.0, 1.0, p).holds
        for _ in range(runs)
    )
    low, high = binom.ppf([0.001, 0.999], runs, stated)
    assert 0.05 < stated < p
    assert low <= accused <= high


def test_no_attack_is_right_oftener_than_the_bound_says():
    plan = CanaryPlan(canaries=1000, guesses=200)
    most = _most_right(plan, 0.1)
    assert 0.5 < most < 0.7
    told = [run_canary_audit(honest, SeededNoise(n), plan) for n in range(3)]
    guessed = len(told) * plan.guesses
    assert sum(run.correct_by_sum for run in told) <= binom.ppf(0.9999, guessed, most)
    quarter = run_canary_audit(FALSE_MECHANISMS["a quarter of the noise"], SeededNoise(0), plan)
    assert quarter.correct_by_sum > binom.ppf(0.9999, plan.guesses, most)  # a false one is


@pytest.mark.parametrize("name", FALSE_MECHANISMS)
def test_a_false_mechanism_is_caught_with_room_at_the_stricter_level(name):
    """A tenth of the usual steps is enough: the level costs no power that was used."""
    report = check_mechanism(FALSE_MECHANISMS[name], SeededNoise(1), trials=100)
    assert not report.holds
    assert (1 - report.confidence) / NUM_CHECKS < 1e-4

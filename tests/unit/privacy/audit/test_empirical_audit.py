"""The audit lets the right mechanism pass and catches every false one: its own positive controls."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from scipy.stats import binom

from privacy.audit.canary import CanaryPlan, run_canary_audit
from privacy.audit.controls import FALSE_MECHANISMS, Setup, honest
from privacy.audit.mechanism import check_mechanism
from privacy.audit.probe import LinearProbe
from privacy.noise import SeededNoise, SystemNoise

SMALL = CanaryPlan(canaries=1000, guesses=200)


@pytest.mark.parametrize("positions", [1, 2, 3])
def test_the_probe_reads_the_clipped_sum(positions):
    setup = Setup(clipping_norm=1.0, noise_multiplier=0.0, expected_batch_size=7.0)
    probe = LinearProbe(3, honest, setup, SeededNoise(0), positions=positions)
    gradients = torch.tensor([[0.5, 0.0, 0.0], [0.0, 20.0, 0.0], [0.0, 0.0, 0.25]])
    assert torch.allclose(probe.noised_sum(gradients), torch.tensor([0.5, 1.0, 0.25]), atol=1e-5)
    assert torch.allclose(probe.noised_sum(gradients[:0]), torch.zeros(3))
    probe.close()


def test_the_right_mechanism_passes_the_mechanism_test():
    report = check_mechanism(honest, SeededNoise(1))
    assert report.holds, report.checks
    mu = report.checks[0]
    assert 0.7 < mu.measured <= mu.bound == 1.0  # tight, not merely small


@pytest.mark.parametrize("name", FALSE_MECHANISMS)
def test_a_false_mechanism_is_caught_by_the_mechanism_test(name):
    assert not check_mechanism(FALSE_MECHANISMS[name], SeededNoise(1), trials=1000).holds


def test_each_check_of_the_mechanism_test_catches_something():
    failed = set()
    for build in FALSE_MECHANISMS.values():
        report = check_mechanism(build, SeededNoise(2), trials=500)
        failed |= {check.name for check in report.checks if not check.holds}
    assert failed == {check.name for check in check_mechanism(honest, SeededNoise(2), trials=50).checks}


def test_the_right_mechanism_stays_under_its_claim():
    report = run_canary_audit(honest, SeededNoise(3), SMALL)
    assert report.holds
    assert report.epsilon_lower_bound <= 0.5 < report.claim < 1.0 < report.ceiling


@pytest.mark.parametrize("name", FALSE_MECHANISMS)
def test_a_false_mechanism_is_caught_by_one_run_at_a_small_claim(name):
    report = run_canary_audit(FALSE_MECHANISMS[name], SeededNoise(3), SMALL)
    assert report.epsilon_lower_bound > report.claim
    assert not report.holds


def test_noise_that_repeats_is_seen_only_in_the_differences():
    report = run_canary_audit(FALSE_MECHANISMS["the same noise in every step"], SeededNoise(4), SMALL)
    assert report.correct_by_sum < 0.7 * SMALL.guesses
    assert report.correct_by_difference == SMALL.guesses


def test_a_claim_above_the_ceiling_can_not_be_refuted_even_without_noise():
    loose = dataclasses.replace(SMALL, noise_multiplier=0.8)
    assert loose.claim > loose.ceiling
    report = run_canary_audit(FALSE_MECHANISMS["no noise"], SeededNoise(0), loose)
    assert report.correct_by_sum == loose.guesses
    assert report.holds  # which is why the audit says its ceiling


def test_the_coins_of_the_canaries_are_seeded_and_the_noise_is_not():
    tiny = CanaryPlan(canaries=300, guesses=60, steps=20)
    seeded = [run_canary_audit(honest, SeededNoise(5), tiny) for _ in range(2)]
    assert seeded[0] == seeded[1]
    right = {run_canary_audit(honest, SystemNoise(), tiny).correct_by_sum for _ in range(8)}
    assert len(right) > 1


@pytest.mark.slow
def test_the_right_mechanism_is_accused_no_oftener_than_stated():
    runs = 60
    accused = sum(not run_canary_audit(honest, SystemNoise(), SMALL).holds for _ in range(runs))
    assert accused <= binom.ppf(0.999, runs, 1 - SMALL.confidence)
    mechanism = sum(not check_mechanism(honest, SystemNoise(), trials=500).holds for _ in range(runs))
    assert mechanism <= binom.ppf(0.999, runs, 1e-4)

"""The calibrated noise, as it is written down, meets the target and wastes little."""

from __future__ import annotations

import time

import pytest

from privacy.accounting import epsilon_pld, epsilon_rdp
from privacy.calibration import calibrate_noise_multiplier
from privacy.errors import CalibrationError
from privacy.events import PoissonGaussianEvent, event_from_json

CASES = [
    (8.0, 1e-5, 0.064, 200),
    (1.0, 1e-5, 0.064, 200),
    (3.0, 1e-5, 0.02, 1_000),
    (0.1, 1e-5, 0.05, 100),
    (8.0, 1e-5, 1.0, 50),
    (2.0, 1e-6, 256 / 60_000, 14_100),
    (0.01, 1e-5, 0.01, 100),
]


@pytest.mark.parametrize("case", CASES)
def test_the_noise_as_stored_gives_at_most_the_target_and_nearly_all_of_it(case):
    epsilon, delta, rate, steps = case
    noise = float(repr(calibrate_noise_multiplier(*case)))
    spent = PoissonGaussianEvent(noise_multiplier=noise, sampling_rate=rate, num_steps=steps)
    reached = epsilon_pld([event_from_json(spent.to_json())], delta)
    assert 0.99 * epsilon <= reached <= epsilon
    assert noise == round(noise, 4)


def test_calibration_answers_within_three_seconds():
    started = time.process_time()
    calibrate_noise_multiplier(7.9, 1e-5, 0.065, 210)
    assert time.process_time() - started < 3


def test_a_tighter_target_needs_more_noise():
    assert calibrate_noise_multiplier(4.0, 1e-5, 0.064, 200) > calibrate_noise_multiplier(
        8.0, 1e-5, 0.064, 200
    )


def test_a_loose_target_still_gets_some_noise():
    assert calibrate_noise_multiplier(1e6, 1e-5, 0.1, 1) >= 0.05


@pytest.mark.parametrize("case", [(3e-4, 1e-5, 0.01, 10), (3e-4, 1e-5, 1.0, 1), (2e-3, 1e-10, 0.01, 100)])
def test_a_target_that_the_renyi_bound_never_reaches_is_met_by_pld(case):
    epsilon, delta, rate, steps = case
    noise = calibrate_noise_multiplier(*case)
    spent = [PoissonGaussianEvent(noise_multiplier=noise, sampling_rate=rate, num_steps=steps)]
    assert 0.9 * epsilon <= epsilon_pld(spent, delta) <= epsilon
    endless = [PoissonGaussianEvent(noise_multiplier=1e9, sampling_rate=rate, num_steps=steps)]
    assert epsilon_rdp(endless, delta) > epsilon  # however much noise: the bound has a floor


def test_an_unreachable_target_says_what_to_change():
    with pytest.raises(CalibrationError, match="fewer steps"):
        calibrate_noise_multiplier(1e-4, 1e-9, 1.0, 10**6)


@pytest.mark.parametrize(
    "bad", [(0, 1e-5, 0.1, 1), (1, 0, 0.1, 1), (1, 1e-5, 0, 1), (1, 1e-5, 0.1, 0), (1, 1, 1, 1)]
)
def test_arguments_out_of_range_are_refused(bad):
    with pytest.raises(ValueError, match="need target_epsilon"):
        calibrate_noise_multiplier(*bad)

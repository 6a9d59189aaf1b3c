"""Our composition of privacy loss distributions is the accountant's of ``dp_accounting``, to the last bit."""

import math
import random

import pytest
from dp_accounting import GaussianDpEvent, NeighboringRelation, PoissonSampledDpEvent
from dp_accounting.pld import PLDAccountant

from privacy import accounting
from privacy.accounting import epsilon_pld, epsilon_rdp
from privacy.events import PoissonGaussianEvent

KINDS = [(0.8, 0.02), (1.1, 0.1), (3.0, 0.5), (2.0, 1.0), (5.0, 1.0), (40.0, 0.01)]
DELTAS = [1e-3, 1e-5, 1e-7]


def theirs(events, delta):
    """As the accountant is meant to be used; the grid is chosen as we choose it."""
    steps = {}
    for event in events:
        key = event.noise_multiplier, event.sampling_rate
        steps[key] = steps.get(key, 0) + event.num_steps
    fine = epsilon_rdp(events, delta) < 0.5 or sum(steps.values()) > 5_000
    accountant = PLDAccountant(
        NeighboringRelation.ADD_OR_REMOVE_ONE, value_discretization_interval=1e-4 if fine else 1e-3
    )
    for (noise, rate), count in sorted(steps.items()):
        gaussian = GaussianDpEvent(noise)
        accountant.compose(gaussian if rate == 1 else PoissonSampledDpEvent(rate, gaussian), count)
    return accountant.get_epsilon(delta)


@pytest.mark.parametrize("seed", range(12))
def test_epsilon_is_the_accountants_to_the_last_bit_whatever_was_asked_before(seed):
    draw = random.Random(seed)
    for _ in range(2):  # the second time with what the first one kept
        events = [
            PoissonGaussianEvent(
                noise_multiplier=noise, sampling_rate=rate, num_steps=draw.choice([1, 7, 60])
            )
            for noise, rate in draw.sample(KINDS, draw.randint(1, 3))
        ]
        for delta in DELTAS:
            assert epsilon_pld(events, delta) == theirs(events, delta)


def test_a_distribution_of_another_grid_or_rate_would_be_told_apart(monkeypatch):
    """Positive control."""
    events = [PoissonGaussianEvent(noise_multiplier=1.3, sampling_rate=0.2, num_steps=9)]
    wanted = theirs(events, 1e-5)
    step = accounting._of_step
    for wrong in (lambda d, q, i: step(d, q, i * 2), lambda d, q, i: step(d, q * 1.001, i)):
        monkeypatch.setattr(accounting, "_of_step", wrong)
        accounting._composed.cache_clear()
        accounting._pld_of_rows.cache_clear()
        try:
            found = epsilon_pld(events, 1e-5)
        except ValueError:  # distributions of two grids do not compose
            found = math.inf
        assert found != wanted
    accounting._composed.cache_clear()
    accounting._pld_of_rows.cache_clear()

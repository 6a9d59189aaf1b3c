"""Integer Renyi vectors: never below the truth, close to it, exact under addition."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext

import pytest

from privacy.accounting import epsilon_pld, epsilon_rdp
from privacy.events import PoissonGaussianEvent, UnknownEvent
from privacy.ledger.vectors import ORDERS, SCALE, add_vectors, epsilon_of_vector, rdp_vector


def exact(event: PoissonGaussianEvent, order: int) -> Decimal:
    """The formula of ``epsilon_rdp`` in 50 digits, in billionths."""
    with localcontext() as context:
        context.prec = 50
        sigma, q = Decimal(event.noise_multiplier), Decimal(event.sampling_rate)
        if q == 1:
            return SCALE * event.num_steps * Decimal(order) / (2 * sigma**2)
        total = sum(
            math.comb(order, k)
            * (1 - q) ** (order - k)
            * q**k
            * (Decimal(k * (k - 1)) / (2 * sigma**2)).exp()
            for k in range(order + 1)
        )
        return SCALE * event.num_steps * total.ln() / (order - 1)


@pytest.mark.parametrize(
    ("noise", "rate", "steps"),
    [
        (1.0, 0.064, 200),
        (0.5, 1.0, 1),
        (30.0, 1e-4, 100_000),
        (4.0, 1e-6, 1_000_000),
        (0.7, 0.9, 10),
        (8, 0.5, 3),
    ],
)
def test_a_vector_is_never_below_the_exact_value_and_at_most_a_millionth_above(noise, rate, steps):
    event = PoissonGaussianEvent(noise_multiplier=noise, sampling_rate=rate, num_steps=steps)
    vector = rdp_vector(event)
    assert vector is not None
    for value, order in zip(vector, ORDERS, strict=True):
        truth = exact(event, order)
        assert truth <= value <= truth * Decimal("1.000001") + 2 + Decimal("0.004") * steps


def test_what_costs_nothing_is_zero_and_what_is_not_understood_is_infinite():
    assert rdp_vector(PoissonGaussianEvent(noise_multiplier=1, sampling_rate=0.5, num_steps=0)) == (0,) * 16
    assert rdp_vector(PoissonGaussianEvent(noise_multiplier=0, sampling_rate=0.0, num_steps=5)) == (0,) * 16
    assert rdp_vector(PoissonGaussianEvent(noise_multiplier=0, sampling_rate=0.5, num_steps=1)) is None
    assert rdp_vector(PoissonGaussianEvent(noise_multiplier=1e-4, sampling_rate=1, num_steps=1)) is None
    assert rdp_vector(UnknownEvent(text="{}")) is None


def test_a_sum_with_something_infinite_is_infinite():
    one = rdp_vector(PoissonGaussianEvent(noise_multiplier=1, sampling_rate=0.1, num_steps=1))
    assert add_vectors([one, None]) is None
    assert add_vectors([]) == (0,) * 16
    assert add_vectors([one, one]) == tuple(2 * v for v in one)
    assert epsilon_of_vector(None, 1e-5) == math.inf
    assert epsilon_of_vector((0,) * 16, 1e-5) == 0.0


def test_epsilon_of_a_sum_is_at_least_that_of_the_accountants():
    events = [
        PoissonGaussianEvent(noise_multiplier=1.0, sampling_rate=0.064, num_steps=40),
        PoissonGaussianEvent(noise_multiplier=1.2, sampling_rate=0.05, num_steps=100),
    ]
    bound = epsilon_of_vector(add_vectors(rdp_vector(e) for e in events), 1e-5)
    assert epsilon_pld(events, 1e-5) <= epsilon_rdp(events, 1e-5) <= bound <= 1.1 * epsilon_rdp(events, 1e-5)


@pytest.mark.parametrize("delta", [0, 1, -1, math.nan])
def test_a_meaningless_delta_is_refused(delta):
    with pytest.raises(ValueError, match="target_delta"):
        epsilon_of_vector((0,) * 16, delta)


def test_a_vector_of_another_length_is_refused():
    with pytest.raises(ValueError, match="entries"):
        epsilon_of_vector((1,), 1e-5)

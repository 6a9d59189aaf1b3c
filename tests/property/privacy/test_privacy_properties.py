"""Sensitivity, accounting and event text, for any input that hypothesis can think of."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from privacy.accounting import epsilon_pld, epsilon_rdp
from privacy.dpsgd import DpSgd
from privacy.events import PoissonGaussianEvent, event_from_json
from privacy.noise import SeededNoise

EVENTS = st.builds(
    PoissonGaussianEvent,
    noise_multiplier=st.floats(0.6, 8.0),
    sampling_rate=st.floats(0.01, 1.0),
    num_steps=st.integers(0, 30),
)
SCALES = st.one_of(st.floats(-1e35, 1e35), st.sampled_from([0.0, math.inf, -math.inf, math.nan, 1e-38]))


def clipped_sum(
    inputs: torch.Tensor, scales: torch.Tensor, clipping_norm: float, *, clip: bool = True
) -> torch.Tensor:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)).train()
    params = list(model.parameters())
    if not clip:  # the broken variant
        (model(inputs).sum(1) * scales).sum().backward()
        return torch.cat([p.grad.flatten() for p in params])
    engine = DpSgd(
        model,
        torch.optim.SGD(params, lr=1.0),
        clipping_norm=clipping_norm,
        noise_multiplier=0.0,
        expected_batch_size=1.0,
        noise=SeededNoise(0),
    )
    engine.accumulate(model(inputs).sum(1) * scales)
    total = [torch.zeros_like(p) if p.summed_grad is None else p.summed_grad for p in params]
    engine.close()
    return torch.cat([t.flatten() for t in total])


def neighbours(scales: list[float], clipping_norm: float, *, clip: bool = True) -> float:
    """L2 distance of the sums with and without the first example."""
    inputs = torch.from_numpy(
        np.random.Generator(np.random.PCG64(len(scales))).normal(size=(len(scales), 4))
    ).float()
    factors = torch.tensor(scales, dtype=torch.float32)
    whole = clipped_sum(inputs, factors, clipping_norm, clip=clip)
    return float((whole - clipped_sum(inputs[1:], factors[1:], clipping_norm, clip=clip)).norm())


@settings(max_examples=60, deadline=None)
@given(scales=st.lists(SCALES, min_size=2, max_size=6), clipping_norm=st.sampled_from([1e-3, 0.1, 1.0, 50.0]))
def test_adding_one_example_moves_the_sum_by_at_most_the_clipping_norm(scales, clipping_norm):
    rounding = 1e-6 * clipping_norm * len(scales)
    assert neighbours(scales, clipping_norm) <= clipping_norm * (1 + 1e-5) + rounding


def test_without_clipping_the_same_check_fails():
    assert not neighbours([1e4, 1.0], 1.0, clip=False) <= 1.0


@settings(max_examples=100, deadline=None)
@given(event=EVENTS)
def test_an_event_survives_its_text(event):
    assert event_from_json(event.to_json()) == event


@settings(max_examples=12, deadline=None)
@given(events=st.lists(EVENTS, max_size=2), extra=EVENTS, delta=st.sampled_from([1e-3, 1e-5]))
def test_another_event_never_lowers_epsilon(events, extra, delta):
    for epsilon in (epsilon_pld, epsilon_rdp):
        assert epsilon([*events, extra], delta) >= epsilon(events, delta) - 1e-3


@settings(max_examples=25, deadline=None)
@given(events=st.lists(EVENTS, min_size=1, max_size=3), delta=st.sampled_from([1e-3, 1e-5]))
def test_pld_never_reports_more_than_rdp_beyond_its_grid(events, delta):
    assert (
        epsilon_pld(events, delta)
        <= epsilon_rdp(events, delta) + 1e-3 * sum(e.num_steps for e in events) ** 0.5
    )


@settings(max_examples=25, deadline=None)
@given(event=EVENTS, delta=st.sampled_from([1e-3, 1e-5]))
def test_splitting_a_run_into_rounds_costs_nothing(event, delta):
    half = event.num_steps // 2
    parts = [
        PoissonGaussianEvent(
            noise_multiplier=event.noise_multiplier, sampling_rate=event.sampling_rate, num_steps=steps
        )
        for steps in (half, event.num_steps - half)
    ]
    assert epsilon_pld(parts, delta) == pytest.approx(epsilon_pld([event], delta), abs=1e-9)

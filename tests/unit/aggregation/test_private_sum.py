"""Client-level privacy: nobody moves the sum by more than C, the divisor is public, noise is on what is trained."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from aggregation.adapter import AdapterState, ClientUpdate
from aggregation.changes import moves, numbers, with_moves
from aggregation.methods import get_method
from aggregation.private_sum import ClippedSum, private_reduction
from aggregation.serialize import flatten
from aggregation.table import TABLE
from privacy.noise import SeededNoise, SystemNoise

SHAPES = {"x.q": (12, 8), "x.v": (8, 12)}
SOUND = sorted(name for name, row in TABLE.items() if row.client_dp is True)
C = 0.5


def world(name, ranks=(4, 4, 4), round_index=0, size=0.1):
    """A state in the middle of a run, and what clients of these ranks sent and began from."""
    method = get_method(name)
    generator = torch.Generator().manual_seed(5)
    dense = {"head.weight": torch.randn(2, 8, generator=generator)}
    state = method.initial_state(SHAPES, lora_rank=max(ranks), scale=2.0, dense=dense, seed=1)
    start = method.trained_part(state, round_index)
    state = method.reduce(
        state,
        [ClientUpdate(client_id="w", weight=1.0, state=moved(start, generator, 0.3))],
    ).state
    pairs = []
    for rank in ranks:
        received = method.starting_point(state, lora_rank=rank, scale=2.0)
        began = received if received.halves else method.trained_part(received, round_index)
        pairs.append((moved(began, generator, size), began))
    return method, state, pairs


def moved(start, generator, size):
    change = {k: size * torch.randn(v.shape, generator=generator) for k, v in numbers(start).items()}
    return with_moves(start, change)


def result(method, state, pairs, *, clipping_norm=C, sigma=0.0, m=3.0, noise=None, round_index=0):
    return private_reduction(
        method,
        state,
        pairs,
        round_index=round_index,
        clipping_norm=clipping_norm,
        noise_multiplier=sigma,
        expected_cohort=m,
        noise=noise or SystemNoise(),
    ).state


def distance(one: AdapterState, two: AdapterState) -> float:
    a, b = flatten(one), flatten(two)
    return math.sqrt(sum(float((a[k].double() - b[k].double()).square().sum()) for k in a))


def test_the_methods_of_the_table_are_those_that_a_sum_is_enough_for():
    assert SOUND == ["dp-lora", "fed-sb", "fedit", "ffa", "rolora", "zero-pad"]


@pytest.mark.parametrize("round_index", [0, 1])
@pytest.mark.parametrize("name", SOUND)
def test_without_noise_and_with_a_loose_clip_it_is_the_methods_own_mean(name, round_index):
    method, state, pairs = world(name, round_index=round_index)
    updates = [ClientUpdate(client_id=str(i), weight=1.0, state=sent) for i, (sent, _) in enumerate(pairs)]
    own = method.reduce(state, updates).state
    got = result(method, state, pairs, clipping_norm=1e6, round_index=round_index)
    assert distance(got, own) < 2e-6
    assert distance(got, state) > 0.1  # and it moved


@pytest.mark.parametrize("bad", [1.0, 1e6, math.inf, math.nan])
@pytest.mark.parametrize("name", SOUND)
def test_no_client_moves_the_sum_by_more_than_the_clipping_norm(name, bad):
    method, state, pairs = world(name, size=0.3)
    sent, began = pairs[1]
    wild = {k: bad * v for k, v in moves(sent, began).items()}
    pairs[1] = (_unchecked(began, wild), began)

    def total(chosen):
        summed = ClippedSum(numbers(method.trained_part(state, 0)), C)
        for now, start in chosen:
            summed.add({k: v - numbers(start)[k] for k, v in numbers(now).items()})
        return summed.total()

    every, without = total(pairs), total([pairs[0], pairs[2]])
    difference = math.sqrt(sum(float((every[k] - without[k]).square().sum()) for k in every))
    assert difference <= C
    if math.isfinite(bad):
        assert difference == pytest.approx(C, rel=1e-6)  # the bound is reached: the test is not blind
        loose = math.sqrt(sum(float(v.double().square().sum()) for v in wild.values()))
        assert loose > 1.2 * C  # positive control: unclipped it would have moved more


def _unchecked(start, change):
    """As ``with_moves``, for numbers that the wire would refuse."""
    return with_moves(start, change)


def test_two_rounds_that_differ_by_one_client_differ_by_at_most_c_over_the_public_divisor():
    method, state, pairs = world("fedit", size=0.3)
    apart = distance(result(method, state, pairs), result(method, state, pairs[:2]))
    assert apart <= C / 3.0 * (1 + 1e-5)
    by_count = distance(result(method, state, pairs, m=3.0), result(method, state, pairs[:2], m=2.0))
    assert (
        by_count > apart * 1.2
    )  # positive control: dividing by who came lets one client move the others' part too


def test_nobody_at_all_is_noise_alone_of_the_standard_deviation_that_is_claimed():
    method, state, _ = world("fed-sb", ranks=(8, 8, 8))
    values = []
    for _ in range(40):
        after = result(method, state, [], sigma=2.0, m=10.0)
        change = moves(method.trained_part(after, 0), method.trained_part(state, 0))
        values.append(torch.cat([v.flatten() for v in change.values()]))
    sample = torch.cat(values)
    assert float(sample.std()) == pytest.approx(2.0 * C / 10.0, rel=0.05)
    assert abs(float(sample.mean())) < 5 * 2.0 * C / 10.0 / math.sqrt(len(sample))


@pytest.mark.parametrize(
    ("name", "round_index", "still"), [("ffa", 0, "A"), ("rolora", 0, "A"), ("rolora", 1, "B")]
)
def test_the_factor_that_rests_gets_no_noise(name, round_index, still):
    method, state, pairs = world(name, round_index=round_index)
    after = result(method, state, pairs, sigma=1.0, round_index=round_index)
    assert after.lora.keys() == state.lora.keys() != set()
    for layer, pair in after.lora.items():
        before = state.lora[layer]
        assert torch.equal(getattr(pair, still), getattr(before, still))
        moving = "B" if still == "A" else "A"
        assert not torch.equal(getattr(pair, moving), getattr(before, moving))


@pytest.mark.parametrize("name", ["ffa", "zero-pad"])
def test_what_a_smaller_client_does_not_hold_it_does_not_change(name):
    method, state, pairs = world(name, ranks=(2, 6, 6))
    still = [(began, began) for _, began in pairs]
    assert distance(result(method, state, still), state) < 1e-6
    alone = method.reduce(state, [ClientUpdate(client_id="a", weight=1.0, state=still[0][0])]).state
    assert distance(alone, state) > 0.1  # positive control: its model by itself lacks what it does not hold


def test_equal_sums_get_new_noise_each_time():
    method, state, pairs = world("fedit")
    assert distance(result(method, state, pairs, sigma=1.0), result(method, state, pairs, sigma=1.0)) > 0.01
    seeded = [result(method, state, pairs, sigma=1.0, noise=SeededNoise(1)) for _ in range(2)]
    assert distance(*seeded) == 0  # positive control: a seed would repeat it


@pytest.mark.parametrize(("field", "value"), [("clipping_norm", 0.0), ("sigma", math.nan), ("m", 0.0)])
def test_numbers_out_of_range_are_refused(field, value):
    method, state, pairs = world("fedit")
    with pytest.raises(ValueError, match="must be finite"):
        result(method, state, pairs, **{field: value})


def test_an_update_of_another_shape_is_refused():
    method, state, pairs = world("fed-sb")
    cores = {layer: torch.zeros(3, 3) for layer in pairs[0][0].cores}
    with pytest.raises(ValueError, match="shapes differ"):
        result(method, state, [(dataclasses.replace(pairs[0][0], cores=cores), pairs[0][1])])

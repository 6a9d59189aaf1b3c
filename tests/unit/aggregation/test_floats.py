"""The arithmetic of ``motet plan`` against what is really sent."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregation.adapter import AdapterState, ClientUpdate, FactorPair
from aggregation.floats import floats_down, floats_up, sent_factors
from aggregation.methods import METHODS
from aggregation.serialize import from_bytes, manifest, to_bytes

SHAPES = {"q": (24, 40), "o": (30, 24)}
DENSE = {"head.weight": torch.zeros(2, 24), "head.bias": torch.zeros(2)}
NUMEL = 50


def count(state):
    return sum(math.prod(shape) for shape in manifest(state).values())


def rounds(name, ranks, num_rounds, *, same_scale=True, seed=0):
    """Plays rounds; yields (round_index, client index, what it received, what it sent)."""
    method = METHODS[name]
    scales = [2.0 if same_scale else 12.0 / r for r in ranks]
    state = method.initial_state(SHAPES, lora_rank=max(ranks), scale=scales[-1], dense=DENSE, seed=seed)
    g = torch.Generator().manual_seed(seed)
    for t in range(num_rounds):
        updates = []
        for k, (rank, scale) in enumerate(zip(ranks, scales, strict=True)):
            received = from_bytes(to_bytes(method.starting_point(state, lora_rank=rank, scale=scale)))
            start = method.local_start(
                received, layer_shapes=SHAPES, lora_rank=rank, scale=scale, seed=seed, fresh_seed=10 * t + k
            )
            which = method.trained_factors(t)
            lora = {
                layer: FactorPair(
                    B=p.B + torch.randn(p.B.shape, generator=g) * ("B" in which),
                    A=p.A + torch.randn(p.A.shape, generator=g) * ("A" in which),
                    scale=p.scale,
                )
                for layer, p in start.lora.items()
            }
            cores = {layer: torch.randn(c.shape, generator=g) for layer, c in start.cores.items()}
            sent = method.trained_part(AdapterState(lora=lora, cores=cores, dense=start.dense), t)
            updates.append(ClientUpdate(client_id=f"c{k}", weight=1.0, state=sent))
            yield t, k, received, from_bytes(to_bytes(sent))
        state = method.reduce(state, updates).state


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"florist"}))
def test_planned_floats_are_those_of_the_messages_in_every_round(name):
    ranks = [4, 4, 4]
    for t, k, received, sent in rounds(name, ranks, 4):
        assert count(received) == floats_down(name, SHAPES, ranks, ranks[k], NUMEL, t)
        assert count(sent) == floats_up(name, SHAPES, ranks[k], NUMEL, t)
        header = len(to_bytes(received)) - 4 * count(received)
        assert 0 < header < 1 << 12


@pytest.mark.parametrize("name", sorted(name for name in METHODS if METHODS[name].allows_mixed_ranks))
@settings(max_examples=10, deadline=None)
@given(ranks=st.lists(st.integers(1, 7), min_size=1, max_size=4), seed=st.integers(0, 2**31))
def test_planned_floats_bound_the_messages_of_mixed_ranks_and_are_met_where_nothing_is_folded(
    name, ranks, seed
):
    for t, k, received, sent in rounds(name, ranks, 3, same_scale=False, seed=seed):
        planned = floats_down(name, SHAPES, ranks, ranks[k], NUMEL, t)
        assert count(sent) == floats_up(name, SHAPES, ranks[k], NUMEL, t)
        if METHODS[name].changes_base:
            assert count(received) <= planned
        else:
            assert count(received) == planned


@pytest.mark.parametrize("name", sorted(METHODS))
def test_the_factors_that_are_counted_are_those_that_a_client_sends(name):
    sent_sides = {0: set(), 1: set()}
    for t, _, _, sent in rounds(name, [3, 3], 2):
        sent_sides[t] |= {half.side for half in sent.halves.values()}
        sent_sides[t] |= {"AB"} if sent.lora else set()
        sent_sides[t] |= {"core"} if sent.cores else set()
    assert [sent_sides[0], sent_sides[1]] == [{sent_factors(name, 0)}, {sent_factors(name, 1)}]


def test_the_check_of_floats_fails_when_a_scale_or_a_head_is_forgotten():
    received = next(iter(rounds("fedit", [4, 4], 1)))[2]
    assert count(received) != floats_down("fedit", SHAPES, [4, 4], 4, NUMEL, 0) - len(SHAPES)
    assert count(received) != floats_down("fedit", SHAPES, [4, 4], 4, 0, 0)


def test_what_a_client_receives_grows_with_the_cohort_for_four_methods_only():
    grows = {
        name
        for name in METHODS
        if floats_down(name, SHAPES, [2] * 3, 2, 0, 1) != floats_down(name, SHAPES, [2] * 6, 2, 0, 1)
    }
    assert grows == {"flora", "florist", "fedex", "product"}


def test_flora_stops_growing_at_the_smaller_side_of_the_layer():
    early, late = (floats_down("flora", SHAPES, [2, 3], 2, 0, t) for t in (1, 1000))
    assert early == 5 * (64 + 54) + 2
    assert late == 24 * (64 + 54) + 2


def test_fed_sb_does_not_depend_on_the_width_of_the_layer():
    assert floats_up("fed-sb", {"x": (10, 10)}, 4, 0) == floats_up("fed-sb", {"x": (9999, 8)}, 4, 0) == 16

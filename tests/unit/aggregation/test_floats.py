"""The arithmetic of ``motet plan`` against what is really sent."""

import math

import pytest
import torch

from aggregation.adapter import AdapterState, ClientUpdate
from aggregation.floats import floats_down, floats_up
from aggregation.initial import fresh_factors
from aggregation.methods import METHODS
from aggregation.serialize import manifest, to_bytes

SHAPES = {"q": (24, 40), "o": (30, 24)}
DENSE = {"head.weight": torch.zeros(2, 24), "head.bias": torch.zeros(2)}
NUMEL = 50


def count(state):
    return sum(math.prod(shape) for shape in manifest(state).values())


def trained(method, rank, seed):
    """What a client of ``rank`` holds after training."""
    g = torch.Generator().manual_seed(seed)
    if method.trains == "core":
        return AdapterState(cores={k: torch.randn(rank, rank, generator=g) for k in SHAPES}, dense=DENSE)
    pairs = fresh_factors(SHAPES, rank, 2.0, seed)
    lora = {
        k: type(p)(B=torch.randn(*p.B.shape, generator=g), A=p.A, scale=p.scale) for k, p in pairs.items()
    }
    return AdapterState(lora=lora, dense=DENSE)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_planned_floats_are_those_of_the_messages_in_every_round(name):
    method = METHODS[name]
    ranks = [2, 3, 5] if method.allows_mixed_ranks else [4, 4, 4]
    state = method.initial_state(SHAPES, lora_rank=ranks[0], scale=2.0, dense=DENSE, seed=0)
    for round_index in range(4):
        start = method.starting_point(state)
        assert count(start) == floats_down(name, SHAPES, ranks, ranks[0], NUMEL, round_index)
        updates = []
        for k, rank in enumerate(ranks):
            sent = method.trained_part(trained(method, rank, 10 * round_index + k))
            assert count(sent) == floats_up(name, SHAPES, rank, NUMEL)
            updates.append(ClientUpdate(client_id=f"c{k}", weight=1.0, state=sent))
        state = method.reduce(state, updates).state
    header = len(to_bytes(start)) - 4 * count(start)
    assert 0 < header < 1 << 12


def test_flora_stops_growing_at_the_smaller_side_of_the_layer():
    early, late = (floats_down("flora", SHAPES, [2, 3], 2, 0, t) for t in (1, 1000))
    assert early == 5 * (64 + 54) + 2
    assert late == 24 * (64 + 54) + 2


def test_fed_sb_does_not_depend_on_the_width_of_the_layer():
    assert floats_up("fed-sb", {"x": (10, 10)}, 4, 0) == floats_up("fed-sb", {"x": (9999, 8)}, 4, 0) == 16

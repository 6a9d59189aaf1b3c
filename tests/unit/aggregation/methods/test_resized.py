"""Another rank between rounds: growing loses nothing, cutting loses no more than it tells."""

import pytest
import torch

from aggregation.adapter import AdapterState, ClientUpdate, FactorPair
from aggregation.methods import METHODS
from aggregation.table import refusal

SHAPES = {"q": (12, 9), "v": (7, 10)}
CHANGING = [n for n in METHODS if refusal(n, "rank_changes") is None]
HOLDING = [n for n in CHANGING if n not in ("flora", "florist")]


def state_of(name, rank=4, scale=2.0, seed=0):
    """A state as after some rounds."""
    method, g = METHODS[name], torch.Generator().manual_seed(seed)
    state = method.initial_state(SHAPES, lora_rank=rank, scale=scale, dense={"h": torch.ones(2)}, seed=3)
    lora = {
        k: FactorPair(
            B=torch.randn(p.B.shape, generator=g),
            A=p.A if name == "ffa" else torch.randn(p.A.shape, generator=g),
            scale=scale,
        )
        for k, p in state.lora.items()
    }
    base = (
        {k: FactorPair(B=p.B * 0.3, A=p.A, scale=1.0) for k, p in lora.items()} if method.changes_base else {}
    )
    return AdapterState(lora=lora, base_delta=base, dense=state.dense)


def dense(name, state):
    product = METHODS[name].product(state)
    return {k: p.scale * (p.B.double() @ p.A.double()) for k, p in product.items()}


def miss(one, other):
    return sum(float((one[k] - other[k]).square().sum()) for k in one) ** 0.5


@pytest.mark.parametrize("scale", [2.0, 0.5])
@pytest.mark.parametrize("name", CHANGING)
def test_growing_keeps_the_product_and_what_is_new_can_learn(name, scale):
    state = state_of(name)
    grown = METHODS[name].resized(state, lora_rank=6, scale=scale, seed=3)
    assert grown.relative_error == 0
    assert miss(dense(name, state), dense(name, grown.state)) < 1e-4
    for pair in grown.state.lora.values():
        assert (pair.lora_rank, pair.scale) == (6, scale)
        assert not pair.B[:, 4:].any()  # nothing is added ...
        assert (pair.A[4:].norm(dim=1) > 0.1).all()  # ... and its gradient, A G^T, is not zero
    assert torch.equal(grown.state.dense["h"], state.dense["h"])


@pytest.mark.parametrize("scale", [2.0, 4.0])
@pytest.mark.parametrize("name", HOLDING)
def test_cutting_loses_what_it_tells_and_nothing_where_the_base_takes_it(name, scale):
    state = state_of(name)
    cut = METHODS[name].resized(state, lora_rank=2, scale=scale, seed=3)
    before, after = dense(name, state), dense(name, cut.state)
    size = sum(float((p.scale * p.B.double() @ p.A.double()).square().sum()) for p in state.lora.values())
    assert {(p.lora_rank, p.scale) for p in cut.state.lora.values()} == {(2, scale)}
    assert miss(before, after) == pytest.approx(cut.relative_error * size**0.5, rel=1e-3, abs=1e-4)
    if METHODS[name].changes_base:
        assert cut.relative_error == 0
        assert cut.state.base_delta["q"].lora_rank > state.base_delta["q"].lora_rank
    else:
        assert 0.1 < cut.relative_error < 1


@pytest.mark.parametrize("name", ["fedit", "flexlora", "rolora"])
def test_the_cut_is_the_best_of_its_rank(name):
    state = state_of(name)
    cut = METHODS[name].resized(state, lora_rank=2, scale=2.0, seed=3)
    tails = sum(float(torch.linalg.svdvals(d)[2:].square().sum()) for d in dense(name, state).values())
    assert miss(dense(name, state), dense(name, cut.state)) == pytest.approx(tails**0.5, rel=1e-4)
    first = {k: 2.0 * p.B[:, :2].double() @ p.A[:2].double() for k, p in state.lora.items()}
    assert miss(dense(name, state), first) > 1.2 * tails**0.5  # positive control: not just the first columns


@pytest.mark.parametrize("name", HOLDING)
def test_the_next_round_takes_updates_of_the_new_rank(name):
    method = METHODS[name]
    state = method.resized(state_of(name), lora_rank=6, scale=2.0, seed=3).state
    updates = []
    for client in "ab":
        received = method.starting_point(state, lora_rank=6, scale=2.0)
        start = method.local_start(
            received, layer_shapes=SHAPES, lora_rank=6, scale=2.0, seed=3, fresh_seed=1
        )
        updates.append(ClientUpdate(client_id=client, weight=1.0, state=method.trained_part(start, 0)))
    after = method.reduce(state, updates).state
    assert miss(dense(name, state), dense(name, after)) < 1e-3  # nobody trained


@pytest.mark.parametrize("name", sorted(set(METHODS) - set(CHANGING)))
def test_a_method_of_one_rank_refuses_and_the_table_says_why(name):
    state = METHODS[name].initial_state(SHAPES, lora_rank=4, scale=2.0, dense={}, seed=0)
    with pytest.raises(ValueError, match="binds"):
        METHODS[name].resized(state, lora_rank=2, scale=2.0, seed=0)
    refused = refusal(name, "rank_changes")
    assert refused.reason
    assert refusal(refused.instead, "rank_changes") is None

import math

import pytest
import torch

from aggregation.adapter import AdapterState, ClientUpdate, FactorPair
from aggregation.errors import MalformedUpdateError
from aggregation.methods import METHODS, FedIT, FedSB, Flora, LoraFair, get_method
from aggregation.methods.fedit import mean_factors

SHAPES = {"q": (6, 9), "v": (8, 5)}
DENSE = {"head": torch.ones(2, 3)}
ALL = pytest.mark.parametrize("method", list(METHODS.values()), ids=list(METHODS))
SHARED = {name: method for name, method in METHODS.items() if name != "fedsa"}  # heads are shared
HEADS = pytest.mark.parametrize("method", list(SHARED.values()), ids=list(SHARED))


def start(method, rank=3):
    return method.initial_state(SHAPES, lora_rank=rank, scale=2.0, dense=DENSE, seed=0)


def update(method, k=0, *, rank=3, weight=1.0, shapes=SHAPES, fill=None):
    g = torch.Generator().manual_seed(k)
    lora = {
        layer: FactorPair(B=torch.randn(m, rank, generator=g), A=torch.randn(rank, n, generator=g), scale=2.0)
        for layer, (m, n) in shapes.items()
    }
    cores = {layer: torch.randn(rank, rank, generator=g) for layer in shapes}
    dense = {"head": torch.full((2, 3), float(k) if fill is None else fill)}
    whole = AdapterState(lora={} if method.trains == "core" else lora, cores=cores, dense=dense)
    return ClientUpdate(client_id=f"c{k}", weight=weight, state=method.trained_part(whole))


def test_every_method_has_a_name_and_an_unknown_one_lists_all():
    assert len(METHODS) == 15
    assert all(get_method(name) == METHODS[name] for name in METHODS)
    assert all(get_method(name).name == name for name in METHODS)
    assert get_method("lora-fair", ridge=0.5) == LoraFair(ridge=0.5)
    with pytest.raises(KeyError, match="fed-sb, fedex, fedit, fedsa, ffa"):
        get_method("fedavg")
    with pytest.raises(TypeError):
        get_method("ffa", ridge=0.5)


@ALL
def test_before_the_first_round_nothing_is_learned(method):
    state = start(method)
    assert all(not pair.B.any() for pair in state.lora.values())
    assert all(not core.any() for core in state.cores.values())
    assert not state.base_delta
    assert torch.equal(state.dense["head"], DENSE["head"])


@ALL
def test_a_client_never_sends_the_change_of_the_base(method):
    everything = AdapterState(
        lora=update(FedIT()).state.lora,
        base_delta=update(FedIT()).state.lora,
        cores={"q": torch.ones(3, 3)},
        dense=DENSE,
    )
    sent = method.trained_part(everything)
    assert not sent.base_delta
    assert bool(sent.lora) == (method.trained_factors(0) == "AB" and method.name != "fedsa")
    assert bool(sent.halves) == (method.name in ("ffa", "rolora", "fedsa"))
    assert bool(sent.cores) == (method.trains == "core")
    assert sent.dense == ({} if method.name == "fedsa" else DENSE)


def test_flora_sends_the_change_of_the_base_and_no_factors():
    state = Flora().reduce(start(Flora()), [update(Flora())]).state
    sent = Flora().starting_point(state)
    assert sent.base_delta.keys() == SHAPES.keys()
    assert not sent.lora


@ALL
def test_a_round_without_clients_has_no_mean(method):
    with pytest.raises(ValueError, match="no updates"):
        method.reduce(start(method), iter([]))


@ALL
def test_unsorted_or_repeated_clients_are_refused(method):
    for pair in [(1, 0), (0, 0)]:
        with pytest.raises(ValueError, match="sorted by client_id"):
            method.reduce(start(method), [update(method, k) for k in pair])


@ALL
@pytest.mark.parametrize("weight", [0.0, -1.0, math.nan, math.inf])
def test_weights_that_are_not_positive_and_finite_are_refused(method, weight):
    with pytest.raises(ValueError, match="must be positive and finite"):
        method.reduce(start(method), [update(method), update(method, 1, weight=weight)])


@HEADS
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_client_with_nan_or_infinity_is_refused_by_name(method, value):
    with pytest.raises(MalformedUpdateError, match="dense/head of 'c1'"):
        method.reduce(start(method), [update(method), update(method, 1, fill=value)])


@ALL
def test_layers_or_shapes_that_differ_from_the_others_are_refused(method):
    good = update(method)
    fewer = update(method, 1, shapes={"q": (6, 9)})
    with pytest.raises(ValueError, match="differ"):
        method.reduce(start(method), [good, fewer])
    broadcastable = AdapterState(
        lora=good.state.lora, cores=good.state.cores, dense={"head": torch.ones(1, 1)}
    )
    with pytest.raises(ValueError, match="differ"):
        method.reduce(AdapterState(), [good, ClientUpdate(client_id="c1", weight=1.0, state=broadcastable)])
    headless = AdapterState(lora=good.state.lora, cores=good.state.cores)
    with pytest.raises(ValueError, match="differ"):
        method.reduce(start(method), [ClientUpdate(client_id="c0", weight=1.0, state=headless)])


def test_cores_of_another_rank_are_refused_and_never_broadcast():
    with pytest.raises(ValueError, match="shapes differ"):
        FedSB().reduce(AdapterState(), [update(FedSB(), rank=3), update(FedSB(), 1, rank=1)])
    with pytest.raises(ValueError, match="shapes differ"):
        FedSB().reduce(start(FedSB()), [update(FedSB(), rank=1)])


def test_flora_refuses_layers_other_than_the_accumulated_ones():
    state = Flora().reduce(start(Flora()), [update(Flora())]).state
    for shapes in ({"q": (6, 9)}, {"q": (6, 9), "x": (8, 5)}, {"q": (6, 9), "v": (5, 8)}):
        with pytest.raises(ValueError, match="layers differ"):
            Flora().reduce(state, [update(Flora(), shapes=shapes)])


@pytest.mark.parametrize("method", [FedIT(), LoraFair()])
def test_mixed_ranks_are_refused_and_flora_is_named(method):
    with pytest.raises(ValueError, match="use flora"):
        method.reduce(start(method), [update(method, rank=3), update(method, 1, rank=2)])


def test_scales_may_differ_by_rounding_and_no_more():
    pair = update(FedIT()).state.lora["q"]
    near = FactorPair(B=pair.B, A=pair.A, scale=pair.scale * (1 + 1e-7))
    far = FactorPair(B=pair.B, A=pair.A, scale=pair.scale * 1.01)
    assert mean_factors([pair, near], [0.5, 0.5]).scale == pair.scale
    with pytest.raises(ValueError, match="use flora"):
        mean_factors([pair, far], [0.5, 0.5])


@HEADS
def test_heads_are_averaged_with_the_same_weights(method):
    reduction = method.reduce(start(method), [update(method, 0, weight=3.0), update(method, 4, weight=1.0)])
    assert torch.equal(reduction.state.dense["head"], torch.ones(2, 3))
    assert reduction.num_clients == 2


@HEADS
def test_a_run_of_heads_alone_needs_no_adapter(method):
    state = method.initial_state({}, lora_rank=3, scale=1.0, dense=DENSE, seed=0)
    updates = [
        ClientUpdate(client_id=c, weight=1.0, state=AdapterState(dense={"head": torch.full((2, 3), v)}))
        for c, v in (("a", 1.0), ("b", 3.0))
    ]
    reduction = method.reduce(state, updates)
    assert torch.equal(reduction.state.dense["head"], torch.full((2, 3), 2.0))
    assert (reduction.relative_error, dict(method.product(reduction.state, bases={}))) == (0.0, {})


@ALL
def test_the_state_before_and_the_updates_are_left_as_they_were(method):
    state = start(method)
    updates = [update(method, k) for k in range(2)]
    before = [[t.clone() for t in tensors(s)] for s in (state, *(u.state for u in updates))]
    method.reduce(state, updates)
    after = [tensors(s) for s in (state, *(u.state for u in updates))]
    assert all(
        torch.equal(x, y) for b, a in zip(before, after, strict=True) for x, y in zip(b, a, strict=True)
    )


def tensors(state):
    pairs = [*state.lora.values(), *state.base_delta.values()]
    return [t for p in pairs for t in (p.A, p.B)] + [*state.cores.values(), *state.dense.values()]


def test_fed_sb_needs_its_bases_and_refuses_a_core_wider_than_the_layer():
    with pytest.raises(ValueError, match="needs its frozen bases"):
        FedSB().product(start(FedSB()))
    with pytest.raises(ValueError, match="smaller side of v, 5"):
        start(FedSB(), rank=6)


def test_lora_fair_with_a_huge_ridge_is_fedit_and_with_equal_clients_corrects_nothing():
    updates = [update(FedIT(), k) for k in range(3)]
    mean, corrected = (m.reduce(AdapterState(), updates).state.lora for m in (FedIT(), LoraFair(ridge=1e9)))
    assert all(torch.allclose(mean[k].B, corrected[k].B, atol=1e-5) for k in SHAPES)
    alike = [ClientUpdate(client_id=f"t{k}", weight=1.0, state=updates[0].state) for k in range(3)]
    fair = LoraFair().reduce(AdapterState(), alike).state.lora
    assert all(torch.allclose(fair[k].B, updates[0].state.lora[k].B, atol=1e-5) for k in SHAPES)


def test_lora_fair_takes_factors_that_are_all_zero():
    pair = FactorPair(B=torch.ones(4, 2), A=torch.zeros(2, 5))
    update_ = ClientUpdate(client_id="a", weight=1.0, state=AdapterState(lora={"q": pair}))
    reduction = LoraFair().reduce(AdapterState(), [update_])
    assert reduction.relative_error == 0.0
    assert torch.isfinite(reduction.state.lora["q"].B).all()


def test_flora_keeps_the_change_no_wider_than_the_layer():
    state = start(Flora())
    for t in range(5):
        state = Flora().reduce(state, [update(Flora(), k, rank=1 + t) for k in range(2)]).state
        assert all(pair.lora_rank <= min(pair.shape) for pair in state.base_delta.values())
        assert all(pair.scale == 1.0 for pair in state.base_delta.values())

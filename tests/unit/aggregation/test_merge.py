"""One aggregation of pairs that exist already, layer by layer, against dense float64 sums."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregation.adapter import AdapterState, ClientUpdate, FactorPair
from aggregation.kernels import norm
from aggregation.merge import CannotMergeError, check_offline, merge_dense, merge_layer, share_of
from aggregation.methods import METHODS, get_method

OFFLINE = sorted(set(METHODS) - {"fed-sb", "fedsa"})
EXACT = ("flora", "product", "fedex", "ffa", "rolora")


def pair(m, n, r, seed, scale=1.0, *, a=None, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    b = torch.randn(m, r, generator=g)
    a = torch.randn(r, n, generator=g) if a is None else a[:r]
    return FactorPair(B=b.to(dtype), A=a.to(dtype), scale=scale)


def dense(p):
    return p.scale * p.B.double() @ p.A.double()


def exact(pairs, weights):
    return sum(w / sum(weights) * dense(p) for p, w in zip(pairs, weights, strict=True))


def shared(m=6, n=9, ranks=(3, 3, 3), scale=2.0):
    """Pairs that share A, so that every method takes them."""
    a = torch.randn(max(ranks), n, generator=torch.Generator().manual_seed(99))
    return [pair(m, n, r, k, scale, a=a) for k, r in enumerate(ranks)]


@pytest.mark.parametrize("name", OFFLINE)
def test_the_squares_are_those_of_the_dense_matrices(name):
    pairs, weights = shared(), [3.0, 2.0, 1.0]
    merged = merge_layer(get_method(name), pairs, weights)
    whole = exact(pairs, weights)
    miss = float((dense(merged.pair) - whole).norm())
    assert merged.exact_square == pytest.approx(float(whole.square().sum()), rel=1e-10)
    assert math.sqrt(merged.miss_square) == pytest.approx(miss, rel=1e-4, abs=1e-6)
    if name in EXACT:
        assert merged.relative_error < 1e-6


@pytest.mark.parametrize("name", OFFLINE)
def test_one_pair_alone_is_what_comes_out(name):
    (one,) = shared(ranks=(3,))
    merged = merge_layer(get_method(name, **({"ridge": 0.0} if name == "lora-fair" else {})), [one], [0.3])
    limit = math.sqrt(0.05) if name == "florist" else 1e-6
    assert merged.relative_error <= limit


@given(
    m=st.integers(1, 9),
    n=st.integers(1, 9),
    ranks=st.lists(st.integers(1, 12), min_size=1, max_size=5),
    seed=st.integers(0, 1000),
    name=st.sampled_from(["flora", "product"]),
)
@settings(deadline=None, max_examples=60)
def test_exact_methods_are_exact_for_any_shapes_ranks_and_scales(m, n, ranks, seed, name):
    pairs = [pair(m, n, r, seed + k, scale=0.1 + k) for k, r in enumerate(ranks)]
    weights = [1.0 + k for k in range(len(ranks))]
    merged = merge_layer(get_method(name), pairs, weights)
    wanted = exact(pairs, weights)
    torch.testing.assert_close(dense(merged.pair), wanted, rtol=0, atol=2e-5 * float(wanted.norm()) + 1e-7)
    assert merged.relative_error < 1e-5


@given(lora_rank=st.integers(1, 8), seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=40)
def test_no_adapter_of_that_rank_is_nearer_than_a_rank_limit_gives(lora_rank, seed):
    pairs, weights = [pair(7, 8, r, seed + r) for r in (2, 3, 1)], [1.0, 2.0, 3.0]
    squares = torch.linalg.svdvals(exact(pairs, weights)).square()
    best = float(squares[lora_rank:].sum())
    for name in ("flora", "flexlora"):
        merged = merge_layer(get_method(name), pairs, weights, lora_rank=lora_rank)
        assert merged.pair.lora_rank <= lora_rank
        assert merged.miss_square == pytest.approx(best, rel=1e-4, abs=1e-9 * float(squares.sum()))
        assert merged.discarded_energy == pytest.approx(best / float(squares.sum()), rel=1e-4, abs=1e-9)


def test_a_biased_method_with_a_limit_tells_bias_and_cut_apart():
    pairs, weights = [pair(6, 9, 3, k) for k in range(3)], [1.0, 1.0, 1.0]
    free = merge_layer(get_method("fedit"), pairs, weights)
    cut = merge_layer(get_method("fedit"), pairs, weights, lora_rank=1)
    assert free.discarded_energy == 0
    assert free.relative_error > 0.1
    squares = torch.linalg.svdvals(dense(free.pair)).square()
    assert cut.discarded_energy == pytest.approx(float(squares[1:].sum() / squares.sum()), rel=1e-5)


def test_hetlora_over_many_layers_is_the_methods_own_round():
    layers = {"x": (6, 9), "y": (4, 5)}
    clients = [{name: pair(m, n, 2 + k, 10 * k + m) for name, (m, n) in layers.items()} for k in range(3)]
    updates = [
        ClientUpdate(client_id=str(k), weight=1.0, state=AdapterState(lora=lora))
        for k, lora in enumerate(clients)
    ]
    state = METHODS["hetlora"].reduce(AdapterState(), updates).state
    sizes = [math.sqrt(sum(norm(p) ** 2 for p in lora.values())) for lora in clients]
    for name in layers:
        pairs = [lora[name] for lora in clients]
        merged = merge_layer(METHODS["hetlora"], pairs, [1.0] * 3, sizes=sizes)
        torch.testing.assert_close(dense(merged.pair), dense(state.lora[name]), rtol=1e-6, atol=1e-6)
        alone = merge_layer(METHODS["hetlora"], pairs, [1.0] * 3)
        assert (dense(alone.pair) - dense(merged.pair)).norm() > 1e-3  # positive control: sizes are read


def test_nothing_but_zeros_stays_zero():
    zeros = [FactorPair(B=torch.zeros(4, 2), A=torch.ones(2, 5)) for _ in range(2)]
    for name in OFFLINE:
        merged = merge_layer(get_method(name), zeros, [1.0, 1.0], lora_rank=1)
        assert (merged.relative_error, merged.discarded_energy) == (0.0, 0.0)
        assert float(dense(merged.pair).norm()) == 0


def test_ffa_takes_nested_ranks_and_other_scales_and_rolora_either_factor():
    nested = [FactorPair(B=p.B, A=p.A, scale=1.0 + k) for k, p in enumerate(shared(ranks=(2, 4, 3)))]
    assert merge_layer(get_method("ffa"), nested, [1.0, 2.0, 3.0]).relative_error < 1e-6
    b = torch.randn(6, 3, generator=torch.Generator().manual_seed(3))
    same_b = [FactorPair(B=b, A=pair(6, 9, 3, k).A) for k in range(3)]
    assert merge_layer(get_method("rolora"), same_b, [1.0, 2.0, 3.0]).relative_error < 1e-6
    with pytest.raises(CannotMergeError, match="same A") as caught:
        merge_layer(get_method("ffa"), same_b, [1.0, 2.0, 3.0])
    assert caught.value.instead == "flora"


def test_what_can_not_be_merged_is_refused():
    pairs = [pair(6, 9, 2, 0), pair(6, 9, 3, 1)]
    for name in ("fedit", "fedex", "lora-fair", "dp-lora"):
        with pytest.raises(CannotMergeError, match="different"):
            merge_layer(get_method(name), pairs, [1.0, 1.0])
    for name in ("fed-sb", "fedsa"):
        with pytest.raises(CannotMergeError):
            check_offline(name)
    with pytest.raises(ValueError, match="weight"):
        merge_layer(get_method("flora"), pairs, [1.0])
    with pytest.raises(ValueError, match="positive"):
        merge_layer(get_method("flora"), pairs, [1.0, math.nan])
    with pytest.raises(ValueError, match="layers differ"):
        merge_layer(get_method("flora"), [pairs[0], pair(6, 8, 2, 0)], [1.0, 1.0])


def test_dense_tensors_are_averaged_in_float64():
    values = [torch.full((3,), 1.0), torch.full((3,), 1.0 + 2**-20), torch.full((3,), 2.0**-30)]
    got = merge_dense(values, [1.0, 1.0, 2.0])
    assert got.dtype == torch.float32
    wanted = sum(w / 4 * v.double() for w, v in zip([1.0, 1.0, 2.0], values, strict=True))
    assert torch.equal(got, wanted.float())
    with pytest.raises(ValueError, match="shapes"):
        merge_dense([torch.zeros(2), torch.zeros(3)], [1.0, 1.0])


def test_a_share_of_nothing_is_nothing():
    assert share_of([(0.0, 0.0)]) == 0
    assert share_of([(1.0, 0.0)]) == math.inf
    assert share_of([(1.0, 3.0), (0.0, 1.0)]) == 0.5

"""Kernels on factors against dense algebra in numpy, for any shapes, ranks and types; each check has a control."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import aggregation.gauge
import aggregation.geometry
import aggregation.sketch
from aggregation.adapter import AdapterState, FactorPair
from aggregation.gauge import align, balanced
from aggregation.geometry import (
    changes_gram,
    distances_to_mean,
    gram,
    norms,
    squared_distances,
    state_gram,
)
from aggregation.kernels import energy_rank, factor_svd, norm, split, stack, truncate_energy
from aggregation.sketch import (
    first_message,
    from_sums,
    range_basis,
    range_test,
    second_message,
    sketch_width,
    sketched_sum,
)

QUICK = settings(max_examples=30, deadline=None)
SIDES = st.integers(1, 24)
RANKS = st.lists(st.integers(1, 9), min_size=1, max_size=5)
SEEDS = st.integers(0, 2**31)


def pair(rank, m, n, seed=0, scale=1.0, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    b, a = torch.randn(m, rank, generator=g), torch.randn(rank, n, generator=g)
    return FactorPair(B=b.to(dtype), A=a.to(dtype), scale=scale)


def many(ranks, m, n, seed):
    return [pair(r, m, n, seed + k, scale=0.5 + k) for k, r in enumerate(ranks)]


def dense(p):
    return p.scale * p.B.double().numpy() @ p.A.double().numpy()


def shares(count):
    weights = [1.0 + k for k in range(count)]
    return [w / math.fsum(weights) for w in weights]


# -- energy and leading components -----------------------------------------------------------------------------------


@QUICK
@given(ranks=RANKS, m=SIDES, n=SIDES, seed=SEEDS, energy=st.floats(0.05, 1.0))
def test_the_rank_that_keeps_the_energy_is_the_least_one(ranks, m, n, seed, energy):
    whole = stack(many(ranks, m, n, seed), shares(len(ranks)))
    cut = truncate_energy(whole, energy)
    values = np.linalg.svd(dense(whole), compute_uv=False)
    kept = np.cumsum(values**2) / np.sum(values**2)
    assert kept[cut.lora_rank - 1] >= energy - 1e-12
    assert cut.lora_rank == 1 or kept[cut.lora_rank - 2] < energy + 1e-12
    miss = np.linalg.norm(dense(cut) - dense(whole)) / np.linalg.norm(dense(whole))
    assert miss <= math.sqrt(max(1 - energy, 0)) + 1e-5


def test_energy_by_hand():
    flat, steep = torch.full((4,), 2.0), torch.tensor([3.0, 2.0, 1.0, 0.0])  # squares 9, 4, 1, 0
    assert [energy_rank(flat, e) for e in (0.1, 0.25, 0.3, 0.5, 0.75, 1.0)] == [1, 1, 2, 2, 3, 4]
    assert [energy_rank(steep, e) for e in (0.6, 0.7, 0.9, 0.95, 1.0)] == [1, 2, 2, 3, 3]
    assert energy_rank(torch.zeros(3), 0.9) == 0
    for wrong in (0.0, -0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="must be above 0"):
            truncate_energy(pair(2, 4, 5), wrong)
    zero = truncate_energy(FactorPair(B=torch.zeros(4, 2), A=torch.ones(2, 5)), 0.9)
    assert (zero.lora_rank, norm(zero)) == (1, 0.0)


@QUICK
@given(rank=st.integers(1, 9), keep=st.integers(1, 9), m=SIDES, n=SIDES, seed=SEEDS)
def test_leading_components_are_the_best_pair_of_exactly_that_rank_and_scale(rank, keep, m, n, seed):
    whole = pair(rank, m, n, seed, scale=3.0)
    best, _ = split(whole, keep, scale=2.0, spare=torch.full((keep, n), 7.0))
    assert (best.lora_rank, best.scale, best.A.dtype) == (keep, 2.0, torch.float32)
    values = np.linalg.svd(dense(whole), compute_uv=False)
    tail = float(np.sqrt(np.sum(values[keep:] ** 2)))
    assert np.linalg.norm(dense(best) - dense(whole)) <= tail + 1e-4 * values[0]
    used = min(keep, rank, m, n)
    assert torch.equal(best.A[used:], torch.full((keep - used, n), 7.0))
    assert not best.B[:, used:].any()


def test_components_of_nothing_can_still_learn():
    nothing = FactorPair(B=torch.zeros(4, 3), A=torch.ones(3, 5))
    best, _ = split(nothing, 3, spare=torch.arange(15.0).reshape(3, 5))
    assert norm(best) == 0.0
    assert torch.equal(best.A, torch.arange(15.0).reshape(3, 5))
    for bad in ({"lora_rank": 0}, {"scale": 0.0}, {"spare": torch.zeros(2, 5)}):
        given_ = {"lora_rank": 3, "scale": 1.0, "spare": torch.zeros(3, 5)} | bad
        with pytest.raises(ValueError, match="need r >= 1"):
            split(nothing, given_.pop("lora_rank"), **given_)


# -- the two-stage sketch --------------------------------------------------------------------------------------------


def sketch_miss(ranks, m, n, seed, width):
    """Relative error of the protocol of two sums, as a server would run it."""
    pairs, weights = many(ranks, m, n, seed), shares(len(ranks))
    omega = range_test(n, width, torch.Generator().manual_seed(seed))
    first = sum(first_message(p, w, omega) for p, w in zip(pairs, weights, strict=True))
    basis = range_basis(first)
    second = sum(second_message(p, w, basis) for p, w in zip(pairs, weights, strict=True))
    wanted = sum(w * dense(p) for p, w in zip(pairs, weights, strict=True))
    return np.linalg.norm(dense(from_sums(basis, second)) - wanted) / np.linalg.norm(wanted)


@QUICK
@given(ranks=RANKS, m=SIDES, n=SIDES, seed=SEEDS)
def test_two_sums_give_the_exact_sum_of_products_once_the_width_is_its_rank(ranks, m, n, seed):
    assert sketch_miss(ranks, m, n, seed, sketch_width(ranks, (m, n))) <= 1e-6


def test_the_check_of_the_sketch_fails_one_column_short_and_when_weights_or_scales_are_forgotten(monkeypatch):
    assert sketch_miss([5, 5], 40, 30, 0, 10) <= 1e-10
    assert sketch_miss([5, 5], 40, 30, 0, 9) > 1e-3
    plain = first_message

    def no_scale(p, weight, omega):
        return plain(FactorPair(B=p.B, A=p.A), 1.0, omega)

    right = second_message

    def weight_squared(p, weight, basis):
        return right(p, weight**2, basis)

    monkeypatch.setitem(globals(), "first_message", no_scale)
    assert sketch_miss([5, 5], 40, 30, 0, 10) <= 1e-10  # the range does not depend on the weights
    monkeypatch.setitem(globals(), "second_message", weight_squared)
    assert sketch_miss([5, 5], 40, 30, 0, 10) > 1e-2


def test_a_power_step_brings_a_narrow_sketch_close_to_the_best_rank():
    pairs, weights = many([16] * 6, 120, 90, 1), shares(6)
    whole = stack(pairs, weights, dtype=torch.float64)
    values = factor_svd(whole)[1]
    best = float(values[24:].square().sum().sqrt())
    misses = [
        np.linalg.norm(
            dense(sketched_sum(pairs, weights, 24, torch.Generator().manual_seed(0), power_steps=steps))
            - dense(whole)
        )
        for steps in (0, 1, 3)
    ]
    assert best <= misses[2] <= misses[1] < misses[0]
    assert misses[2] < 1.1 * best < misses[0]


def test_the_same_generator_gives_the_same_sketch_and_a_width_is_at_least_one():
    pairs = many([3, 2], 12, 9, 0)
    one, again, other = (
        sketched_sum(pairs, [0.5, 0.5], 3, torch.Generator().manual_seed(s)) for s in (4, 4, 5)
    )
    assert torch.equal(one.A, again.A)
    assert not torch.equal(one.A, other.A)
    assert sketched_sum(pairs, [0.5, 0.5], 99, torch.Generator()).lora_rank == 9
    assert sketch_width([4, 4], (99, 99), lora_rank=2) == 8
    assert sketch_width([40, 40], (99, 99), lora_rank=2) == 10
    for bad in (
        ([], [], 3),
        (pairs, [0.5], 3),
        (pairs, [0.5, 0.5], 0),
        ([pairs[0], pair(1, 4, 4)], [1, 1], 2),
    ):
        with pytest.raises(ValueError, match=r"at least"):
            sketched_sum(*bad, torch.Generator())


# -- gauges ----------------------------------------------------------------------------------------------------------


@QUICK
@given(rank=st.integers(1, 9), m=SIDES, n=SIDES, seed=SEEDS)
def test_the_balanced_gauge_keeps_the_product_and_splits_it_evenly(rank, m, n, seed):
    before = pair(rank, m, n, seed, scale=-2.0)
    after = balanced(before)
    assert (after.lora_rank, after.scale) == (rank, -2.0)
    assert np.linalg.norm(dense(after) - dense(before)) <= 1e-5 * np.linalg.norm(dense(before))
    left, right = after.B.double().T @ after.B.double(), after.A.double() @ after.A.double().T
    torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-4 * float(right.max()))
    assert float((left - torch.diag(left.diagonal())).abs().max()) <= 1e-4 * float(left.max())


@QUICK
@given(seed=SEEDS)
def test_two_gauges_of_one_product_balance_to_the_same_factors(seed):
    p = pair(3, 9, 12, seed)
    turn = torch.randn(3, 3, generator=torch.Generator().manual_seed(seed)) + 3 * torch.eye(3)
    assume(float(torch.linalg.cond(turn)) < 100)
    other = FactorPair(B=p.B @ torch.linalg.inv(turn), A=turn @ p.A)
    assert not torch.allclose(p.A, other.A, atol=1e-2)
    found, wanted = balanced(other).A, balanced(p).A
    # A row's sign follows its largest entry; of two that are nearly as large, rounding decides.
    signs = torch.where((found * wanted).sum(1, keepdim=True) < 0, -1.0, 1.0)
    torch.testing.assert_close(signs * found, wanted, rtol=1e-2, atol=1e-2)


@QUICK
@given(rank=st.integers(1, 6), seed=SEEDS, by=st.sampled_from(["A", "B", "both"]))
def test_alignment_finds_the_rotation_that_was_hidden_and_keeps_the_product(rank, seed, by):
    p = pair(rank, 9, 12, seed)
    turn = torch.linalg.qr(torch.randn(rank, rank, generator=torch.Generator().manual_seed(seed))).Q
    hidden = FactorPair(B=p.B @ turn.T, A=turn @ p.A)
    found = align(hidden, p, by=by)
    torch.testing.assert_close(found.A, p.A, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.B, p.B, rtol=1e-4, atol=1e-4)
    half = align(hidden, p, by=by, soft=0.5)
    assert np.linalg.norm(dense(half) - dense(p)) <= 1e-5 * np.linalg.norm(dense(p))
    torch.testing.assert_close(align(hidden, p, by=by, soft=0.0).A, hidden.A, rtol=1e-5, atol=1e-5)


@QUICK
@given(seed=SEEDS)
def test_no_rotation_comes_closer_than_the_aligned_one(seed):
    p, reference = pair(3, 9, 12, seed), pair(3, 9, 12, seed + 1)
    found = align(p, reference, by="A")
    reached = float((found.A - reference.A).square().sum())
    g = torch.Generator().manual_seed(seed)
    others = [torch.linalg.qr(torch.randn(3, 3, generator=g)).Q for _ in range(20)]
    assert all(float((t @ p.A - reference.A).square().sum()) >= reached - 1e-4 for t in others)


def test_the_check_of_alignment_fails_when_the_rotation_is_transposed(monkeypatch):
    p = pair(3, 9, 12)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0))).Q
    hidden = FactorPair(B=p.B @ turn.T, A=turn @ p.A)
    right = aggregation.gauge._nearest_orthogonal
    monkeypatch.setattr(aggregation.gauge, "_nearest_orthogonal", lambda m: right(m).T)
    assert not torch.allclose(align(hidden, p).A, p.A, atol=1e-2)


def test_what_can_not_be_aligned_is_refused():
    for bad in (pair(2, 9, 12), pair(3, 8, 12)):
        with pytest.raises(ValueError, match="one shape and rank"):
            align(pair(3, 9, 12), bad)
    with pytest.raises(ValueError, match="soft"):
        align(pair(3, 9, 12), pair(3, 9, 12), soft=1.5)


# -- many clients at once --------------------------------------------------------------------------------------------


@QUICK
@given(ranks=RANKS, m=SIDES, n=SIDES, seed=SEEDS)
def test_inner_products_norms_and_distances_are_those_of_the_dense_products(ranks, m, n, seed):
    pairs = many(ranks, m, n, seed)
    flat = np.stack([dense(p).ravel() for p in pairs])
    found = gram(pairs)
    size = np.linalg.norm(flat) ** 2
    np.testing.assert_allclose(found.numpy(), flat @ flat.T, atol=1e-6 * size)
    np.testing.assert_allclose(norms(found).numpy(), np.linalg.norm(flat, axis=1), rtol=1e-4, atol=1e-6)
    wanted = ((flat[:, None] - flat[None]) ** 2).sum(-1)
    np.testing.assert_allclose(squared_distances(found).numpy(), wanted, atol=1e-5 * size)
    w = np.array(shares(len(pairs)))
    np.testing.assert_allclose(
        distances_to_mean(found, torch.tensor(w)).numpy() ** 2,
        ((flat - w @ flat) ** 2).sum(1),
        atol=1e-5 * size,
    )
    assert torch.equal(found, found.T)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_half_precision_factors_accumulate_in_float64(dtype):
    pairs = [pair(4, 300, 200, k, dtype=dtype) for k in range(3)]
    flat = np.stack([dense(p).ravel() for p in pairs])
    np.testing.assert_allclose(gram(pairs).numpy(), flat @ flat.T, rtol=1e-10)
    coarse = torch.stack([(p.B @ p.A).flatten() for p in pairs])
    if dtype is torch.bfloat16:  # what happens when the sums themselves are bfloat16
        assert abs(float(coarse[0] @ coarse[0]) / (flat[0] @ flat[0]) - 1) > 1e-4


def state(seed, start=None, step=1.0):
    lora = {"q": pair(3, 8, 9, seed, scale=2.0), "v": pair(2, 5, 9, seed + 50)}
    g = torch.Generator().manual_seed(seed)
    return AdapterState(
        lora=lora,
        cores={"c": torch.randn(3, 3, generator=g)},
        dense={"h": torch.randn(4, generator=g)},
    )


def vector(s):
    parts = [dense(s.lora[k]).ravel() for k in sorted(s.lora)]
    parts += [v.double().numpy().ravel() for v in (s.cores["c"], s.dense["h"])]
    return np.concatenate(parts)


def test_whole_states_are_compared_as_one_vector_and_changes_from_the_start():
    states, start = [state(k) for k in range(4)], state(9)
    flat = np.stack([vector(s) for s in states])
    np.testing.assert_allclose(state_gram(states).numpy(), flat @ flat.T, rtol=1e-5)
    moved = flat - vector(start)
    np.testing.assert_allclose(changes_gram(states, start).numpy(), moved @ moved.T, rtol=1e-5)
    fresh = AdapterState(cores=start.cores, dense=start.dense)
    from_zero = flat.copy()
    from_zero[:, -13:] -= vector(start)[-13:]
    np.testing.assert_allclose(changes_gram(states, fresh).numpy(), from_zero @ from_zero.T, rtol=1e-5)
    assert changes_gram([], start).shape == (0, 0)
    with pytest.raises(ValueError, match="same layers"):
        state_gram([states[0], AdapterState()])
    with pytest.raises(ValueError, match="no inner product"):
        gram([pair(1, 3, 4), pair(1, 4, 3)])


def test_the_check_of_distances_fails_when_scales_are_ignored():
    pairs = many([2, 3], 6, 7, 0)
    bare = [FactorPair(B=p.B, A=p.A) for p in pairs]
    flat = np.stack([dense(p).ravel() for p in pairs])
    assert not np.allclose(gram(bare).numpy(), flat @ flat.T, rtol=1e-2)

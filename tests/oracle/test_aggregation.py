"""The kernels and methods against other people's code: peft, numpy's dense algebra, safetensors."""

import math

import numpy as np
import pytest
import safetensors.torch
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from aggregation.adapter import AdapterState, ClientUpdate, FactorPair
from aggregation.initial import fresh_factors, svd_bases
from aggregation.kernels import distance, factor_svd, inner, norm, recompress, relative_error, stack
from aggregation.methods import Flora
from aggregation.methods.lora_fair import ridge_correction
from aggregation.serialize import flatten, from_bytes, to_bytes

RANKS = (1, 4, 7, 16)
P = (0.1, 0.2, 0.3, 0.4)


def random_pair(rank, m=40, n=70, seed=0, scale=1.0, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    b, a = torch.randn(m, rank, generator=g), torch.randn(rank, n, generator=g)
    return FactorPair(B=b.to(dtype), A=a.to(dtype), scale=scale)


def dense(pair):
    return pair.scale * pair.B.double().numpy() @ pair.A.double().numpy()


def peft_model():
    """A model with one adapter a client, of different ranks and alphas, and the pairs that it holds."""
    model = nn.Sequential(nn.Linear(70, 40, bias=False))
    wrapped = None
    for k, rank in enumerate(RANKS):
        config = LoraConfig(r=rank, lora_alpha=2 * rank + k, target_modules=["0"], init_lora_weights=False)
        if wrapped is None:
            wrapped = get_peft_model(model, config, adapter_name="c0")
        else:
            wrapped.add_adapter(f"c{k}", config)
    layer = wrapped.base_model.model[0]
    pairs = [
        FactorPair(
            B=layer.lora_B[f"c{k}"].weight.detach(),
            A=layer.lora_A[f"c{k}"].weight.detach(),
            scale=layer.scaling[f"c{k}"],
        )
        for k in range(len(RANKS))
    ]
    return wrapped, layer, pairs


def flora_of(pairs, weights=P):
    updates = [
        ClientUpdate(client_id=f"c{k}", weight=w, state=AdapterState(lora={"x": pair}))
        for k, (pair, w) in enumerate(zip(pairs, weights, strict=True))
    ]
    return Flora().reduce(AdapterState(), updates).state.base_delta["x"]


def test_flora_equals_pefts_concatenation_of_weighted_adapters():
    torch.manual_seed(0)
    model, layer, pairs = peft_model()
    names = [f"c{k}" for k in range(len(RANKS))]
    model.add_weighted_adapter(names, list(P), "all", combination_type="cat")
    theirs = layer.get_delta_weight("all").detach().double().numpy()
    assert np.linalg.norm(dense(flora_of(pairs)) - theirs) <= 1e-6 * np.linalg.norm(theirs)
    wrong = dense(flora_of(pairs, (0.25, 0.25, 0.25, 0.25)))
    assert np.linalg.norm(wrong - theirs) > 1e-2 * np.linalg.norm(theirs)


def test_recompression_equals_pefts_svd_of_the_dense_sum():
    torch.manual_seed(0)
    model, layer, pairs = peft_model()
    names = [f"c{k}" for k in range(len(RANKS))]
    model.add_weighted_adapter(names, list(P), "cut", combination_type="svd", svd_rank=5)
    theirs = layer.get_delta_weight("cut").detach().double().numpy()
    ours = dense(recompress(stack(pairs, P), 5))
    assert np.linalg.norm(ours - theirs) <= 1e-4 * np.linalg.norm(theirs)


def test_merged_outputs_are_those_of_the_base_plus_every_weighted_adapter():
    torch.manual_seed(0)
    model, _, pairs = peft_model()
    x = torch.randn(9, 70)
    with torch.no_grad(), model.disable_adapter():
        base = model(x).double()
    total = base.clone()
    for k, p in enumerate(P):
        model.set_adapter(f"c{k}")
        with torch.no_grad():
            total += p * (model(x).double() - base)
    ours = base + x.double() @ torch.from_numpy(dense(flora_of(pairs))).T
    torch.testing.assert_close(ours, total, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rank", [*RANKS, 40, 55, 90])
@pytest.mark.parametrize("shape", [(40, 70), (70, 40), (33, 33)])
def test_svd_of_factors_equals_numpys_svd_of_the_product(rank, shape):
    pair = random_pair(rank, *shape, scale=-1.5)
    u, s, vh = (t.numpy() for t in factor_svd(pair))
    singular = np.linalg.svd(dense(pair), compute_uv=False)
    assert len(s) == min(*shape, rank)
    np.testing.assert_allclose(s, singular[: len(s)], rtol=1e-10)
    np.testing.assert_allclose((u * s) @ vh, dense(pair), atol=1e-10)
    np.testing.assert_allclose(u.T @ u, np.eye(len(s)), atol=1e-12)
    np.testing.assert_allclose(vh @ vh.T, np.eye(len(s)), atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("rank", [3, 60])
def test_inner_products_norms_and_distances_equal_the_dense_ones(dtype, rank):
    one, two = (
        random_pair(rank, seed=1, scale=2.0, dtype=dtype),
        random_pair(5, seed=2, scale=-0.5, dtype=dtype),
    )
    a, b = dense(one), dense(two)
    assert inner(one, two) == pytest.approx(float((a * b).sum()), rel=1e-10, abs=1e-8)
    assert norm(one) == pytest.approx(np.linalg.norm(a), rel=1e-12)
    assert distance(one, two) == pytest.approx(np.linalg.norm(a - b), rel=1e-12)
    assert relative_error([one], [two]) == pytest.approx(np.linalg.norm(a - b) / np.linalg.norm(b), rel=1e-12)


@pytest.mark.parametrize(("rows", "columns", "rank"), [(40, 70, 6), (600, 300, 6), (600, 300, 400)])
def test_small_distances_keep_their_digits(rows, columns, rank):
    pair = random_pair(rank, rows, columns)
    g = torch.Generator().manual_seed(5)
    near = FactorPair(B=pair.B.double() + 1e-9 * torch.randn(rows, rank, generator=g), A=pair.A.double())
    truth = float(np.linalg.norm((near.B - pair.B.double()).numpy() @ pair.A.double().numpy()))
    assert distance(near, pair) == pytest.approx(truth, rel=1e-5)
    grams = math.sqrt(max(norm(near) ** 2 + norm(pair) ** 2 - 2 * inner(near, pair), 0.0))
    assert abs(grams - truth) > 1e-2 * truth  # the shorter formula would not do


def least_squares(pairs, ridge):
    """min ||DW - B' A||^2 + lambda ||B' - B||^2 by numpy's dense solver, as one tall system."""
    b = sum(p * pair.B.double().numpy() for p, pair in zip(P, pairs, strict=True))
    a = sum(p * pair.A.double().numpy() for p, pair in zip(P, pairs, strict=True))
    wanted = sum(
        p * pair.B.double().numpy() @ pair.A.double().numpy() for p, pair in zip(P, pairs, strict=True)
    )
    tall = np.vstack([a.T, math.sqrt(ridge) * np.eye(len(a))])
    right = np.vstack([wanted.T, math.sqrt(ridge) * b.T])
    return np.linalg.lstsq(tall, right, rcond=None)[0].T, a, b


@pytest.mark.parametrize("ridge", [0.0, 1e-4, 0.01, 1.0, 100.0])
@pytest.mark.parametrize("shape", [(40, 70), (70, 40)])
@pytest.mark.parametrize("rank", [1, 4, 16])
def test_lora_fair_is_the_dense_least_squares_solution(ridge, shape, rank):
    pairs = [random_pair(rank, *shape, seed=k, scale=3.0) for k in range(4)]
    found = ridge_correction(pairs, P, ridge)
    theirs, a, b = least_squares(pairs, ridge)
    assert np.linalg.norm(found.B.numpy() - theirs) <= 1e-6 * np.linalg.norm(theirs)
    np.testing.assert_allclose(found.A.numpy(), a, rtol=1e-6, atol=1e-7)
    assert found.scale == 3.0
    assert np.linalg.norm(b - theirs) > 1e-3 * np.linalg.norm(theirs)  # the mean alone would not pass
    other = ridge_correction(pairs, P, 2 * ridge + 0.5)
    assert np.linalg.norm(other.B.numpy() - theirs) > 1e-5 * np.linalg.norm(theirs)


def test_lora_fair_with_means_that_share_directions_takes_the_least_correction():
    pairs = []
    for k in range(4):
        pair = random_pair(4, seed=k)
        pairs.append(FactorPair(B=pair.B, A=pair.A[[0, 1, 0, 1]]))
    found = ridge_correction(pairs, P, 0.0)
    theirs, a, _ = least_squares(pairs, 0.0)
    np.testing.assert_allclose(dense(found), theirs @ a, atol=1e-4)


def test_fresh_factors_are_uniform_as_pefts_own_start():
    torch.manual_seed(0)
    model = get_peft_model(nn.Sequential(nn.Linear(300, 40)), LoraConfig(r=64, target_modules=["0"]))
    theirs = model.base_model.model[0].lora_A["default"].weight.detach()
    ours = fresh_factors({"x": (40, 300)}, 64, 1.0, seed=0)["x"]
    bound = 1 / math.sqrt(300)
    for a in (theirs, ours.A):
        assert a.abs().max() <= bound
        assert float(a.abs().max()) == pytest.approx(bound, rel=1e-3)
        assert float(a.std()) == pytest.approx(bound / math.sqrt(3), rel=0.02)
    assert not ours.B.any()


def test_svd_bases_are_numpys_singular_vectors_up_to_sign():
    weight = torch.randn(30, 50, generator=torch.Generator().manual_seed(0))
    b, a = svd_bases(weight, 6)
    u, _, vh = np.linalg.svd(weight.double().numpy(), full_matrices=False)
    np.testing.assert_allclose(np.abs(np.diag(u[:, :6].T @ b.double().numpy())), 1, atol=1e-6)
    np.testing.assert_allclose(np.abs(np.diag(vh[:6] @ a.double().numpy().T)), 1, atol=1e-6)
    best = (u[:, :6].T @ weight.double().numpy() @ vh[:6].T).diagonal()
    np.testing.assert_allclose((b.T @ weight @ a.T).diagonal(), best, rtol=1e-4)


def test_safetensors_reads_our_bytes_and_we_read_only_our_own_spelling():
    state = AdapterState(
        lora={"b.q": random_pair(3), "a.k": random_pair(2)},
        dense={"head.weight": torch.randn(2, 3), "one": torch.tensor(4.0)},
    )
    data = to_bytes(state)
    theirs = safetensors.torch.load(data)
    ours = flatten(from_bytes(data))
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[k], ours[k]) for k in ours)

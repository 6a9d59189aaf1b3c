"""The library against second answers: scipy, autograd on dense matrices, real layers, a bit-by-bit reader."""

import math
import struct

import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
import torch
from torch import nn

from aggregation.adapter import AdapterState, ClientUpdate, FactorPair
from aggregation.compression import Scheme, compress, decompress
from aggregation.gauge import align
from aggregation.initial import frozen_rows, orthonormal_bases
from aggregation.kernels import stack
from aggregation.methods import METHODS, FedEx, FedIT, FlexLoRA, LoraFair, get_method
from aggregation.methods.dp_lora import expected_noise_energy
from aggregation.methods.lora_fair import cosine_columns, cosine_global

M, N, RANK = 14, 11, 3


def pairs_of(count=4, seed=0, scale=1.0, m=M, n=N, rank=RANK):
    g = torch.Generator().manual_seed(seed)
    b, a = torch.randn(m, rank, generator=g), torch.randn(rank, n, generator=g)
    return [
        FactorPair(
            B=b + 0.5 * torch.randn(m, rank, generator=g),
            A=a + 0.5 * torch.randn(rank, n, generator=g),
            scale=scale,
        )
        for _ in range(count)
    ]


def updates_of(pairs):
    return [
        ClientUpdate(client_id=f"c{k}", weight=1.0 + k, state=AdapterState(lora={"x": p}))
        for k, p in enumerate(pairs)
    ]


def shares(count):
    return [(1.0 + k) / sum(1.0 + j for j in range(count)) for k in range(count)]


def dense(pair):
    return pair.scale * pair.B.double().numpy() @ pair.A.double().numpy()


def exact(pairs):
    return sum(p * dense(pair) for p, pair in zip(shares(len(pairs)), pairs, strict=True))


def mean_of(pairs):
    p = shares(len(pairs))
    return FactorPair(
        B=sum(w * pair.B.double() for w, pair in zip(p, pairs, strict=True)),
        A=sum(w * pair.A.double() for w, pair in zip(p, pairs, strict=True)),
    )


# -- LoRA-FAIR's cosines against dense optimisation --------------------------------------------------------------


def unlike(kind, goal, product):
    if kind == "cosine_global":
        return 1 - (goal * product).sum() / (goal.norm() * product.norm())
    return 1 - nn.functional.cosine_similarity(goal, product, dim=0).mean()


def objective(kind, goal, mean, weight, b):
    return unlike(kind, goal, b @ mean.A) + weight * (b - mean.B).square().sum()


@pytest.mark.parametrize("weight", [1e-3, 0.02, 1.0])
@pytest.mark.parametrize(
    ("kind", "solve"), [("cosine_global", cosine_global), ("cosine_columns", cosine_columns)]
)
def test_lora_fair_cosines_are_minima_that_a_dense_solver_finds_too(kind, solve, weight):
    pairs = pairs_of()
    mean, goal = mean_of(pairs), torch.tensor(exact(pairs))
    found = solve(mean, stack(pairs, shares(4), dtype=torch.float64), weight).requires_grad_(True)
    reached = objective(kind, goal, mean, weight, found)
    reached.backward()
    assert float(found.grad.norm()) < 1e-6
    assert float(reached.detach()) <= float(objective(kind, goal, mean, weight, mean.B))

    def dense_value(flat):
        b = torch.tensor(flat.reshape(M, RANK), requires_grad=True)
        value = objective(kind, goal, mean, weight, b)
        value.backward()
        return float(value.detach()), b.grad.numpy().ravel()

    theirs = scipy.optimize.minimize(
        dense_value,
        mean.B.numpy().ravel(),
        jac=True,
        method="L-BFGS-B",
        options={"ftol": 1e-15, "gtol": 1e-10},
    )
    assert float(reached.detach()) == pytest.approx(theirs.fun, rel=1e-5)
    np.testing.assert_allclose(found.detach().numpy(), theirs.x.reshape(M, RANK), atol=2e-3)
    shifted = objective(kind, goal, mean, weight, found.detach() * 1.2)
    assert float(shifted) > float(reached.detach())


def test_a_cosine_can_leave_the_product_too_short_and_the_ridge_does_not():
    pairs = [pairs_of(1, seed=k)[0] for k in range(4)]  # clients that agree on nothing: means are short
    wanted = exact(pairs)
    lengths = {}
    for kind in ("ridge", "cosine_global", "cosine_columns"):
        reduction = get_method("lora-fair", objective=kind, ridge=1e-3).reduce(
            AdapterState(), updates_of(pairs)
        )
        lengths[kind] = np.linalg.norm(dense(reduction.state.lora["x"])) / np.linalg.norm(wanted)
        plain = FedIT().reduce(AdapterState(), updates_of(pairs))
        assert torch.equal(reduction.state.lora["x"].A, plain.state.lora["x"].A)
    assert lengths["cosine_global"] < 0.9 * lengths["ridge"]
    assert lengths["ridge"] <= 1.0


@pytest.mark.parametrize("kind", ["ridge", "cosine_global", "cosine_columns"])
@pytest.mark.parametrize("scale", [0.5, 4.0])
def test_the_correction_does_not_depend_on_the_unit_of_the_scale(kind, scale):
    plain, scaled = pairs_of(), pairs_of(scale=scale)
    method = LoraFair(objective=kind)
    one, other = (method.reduce(AdapterState(), updates_of(p)).state.lora["x"] for p in (plain, scaled))
    torch.testing.assert_close(one.B, other.B, rtol=1e-4, atol=1e-5)
    assert other.scale == scale


def test_nothing_to_correct_is_left_alone():
    zero = FactorPair(B=torch.zeros(M, RANK), A=torch.ones(RANK, N))
    for kind in ("cosine_global", "cosine_columns"):
        found = LoraFair(objective=kind).reduce(AdapterState(), updates_of([zero, zero]))
        assert not found.state.lora["x"].B.any()
        against = pairs_of(2)
        opposed = [FactorPair(B=p.B, A=p.A) for p in against]
        opposed[1] = FactorPair(B=-opposed[0].B / 2, A=opposed[0].A)  # weights 1 and 2: B averages to zero
        result = LoraFair(objective=kind).reduce(AdapterState(), updates_of(opposed))
        assert bool(torch.isfinite(result.state.lora["x"].B).all())


# -- other second answers --------------------------------------------------------------------------------------------


def test_alignment_is_scipys_orthogonal_procrustes():
    pair, reference = pairs_of(2)
    turn, _ = scipy.linalg.orthogonal_procrustes(pair.A.double().numpy().T, reference.A.double().numpy().T)
    np.testing.assert_allclose(
        align(pair, reference, by="A").A, turn.T @ pair.A.numpy(), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_flexlora_is_numpys_truncated_svd_of_the_dense_sum(rank):
    pairs = pairs_of()
    state = AdapterState(lora={"x": FactorPair(B=torch.zeros(M, rank), A=torch.ones(rank, N), scale=0.5)})
    found = FlexLoRA().reduce(state, updates_of(pairs)).state.lora["x"]
    u, s, vh = np.linalg.svd(exact(pairs))
    np.testing.assert_allclose(dense(found), (u[:, :rank] * s[:rank]) @ vh[:rank], rtol=1e-4, atol=1e-5)
    assert found.scale == 0.5


def test_a_real_layer_with_fedex_gives_the_mean_of_the_clients_outputs_and_a_transposed_residual_does_not():
    torch.manual_seed(0)
    pairs = pairs_of(m=N, n=N)
    layer, x = nn.Linear(N, N), torch.randn(7, N)
    reduction = FedEx().reduce(AdapterState(), updates_of(pairs))
    adapter, base = reduction.state.lora["x"], reduction.state.base_delta["x"]

    def output(moved):
        y = nn.functional.linear(x, layer.weight + moved, layer.bias)
        return y + adapter.scale * nn.functional.linear(nn.functional.linear(x, adapter.A), adapter.B)

    outputs = [
        layer(x) + pair.scale * nn.functional.linear(nn.functional.linear(x, pair.A), pair.B)
        for pair in pairs
    ]
    wanted = sum(p * y for p, y in zip(shares(4), outputs, strict=True))
    torch.testing.assert_close(output(base.scale * base.B @ base.A), wanted, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(output((base.scale * base.B @ base.A).T), wanted, atol=1e-2)


def test_a_frozen_orthonormal_factor_trains_as_the_svd_of_every_round_does():
    """FFA with orthonormal A and plain SGD is FedSVD, whose SVD each round only turns the basis."""
    g = torch.Generator().manual_seed(0)
    goal = torch.randn(M, N, generator=g, dtype=torch.float64)
    a = frozen_rows("x", RANK, N, 0).double()
    b = torch.randn(M, RANK, generator=g, dtype=torch.float64)

    def steps(b, a):
        for _ in range(4):
            b = b - 0.1 * (b @ a - goal) @ a.T
        return b

    fixed, turned_b, turned_a = b.clone(), b.clone(), a.clone()
    loose_b, loose_a = b.clone(), 2.0 * a  # a frozen factor that is not orthonormal does differ
    for _ in range(5):
        fixed = steps(fixed, a)
        u, s, vh = torch.linalg.svd(turned_b @ turned_a, full_matrices=False)
        turned_b, turned_a = steps(u[:, :RANK] * s[:RANK], vh[:RANK]), vh[:RANK]
        loose_b = steps(loose_b, loose_a)
    torch.testing.assert_close(fixed @ a, turned_b @ turned_a, rtol=1e-6, atol=1e-6)
    assert not torch.allclose(fixed @ a, loose_b @ loose_a, atol=1e-2)


def test_noise_reaches_the_product_as_the_formulas_say():
    std, trials, m, n = 0.1, 400, 30, 20
    g = torch.Generator().manual_seed(0)
    pair = pairs_of(1, m=m, n=n)[0]
    b, a = pair.B.double(), pair.A.double()
    rows = frozen_rows("x", RANK, n, 0).double()
    basis_b, basis_a = (v.double() for v in orthonormal_bases({"x": (m, n)}, RANK, 0)["x"])

    def noise(*shape):
        return std * torch.randn(*shape, generator=g, dtype=torch.float64)

    both = one = core = 0.0
    for _ in range(trials):
        both += float(((b + noise(m, RANK)) @ (a + noise(RANK, n)) - b @ a).square().sum()) / trials
        one += float((noise(m, RANK) @ rows).square().sum()) / trials
        core += float((basis_b @ noise(RANK, RANK) @ basis_a).square().sum()) / trials
    wanted = expected_noise_energy((m, n), RANK, float(b.square().sum()), float(a.square().sum()), std)
    assert both == pytest.approx(wanted, rel=0.05)
    assert one == pytest.approx(std**2 * m * RANK, rel=0.05)
    assert core == pytest.approx(std**2 * RANK**2, rel=0.1)
    assert core < one < both


def read_bit_by_bit(payload, count):
    """Rice code as a textbook reads it, one bit after the other."""
    kept, unary_bits, rice, size = struct.unpack_from("<IIBf", payload)
    bits = [payload[13 + i // 8] >> (i % 8) & 1 for i in range(8 * (len(payload) - 13))]
    low = 8 * math.ceil(unary_bits / 8)
    signs = low + 8 * math.ceil(kept * rice / 8)
    numbers, place, position = [0.0] * count, -1, 0
    for k in range(kept):
        quotient = 0
        while not bits[position]:
            quotient, position = quotient + 1, position + 1
        position += 1
        remainder = sum(bits[low + k * rice + i] << i for i in range(rice))
        place += (quotient << rice) + remainder + 1
        numbers[place] = size if bits[signs + k] else -size
    return numbers


@pytest.mark.parametrize("density", [0.02, 0.3, 1.0])
def test_sparse_signs_read_the_same_bit_by_bit(density):
    x = {"x": torch.randn(500, generator=torch.Generator().manual_seed(1))}
    scheme = Scheme(kind="ternary", density=density)
    payload = compress(x, scheme).payload
    ours = decompress(payload, {"x": (500,)}, scheme)["x"].tolist()
    assert ours == pytest.approx(read_bit_by_bit(payload, 500))
    assert any(ours)


def test_every_method_reduces_half_precision_as_the_float32_numbers_that_it_stands_for():
    for name in (
        "fedit",
        "lora-fair",
        "flexlora",
        "product",
        "fedex",
        "flora",
        "hetlora",
        "zero-pad",
        "rank-index",
    ):
        coarse = [FactorPair(B=p.B.bfloat16(), A=p.A.bfloat16(), scale=p.scale) for p in pairs_of()]
        fine = [FactorPair(B=p.B.float(), A=p.A.float(), scale=p.scale) for p in coarse]
        method = METHODS[name]
        states = [method.reduce(AdapterState(), updates_of(p)).state for p in (coarse, fine)]
        one, other = (dense(method.product(s)["x"]) for s in states)
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
        kinds = [p.B.dtype for p in (*states[0].lora.values(), *states[0].base_delta.values())]
        assert set(kinds) == {torch.float32}

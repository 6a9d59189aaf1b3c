"""Every method against a dense float64 numpy version written apart, on square, wide and tall layers, and with ranks
above the layer's smaller side."""

import numpy as np
import pytest
import torch

from aggregation.adapter import AdapterState, ClientUpdate, FactorPair, HalfPair
from aggregation.methods import METHODS, get_method

LAYERS = {"square": (12, 12), "wide": (7, 19), "tall": (23, 6)}
WEIGHTS = np.array([3.0, 2.0, 1.0])
P = WEIGHTS / WEIGHTS.sum()
SCALE = 1.5
MIXED, ONE, HIGH = [1, 3, 5], [4, 4, 4], [9, 9, 9]  # HIGH is over the smaller side of wide and of tall
RIDGE, ENERGY = 0.1, 0.8


def factors(ranks, seed=0):
    """Clients' (B, A) by layer, float64 values that float32 holds."""
    rng = np.random.default_rng(seed)
    return [
        {
            name: (
                rng.standard_normal((m, r)).astype(np.float32).astype(float),
                rng.standard_normal((r, n)).astype(np.float32).astype(float),
            )
            for name, (m, n) in LAYERS.items()
        }
        for r in ranks
    ]


def pair(b, a):
    return FactorPair(B=torch.tensor(b).float(), A=torch.tensor(a).float(), scale=SCALE)


def reduced(method, state, states):
    updates = [
        ClientUpdate(client_id=f"c{k}", weight=float(w), state=s)
        for k, (s, w) in enumerate(zip(states, WEIGHTS, strict=True))
    ]
    return method.reduce(state, updates).state


def whole(states):
    return [AdapterState(lora={k: pair(*f) for k, f in one.items()}) for one in states]


def products(state):
    total = {}
    for pairs in (state.lora, state.base_delta):
        for k, p in pairs.items():
            total[k] = total.get(k, 0) + p.scale * p.B.double().numpy() @ p.A.double().numpy()
    return total


# -- the dense versions ----------------------------------------------------------------------------------------------


def dense_sum(clients, name, weights=P):
    return sum(w * SCALE * c[name][0] @ c[name][1] for w, c in zip(weights, clients, strict=True))


def padded(value, rank, axis):
    wide = [(0, 0), (0, 0)]
    wide[axis] = (0, rank - value.shape[axis])
    return np.pad(value, wide)


def padded_means(clients, name, weights=P):
    rank = max(c[name][1].shape[0] for c in clients)
    b = sum(w * padded(c[name][0], rank, 1) for w, c in zip(weights, clients, strict=True))
    a = sum(w * padded(c[name][1], rank, 0) for w, c in zip(weights, clients, strict=True))
    return b, a


def truncated(matrix, rank):
    u, s, vh = np.linalg.svd(matrix, full_matrices=False)
    return (u[:, :rank] * s[:rank]) @ vh[:rank]


def dense_mean_of_factors(clients, name):
    b, a = padded_means(clients, name)
    return SCALE * b @ a


def dense_by_index(clients, name):
    rank = max(c[name][1].shape[0] for c in clients)
    held = np.array(
        [sum(p for p, c in zip(P, clients, strict=True) if c[name][1].shape[0] > i) for i in range(rank)]
    )
    b, a = padded_means(clients, name)
    return SCALE * (b / held) @ (a / held[:, None])


def dense_hetlora(clients, name):
    sizes = [
        np.sqrt(sum(np.linalg.norm(SCALE * b @ a) ** 2 for b, a in client.values())) for client in clients
    ]
    b, a = padded_means(clients, name, np.array(sizes) / sum(sizes))
    return SCALE * b @ a


def dense_fair(clients, name):
    b, a = padded_means(clients, name)
    target = dense_sum(clients, name) / SCALE
    ridge = RIDGE * np.trace(a @ a.T) / len(a)
    left = np.vstack([a.T, np.sqrt(ridge) * np.eye(len(a))])
    right = np.vstack([target.T, np.sqrt(ridge) * b.T])
    return SCALE * np.linalg.lstsq(left, right, rcond=None)[0].T @ a


def dense_florist(clients, name):
    matrix = dense_sum(clients, name)
    energy = np.cumsum(np.linalg.svd(matrix, compute_uv=False) ** 2)
    return truncated(matrix, int(np.argmax(energy >= ENERGY * energy[-1])) + 1)


def dense_flex(clients, name):
    return truncated(dense_sum(clients, name), max(c[name][1].shape[0] for c in clients))


DENSE = {
    "fedit": dense_mean_of_factors,
    "dp-lora": dense_mean_of_factors,
    "zero-pad": dense_mean_of_factors,
    "rank-index": dense_by_index,
    "hetlora": dense_hetlora,
    "lora-fair": dense_fair,
    "flora": dense_sum,
    "fedex": dense_sum,
    "product": dense_sum,
    "flexlora": dense_flex,
    "florist": dense_florist,
}
OPTIONS = {"lora-fair": {"ridge": RIDGE}, "florist": {"energy": ENERGY}}
CASES = [
    (name, ranks)
    for name in DENSE
    for ranks in ((MIXED, ONE, HIGH) if METHODS[name].allows_mixed_ranks else (ONE, HIGH))
]


def far(found, wanted):
    return np.linalg.norm(found - wanted) / np.linalg.norm(wanted)


@pytest.mark.parametrize(("name", "ranks"), CASES)
def test_factors_give_what_dense_matrices_give(name, ranks):
    method, clients = get_method(name, **OPTIONS.get(name, {})), factors(ranks)
    found = products(reduced(method, AdapterState(), whole(clients)))
    for layer in LAYERS:
        assert far(found[layer], DENSE[name](clients, layer)) < 2e-5, layer


def test_the_dense_versions_are_not_each_other_so_that_a_swap_is_seen():
    clients = factors(MIXED)
    kinds = [dense_mean_of_factors, dense_by_index, dense_hetlora, dense_sum, dense_flex, dense_florist]
    for i, one in enumerate(kinds):
        for other in kinds[i + 1 :]:
            if {one, other} == {dense_sum, dense_flex}:
                continue  # rank 5 may hold a layer of side 6 nearly whole
            assert max(far(one(clients, k), other(clients, k)) for k in LAYERS) > 1e-3


@pytest.mark.parametrize("name", ["fedit", "flora", "fedex", "lora-fair"])
def test_a_transposed_residual_or_sum_is_noticed_also_where_the_layer_is_square(name):
    clients = factors(ONE)
    found = products(reduced(get_method(name), AdapterState(), whole(clients)))["square"]
    assert far(found.T, DENSE[name](clients, "square")) > 0.1


@pytest.mark.parametrize(("name", "side"), [("ffa", "B"), ("rolora", "B"), ("rolora", "A")])
def test_one_factor_beside_a_shared_one_is_the_dense_mean_of_products(name, side):
    clients, shared = factors(ONE), factors([4], seed=9)[0]
    state = AdapterState(lora={k: pair(*f) for k, f in shared.items()})
    states = [
        AdapterState(
            halves={
                k: HalfPair(side=side, value=torch.tensor(b if side == "B" else a).float(), scale=SCALE)
                for k, (b, a) in client.items()
            }
        )
        for client in clients
    ]
    found = products(reduced(METHODS[name], state, states))
    for k in LAYERS:
        held = [(c[k][0], shared[k][1]) if side == "B" else (shared[k][0], c[k][1]) for c in clients]
        wanted = sum(p * SCALE * b @ a for p, (b, a) in zip(P, held, strict=True))
        assert far(found[k], wanted) < 1e-5


def test_fedsa_averages_rows_over_those_who_have_them():
    clients = factors(MIXED)
    before = factors([5], seed=9)[0]
    state = AdapterState(
        halves={
            k: HalfPair(side="A", value=torch.tensor(a).float(), scale=SCALE) for k, (_, a) in before.items()
        }
    )
    states = [
        AdapterState(
            halves={
                k: HalfPair(side="A", value=torch.tensor(a).float(), scale=SCALE) for k, (_, a) in c.items()
            }
        )
        for c in clients
    ]
    found = reduced(METHODS["fedsa"], state, states).halves
    for k in LAYERS:
        for row in range(5):
            held = [(p, c[k][1][row]) for p, c in zip(P, clients, strict=True) if len(c[k][1]) > row]
            wanted = sum(p * a for p, a in held) / sum(p for p, _ in held)
            np.testing.assert_allclose(found[k].value[row], wanted, rtol=1e-5, atol=1e-6)


def test_fed_sb_is_the_dense_mean_of_what_its_clients_hold():
    rng = np.random.default_rng(3)
    cores = [
        {k: rng.standard_normal((4, 4)).astype(np.float32).astype(float) for k in LAYERS} for _ in range(3)
    ]
    states = [AdapterState(cores={k: torch.tensor(c).float() for k, c in one.items()}) for one in cores]
    found = reduced(METHODS["fed-sb"], AdapterState(), states).cores
    for k, (m, n) in LAYERS.items():
        b = np.linalg.qr(rng.standard_normal((m, 4)))[0]
        a = np.linalg.qr(rng.standard_normal((n, 4)))[0].T
        wanted = sum(p * b @ one[k] @ a for p, one in zip(P, cores, strict=True))
        assert far(b @ found[k].double().numpy() @ a, wanted) < 1e-6

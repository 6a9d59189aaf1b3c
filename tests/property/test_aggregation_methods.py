"""What holds for any clients, ranks, weights and shapes; checks must fail on broken code."""

import itertools
import math
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

import aggregation.methods.base
import aggregation.methods.flora
from aggregation.adapter import AdapterState, ClientUpdate, FactorPair
from aggregation.initial import orthonormal_bases
from aggregation.kernels import stack
from aggregation.methods import METHODS, FedIT, FedSB, Flora, LoraFair
from aggregation.serialize import to_bytes

SHAPES = {"q": (48, 80), "v": (30, 21), "o": (33, 33)}
FIRST = ["fed-sb", "fedit", "flora", "lora-fair"]  # the others: test_library_rounds
QUICK = settings(max_examples=25, deadline=None)


def clients(ranks, *, seed=0, shapes=SHAPES, scale=2.0, weights=None, trains="lora"):
    g = torch.Generator().manual_seed(seed)
    made = []
    for k, rank in enumerate(ranks):
        lora = {
            layer: FactorPair(
                B=torch.randn(m, rank, generator=g), A=torch.randn(rank, n, generator=g) / n**0.5, scale=scale
            )
            for layer, (m, n) in shapes.items()
        }
        cores = {layer: torch.randn(rank, rank, generator=g) for layer in shapes}
        dense = {"head.weight": torch.randn(3, 5, generator=g), "head.bias": torch.randn(3, generator=g)}
        state = (
            AdapterState(cores=cores, dense=dense)
            if trains == "core"
            else AdapterState(lora=lora, dense=dense)
        )
        weight = weights[k] if weights else 1.0 + k
        made.append(ClientUpdate(client_id=f"client-{k:02d}", weight=weight, state=state))
    return made


def exact(updates, layer):
    """The dense float64 sum: what all is measured against."""
    total = math.fsum(u.weight for u in updates)
    return sum(
        u.weight
        / total
        * u.state.lora[layer].scale
        * u.state.lora[layer].B.double().numpy()
        @ u.state.lora[layer].A.double().numpy()
        for u in updates
    )


def dense(pair):
    return pair.scale * pair.B.double().numpy() @ pair.A.double().numpy()


def flora_miss(rounds, shapes=SHAPES):
    """Relative Frobenius error of the accumulated change after all rounds, all layers as one vector."""
    state = AdapterState()
    for updates in rounds:
        state = Flora().reduce(state, updates).state
    wanted = {layer: sum(exact(updates, layer) for updates in rounds) for layer in shapes}
    miss = sum(np.linalg.norm(dense(state.base_delta[layer]) - wanted[layer]) ** 2 for layer in shapes)
    return math.sqrt(miss / sum(np.linalg.norm(w) ** 2 for w in wanted.values()))


@pytest.mark.parametrize("num_rounds", [1, 2, 6])
def test_flora_of_ranks_1_4_7_16_on_non_square_layers_is_the_dense_sum(num_rounds):
    rounds = [clients([1, 4, 7, 16], seed=s) for s in range(num_rounds)]
    assert flora_miss(rounds) <= 1e-6


@QUICK
@given(
    ranks=st.lists(st.integers(1, 16), min_size=1, max_size=6),
    m=st.integers(1, 40),
    n=st.integers(1, 40),
    seed=st.integers(0, 2**31),
)
def test_flora_is_exact_for_any_ranks_and_any_shape(ranks, m, n, seed):
    shapes = {"x": (m, n)}
    assert flora_miss([clients(ranks, seed=seed, shapes=shapes) for _ in range(2)], shapes) <= 1e-5


def p_on_both(pairs, weights, *, dtype=torch.float32):
    weighed = [FactorPair(B=p.B * w, A=p.A, scale=p.scale) for p, w in zip(pairs, weights, strict=True)]
    return stack(weighed, weights, dtype=dtype)


def p_on_none(pairs, weights, *, dtype=torch.float32):
    return stack(pairs, [1.0] * len(pairs), dtype=dtype)


def scale_forgotten(pairs, weights, *, dtype=torch.float32):
    return stack([FactorPair(B=p.B, A=p.A) for p in pairs], weights, dtype=dtype)


def scale_squared(pairs, weights, *, dtype=torch.float32):
    return stack([FactorPair(B=p.B * p.scale, A=p.A, scale=p.scale) for p in pairs], weights, dtype=dtype)


def transposed(pairs, weights, *, dtype=torch.float32):
    whole = stack(pairs, weights, dtype=dtype)
    return FactorPair(B=whole.A.T, A=whole.B.T)


def uniform_weights(pairs, weights, *, dtype=torch.float32):
    return stack(pairs, [1 / len(pairs)] * len(pairs), dtype=dtype)


def weighed_by_rank(pairs, weights, *, dtype=torch.float32):
    ranks = [p.lora_rank for p in pairs]
    return stack(pairs, [r / sum(ranks) for r in ranks], dtype=dtype)


BROKEN = [p_on_both, p_on_none, scale_forgotten, scale_squared, transposed, uniform_weights, weighed_by_rank]


@pytest.mark.parametrize("broken", BROKEN)
def test_the_check_of_flora_fails_on_each_known_mistake(monkeypatch, broken):
    square = {"o": (33, 33)}  # a transposed change fits a square layer in silence
    assert flora_miss([clients([1, 4, 7, 16], shapes=square)], square) <= 1e-6
    monkeypatch.setattr(aggregation.methods.base, "stack", broken)
    assert flora_miss([clients([1, 4, 7, 16], shapes=square)], square) > 1e-2


def test_the_check_of_flora_fails_when_earlier_rounds_are_forgotten_or_counted_twice(monkeypatch):
    rounds = [clients([1, 4, 7], seed=s) for s in range(3)]
    right = aggregation.methods.flora.accumulate
    monkeypatch.setattr(aggregation.methods.flora, "accumulate", lambda _, added: right(None, added))
    assert flora_miss(rounds) > 1e-2
    monkeypatch.setattr(
        aggregation.methods.flora, "accumulate", lambda old, added: right(old and right(old, old), added)
    )
    assert flora_miss(rounds) > 1e-2


def fed_sb_miss(updates):
    reduced = FedSB().reduce(AdapterState(), updates).state
    bases = orthonormal_bases(SHAPES, 6, seed=3)
    total = math.fsum(u.weight for u in updates)
    worst = 0.0
    for layer, (b, a) in bases.items():
        b64, a64 = b.double(), a.double()
        wanted = sum(u.weight / total * 1.5 * b64 @ u.state.cores[layer].double() @ a64 for u in updates)
        found = FedSB().product(reduced, bases=bases, scale=1.5)[layer]
        gap = np.linalg.norm(dense(found) - wanted.numpy()) / np.linalg.norm(wanted.numpy())
        worst = max(worst, gap)
    return worst


@QUICK
@given(count=st.integers(1, 8), seed=st.integers(0, 2**31))
def test_fed_sb_average_of_cores_is_the_exact_average_of_changes(count, seed):
    assert fed_sb_miss(clients([6] * count, seed=seed, trains="core")) <= 1e-6


def test_the_check_of_fed_sb_fails_when_weights_are_ignored_or_old_rounds_are_kept(monkeypatch):
    updates = clients([6] * 4, trains="core")
    add = aggregation.methods.base.RunningMean.add
    with monkeypatch.context() as patch:
        patch.setattr(aggregation.methods.base.RunningMean, "add", lambda self, t, w: add(self, t, 1.0))
        assert fed_sb_miss(updates) > 1e-2
    stale = clients([6], seed=9, trains="core")[0].state

    def with_last_round(self, tensors, weight):
        if not self.count:
            add(self, stale.cores if "q" in tensors else stale.dense, 1.0)
        add(self, tensors, weight)

    monkeypatch.setattr(aggregation.methods.base.RunningMean, "add", with_last_round)
    assert fed_sb_miss(updates) > 1e-2


def test_fed_sb_mean_is_exact_where_float32_can_hold_it():
    cores = [torch.full((3, 3), float(v)) for v in (1, 2, 5, 8)]
    updates = [
        ClientUpdate(client_id=f"c{k}", weight=1.0, state=AdapterState(cores={"q": c}))
        for k, c in enumerate(cores)
    ]
    reduction = FedSB().reduce(AdapterState(), updates)
    assert torch.equal(reduction.state.cores["q"], torch.full((3, 3), 4.0))
    assert reduction.relative_error == 0.0


@pytest.mark.parametrize("name", FIRST)
@QUICK
@given(order=st.permutations(range(5)), seed=st.integers(0, 2**31))
def test_the_same_updates_give_the_same_bytes_whatever_order_they_arrived_in(name, order, seed):
    method = METHODS[name]
    updates = clients([4] * 5, seed=seed, trains=method.trains)
    arrived = [updates[i] for i in order]
    first = method.reduce(AdapterState(), iter(updates))
    again = method.reduce(AdapterState(), iter(sorted(arrived, key=lambda u: u.client_id)))
    assert to_bytes(first.state) == to_bytes(again.state)
    assert first.relative_error == again.relative_error
    if order != sorted(order):
        with pytest.raises(ValueError, match="sorted by client_id"):
            method.reduce(AdapterState(), iter(arrived))


def test_without_a_fixed_order_the_bytes_do_differ():
    def bytes_of(values):
        updates = [
            ClientUpdate(
                client_id=f"c{k}", weight=1.0, state=AdapterState(dense={"head": torch.full((2,), v)})
            )
            for k, v in enumerate(values)
        ]
        return to_bytes(FedIT().reduce(AdapterState(), updates).state)

    assert bytes_of([1e17, -1e17, 1.0]) != bytes_of([1e17, 1.0, -1e17])  # float64 holds no 1e17 + 1


def products(method, state):
    bases = orthonormal_bases(SHAPES, 4, seed=1) if method.trains == "core" else None
    return {layer: dense(pair) for layer, pair in method.product(state, bases=bases).items()}


def same(left, right, tolerance=1e-5):
    return (
        all(
            np.linalg.norm(left[k] - right[k]) <= tolerance * max(np.linalg.norm(left[k]), 1e-12)
            for k in left
        )
        and left.keys() == right.keys()
    )


@pytest.mark.parametrize("name", FIRST)
@QUICK
@given(factor=st.sampled_from([1e-3, 0.5, 7.0, 1e6]), seed=st.integers(0, 2**31))
def test_only_the_proportions_of_the_weights_matter(name, factor, seed):
    method = METHODS[name]
    plain = clients([4] * 3, seed=seed, trains=method.trains)
    scaled = clients([4] * 3, seed=seed, trains=method.trains, weights=[factor * u.weight for u in plain])
    changed = clients([4] * 3, seed=seed, trains=method.trains, weights=[9.0, 1.0, 1.0])
    states = [method.reduce(AdapterState(), u).state for u in (plain, scaled, changed)]
    found = [products(method, s) for s in states]
    assert same(found[0], found[1])
    assert not same(found[0], found[2])


@pytest.mark.parametrize("name", FIRST)
def test_a_client_split_into_two_halves_changes_nothing(name):
    method = METHODS[name]
    a, b = clients([4] * 2, trains=method.trains)
    halves = [ClientUpdate(client_id=a.client_id + x, weight=a.weight / 2, state=a.state) for x in "xy"]
    split = method.reduce(AdapterState(), [*halves, b]).state
    assert same(products(method, split), products(method, method.reduce(AdapterState(), [a, b]).state))


@pytest.mark.parametrize("name", FIRST)
def test_one_client_alone_and_equal_clients_get_their_own_change_back(name):
    method = METHODS[name]
    alone = clients([4], trains=method.trains)
    twins = [ClientUpdate(client_id=f"t{k}", weight=k + 1.0, state=alone[0].state) for k in range(3)]
    wanted = (
        products(method, alone[0].state)
        if method.trains == "core"
        else {layer: exact(alone, layer) for layer in SHAPES}
    )
    for updates in (alone, twins):
        reduction = method.reduce(AdapterState(), updates)
        assert same(products(method, reduction.state), wanted)
        assert reduction.relative_error < 1e-6
        torch.testing.assert_close(dict(reduction.state.dense), dict(alone[0].state.dense))


@QUICK
@given(seed=st.integers(0, 2**31), count=st.integers(2, 5), rank=st.integers(1, 6))
def test_fedit_error_is_the_covariance_of_the_factors(seed, count, rank):
    updates = clients([rank] * count, seed=seed)
    reduction = FedIT().reduce(AdapterState(), updates)
    total = math.fsum(u.weight for u in updates)
    miss = size = 0.0
    for layer in SHAPES:
        mean = reduction.state.lora[layer]
        spread = sum(
            u.weight
            / total
            * 2.0
            * (u.state.lora[layer].B - mean.B).double()
            @ (u.state.lora[layer].A - mean.A).double()
            for u in updates
        )
        miss += float(spread.square().sum())
        size += np.linalg.norm(exact(updates, layer)) ** 2
    assert reduction.relative_error == pytest.approx(math.sqrt(miss / size), rel=1e-4)


def test_fedit_is_exact_where_all_clients_share_a_factor_and_only_there():
    updates = clients([4] * 3)
    shared = updates[0].state.lora
    same_a = []
    for u in updates:
        lora = {k: FactorPair(B=p.B, A=shared[k].A, scale=p.scale) for k, p in u.state.lora.items()}
        same_a.append(ClientUpdate(client_id=u.client_id, weight=u.weight, state=AdapterState(lora=lora)))
    assert FedIT().reduce(AdapterState(), same_a).relative_error < 1e-6
    assert FedIT().reduce(AdapterState(), updates).relative_error > 0.1


@QUICK
@given(seed=st.integers(0, 2**31))
def test_errors_are_ordered_fedit_lora_fair_less_ridge_flora(seed):
    updates = clients([4] * 4, seed=seed)
    methods = [FedIT(), LoraFair(ridge=1.0), LoraFair(ridge=0.01), LoraFair(ridge=0.0), Flora()]
    errors = [m.reduce(AdapterState(), updates).relative_error for m in methods]
    assert all(left >= right - 1e-7 for left, right in itertools.pairwise(errors))
    assert errors[-1] < 1e-6 < 0.05 < errors[-2]


class Watch(TorchDispatchMode):
    """Collects the shapes of all results of torch."""

    def __init__(self):
        super().__init__()
        self.shapes = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(value, torch.Tensor):
                self.shapes.add(tuple(value.shape))
        return out


@pytest.mark.parametrize("count", [3, 40])
@pytest.mark.parametrize("method", [FedIT(), LoraFair(), Flora(), FedSB()], ids=lambda m: m.name)
def test_no_tensor_of_the_size_of_the_layer_is_made(method, count):
    shape = (600, 400)
    rank = 12 if method.name != "flora" else 400 // count - 1
    updates = clients([rank] * count, shapes={"x": shape}, trains=method.trains)
    with Watch() as watch:
        reduction = method.reduce(AdapterState(), updates)
    assert shape not in watch.shapes
    assert math.isfinite(reduction.relative_error)
    with Watch() as control:
        torch.zeros(shape)
    assert shape in control.shapes


def test_fed_sb_reads_a_round_as_a_stream_and_keeps_no_update():
    alive = []
    most = 0

    def stream():
        nonlocal most
        for k in range(12):
            core = torch.randn(5, 5)
            alive.append(weakref.ref(core))
            yield ClientUpdate(client_id=f"c{k:02d}", weight=1.0, state=AdapterState(cores={"q": core}))
            del core
            most = max(most, sum(ref() is not None for ref in alive))

    assert FedSB().reduce(AdapterState(), stream()).num_clients == 12
    assert most <= 3

"""Whole rounds of every method, over the wire, against what the clients' models hold; each check has a control."""

import dataclasses
import math
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import aggregation.methods.fedex
import aggregation.methods.redistribute
from aggregation.adapter import AdapterState, ClientUpdate, FactorPair, HalfPair
from aggregation.initial import orthonormal_bases
from aggregation.kernels import norm, stack
from aggregation.methods import METHODS, ExactProduct, FedEx, FlexLoRA, Florist, get_method
from aggregation.methods.base import RunningFactors
from aggregation.methods.hetlora import self_pruned, tail_penalty, tail_rank
from aggregation.methods.means import PaddedSum
from aggregation.serialize import from_bytes, to_bytes

SHAPES = {"q": (24, 30), "v": (17, 13)}
QUICK = settings(max_examples=15, deadline=None)
SEEDS = st.integers(0, 2**31)
ALPHA = 12.0
EXACT = ("flora", "fed-sb", "product", "fedex", "ffa", "rolora")
INEXACT = ("fedit", "lora-fair", "zero-pad", "rank-index", "flexlora", "hetlora", "dp-lora", "florist")


def dense(pair):
    return pair.scale * pair.B.double().numpy() @ pair.A.double().numpy()


def moved(tensor, generator, size=0.3):
    return tensor + size * torch.randn(tensor.shape, generator=generator)


class Fleet:
    """Clients that train by taking a random step on what the round trains; all messages are real bytes."""

    def __init__(self, method, ranks, *, seed=0, weights=None, same_scale=False):
        self.method, self.ranks, self.seed = method, ranks, seed
        self.weights = weights or [1.0 + k for k in range(len(ranks))]
        self.scales = [2.0 if same_scale else ALPHA / r for r in ranks]
        rank = max(ranks)
        self.state = method.initial_state(
            SHAPES,
            lora_rank=rank,
            scale=self.scales[ranks.index(rank)],
            dense={"head": torch.zeros(3)},
            seed=seed,
        )
        self.bases = orthonormal_bases(SHAPES, rank, seed) if method.trains == "core" else None
        self.personal = [None] * len(ranks)
        self.round_index = 0

    def start(self, k):
        rank, scale = self.ranks[k], self.scales[k]
        sent = self.method.starting_point(self.state, lora_rank=rank, scale=scale)
        return self.method.local_start(
            from_bytes(to_bytes(sent)),
            layer_shapes=SHAPES,
            lora_rank=rank,
            scale=scale,
            seed=self.seed,
            fresh_seed=1000 * self.round_index + k,
            personal=self.personal[k],
        )

    def trained(self, k, start):
        g = torch.Generator().manual_seed(self.seed + 7919 * self.round_index + k)
        which = self.method.trained_factors(self.round_index)
        lora = {
            layer: FactorPair(
                B=moved(p.B, g) if "B" in which else p.B,
                A=moved(p.A, g) if "A" in which else p.A,
                scale=p.scale,
            )
            for layer, p in start.lora.items()
        }
        cores = {layer: moved(core, g) for layer, core in start.cores.items()}
        return dataclasses.replace(
            start, lora=lora, cores=cores, dense={"head": moved(start.dense["head"], g)}
        )

    def play(self):
        """One round. Returns what each client's model held after training, layer -> dense change."""
        held, updates = [], []
        for k in range(len(self.ranks)):
            after = self.trained(k, self.start(k))
            self.personal[k] = self.method.personal_part(after)
            held.append(self.change(after))
            sent = from_bytes(to_bytes(self.method.trained_part(after, self.round_index)))
            updates.append(ClientUpdate(client_id=f"c{k:02d}", weight=self.weights[k], state=sent))
        self.updates = updates
        self.reduction = self.method.reduce(self.state, iter(updates))
        self.before, self.state = self.state, from_bytes(to_bytes(self.reduction.state))
        self.round_index += 1
        return held

    def change(self, held):
        """A client's model, or the server's, as dense changes of the first base."""
        if self.bases is not None:
            pairs = self.method.product(held, bases=self.bases, scale=2.0)
            return {layer: dense(pair) for layer, pair in pairs.items()}
        total = {layer: np.zeros(shape) for layer, shape in SHAPES.items()}
        for pairs in (held.lora, held.base_delta):
            for layer, pair in pairs.items():
                total[layer] += dense(pair)
        return total

    def miss(self, rounds):
        """Largest relative distance of the server's model to the mean of the clients' models, over rounds."""
        worst = 0.0
        for _ in range(rounds):
            held = self.play()
            found = self.method.product(self.state, bases=self.bases, scale=2.0)
            total = math.fsum(self.weights)
            for layer in SHAPES:
                wanted = sum(w / total * h[layer] for w, h in zip(self.weights, held, strict=True))
                gap = np.linalg.norm(dense(found[layer]) - wanted) / np.linalg.norm(wanted)
                worst = max(worst, gap)
        return worst


def ranks_for(method, mixed):
    return list(mixed) if method.allows_mixed_ranks else [max(mixed)] * len(mixed)


@pytest.mark.parametrize("name", EXACT)
@QUICK
@given(mixed=st.lists(st.integers(1, 6), min_size=1, max_size=4), seed=SEEDS)
def test_an_exact_method_leaves_the_mean_of_the_models_that_clients_hold(name, mixed, seed):
    method = METHODS[name]
    assert Fleet(method, ranks_for(method, mixed), seed=seed).miss(3) <= 2e-5


@pytest.mark.parametrize("name", INEXACT)
def test_the_same_check_fails_on_every_method_that_is_not_exact(name):
    method = METHODS[name] if name != "florist" else get_method("florist", energy=0.5)
    assert Fleet(method, [4, 4, 4]).miss(2) > 1e-3


def test_the_exact_and_the_others_are_all_there_is():
    assert {*EXACT, *INEXACT, "fedsa"} == set(METHODS)
    assert all(METHODS[name].name == name for name in METHODS)
    with pytest.raises(KeyError, match="there are dp-lora"):
        get_method("fedavg")
    with pytest.raises(TypeError):
        get_method("ffa", ridge=1.0)
    assert get_method("lora-fair", objective="cosine_global").objective == "cosine_global"


def wrong_sign(kept, mean):
    right = RESIDUAL(kept, mean)
    return right and FactorPair(B=-right.B, A=right.A)


def without_weights(kept, mean):
    return RESIDUAL([(pair, 1 / len(kept)) for pair, _ in kept], mean)


def not_centred(kept, mean):
    return stack([p for p, _ in kept], [w for _, w in kept], dtype=torch.float64)


RESIDUAL = aggregation.methods.fedex.residual


@pytest.mark.parametrize("broken", [wrong_sign, without_weights, not_centred])
def test_the_check_of_fedex_fails_on_each_known_mistake(monkeypatch, broken):
    assert Fleet(FedEx(), [3, 3, 3]).miss(2) <= 2e-5
    monkeypatch.setattr(aggregation.methods.fedex, "residual", broken)
    assert Fleet(FedEx(), [3, 3, 3]).miss(2) > 1e-2


def test_the_check_of_fedex_fails_where_a_residual_is_forgotten_or_counted_twice(monkeypatch):
    right = aggregation.methods.fedex.accumulate
    monkeypatch.setattr(aggregation.methods.fedex, "accumulate", lambda old, new: right(None, new))
    assert Fleet(FedEx(), [3, 3, 3]).miss(1) <= 2e-5
    assert Fleet(FedEx(), [3, 3, 3]).miss(3) > 1e-2
    monkeypatch.setattr(
        aggregation.methods.fedex, "accumulate", lambda old, new: right(old and right(old, old), new)
    )
    assert Fleet(FedEx(), [3, 3, 3]).miss(3) > 1e-2


def test_the_check_of_the_exact_product_fails_without_its_remainder_or_the_tails(monkeypatch):
    ranks = [1, 4, 2]
    assert Fleet(ExactProduct(), ranks).miss(3) <= 2e-5
    with monkeypatch.context() as patch:
        right = aggregation.methods.redistribute.split
        patch.setattr(aggregation.methods.redistribute, "split", lambda *a, **k: (right(*a, **k)[0], None))
        assert Fleet(ExactProduct(), ranks).miss(3) > 1e-2
    goals = aggregation.methods.redistribute._Goals
    monkeypatch.setattr(goals, "with_tails", lambda self, layer, trained: trained)
    assert Fleet(ExactProduct(), ranks).miss(1) <= 2e-5  # at first there is no tail
    assert Fleet(ExactProduct(), ranks).miss(3) > 1e-2


def test_the_check_of_shared_factors_fails_when_weights_or_scales_are_ignored(monkeypatch):
    assert Fleet(METHODS["ffa"], [2, 5, 3]).miss(2) <= 2e-5
    with monkeypatch.context() as patch:
        add = PaddedSum.add
        patch.setattr(PaddedSum, "add", lambda self, value, weight: add(self, value, 1.0))
        assert Fleet(METHODS["ffa"], [2, 5, 3]).miss(2) > 1e-2
        assert Fleet(METHODS["rolora"], [3, 3, 3]).miss(2) > 1e-2
    monkeypatch.setattr("aggregation.methods.means.same_scale", lambda left, right: True)
    assert Fleet(METHODS["ffa"], [2, 5, 3]).miss(2) > 1e-2
    assert Fleet(METHODS["ffa"], [2, 5, 3], same_scale=True).miss(2) <= 2e-5


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"fedsa"}))
@QUICK
@given(mixed=st.lists(st.integers(1, 5), min_size=2, max_size=4), seed=SEEDS)
def test_the_reported_error_is_the_distance_to_the_sum_of_what_was_sent(name, mixed, seed):
    method = METHODS[name]
    fleet = Fleet(method, ranks_for(method, mixed), seed=seed)
    for _ in range(2):
        held = fleet.play()
    total = math.fsum(fleet.weights)
    before = fleet.change(fleet.before)
    reached = fleet.method.product(fleet.state, bases=fleet.bases, scale=2.0)
    base = fleet.before.base_delta
    miss = size = 0.0
    for layer in SHAPES:
        folded = dense(base[layer]) if layer in base else np.zeros(SHAPES[layer])
        wanted = sum(w / total * h[layer] for w, h in zip(fleet.weights, held, strict=True)) - folded
        miss += np.linalg.norm(dense(reached[layer]) - folded - wanted) ** 2
        size += np.linalg.norm(wanted) ** 2
    assert before.keys() == SHAPES.keys()
    assert fleet.reduction.relative_error == pytest.approx(math.sqrt(miss / size), rel=1e-3, abs=2e-5)


@pytest.mark.parametrize("name", sorted(METHODS))
@QUICK
@given(order=st.permutations(range(4)), seed=SEEDS)
def test_every_method_gives_the_same_bytes_whatever_order_updates_arrived_in(name, order, seed):
    method = METHODS[name]
    fleet = Fleet(method, ranks_for(method, [2, 5, 3, 4]), seed=seed)
    fleet.play()
    fleet.play()
    arrived = [fleet.updates[i] for i in order]
    again = method.reduce(fleet.before, iter(sorted(arrived, key=lambda u: u.client_id)))
    assert to_bytes(again.state) == to_bytes(fleet.reduction.state)
    assert again.relative_error == fleet.reduction.relative_error
    if order != sorted(order):
        with pytest.raises(ValueError, match="sorted by client_id"):
            method.reduce(fleet.before, iter(arrived))


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"fedsa"}))
def test_before_the_first_round_every_client_starts_at_the_base_model(name):
    method = METHODS[name]
    fleet = Fleet(method, ranks_for(method, [2, 5]))
    for k in range(2):
        assert all(not change.any() for change in fleet.change(fleet.start(k)).values())
        assert all(pair.lora_rank == fleet.ranks[k] for pair in fleet.start(k).lora.values())


@pytest.mark.parametrize(
    "name", ["product", "fedex", "flora", "florist", "ffa", "rolora", "fedit", "lora-fair"]
)
def test_in_later_rounds_a_client_of_full_rank_starts_at_the_global_model(name):
    method = METHODS[name]
    fleet = Fleet(method, ranks_for(method, [2, 5]))
    fleet.play()
    wanted = method.product(fleet.state)
    found = fleet.change(fleet.start(1))
    for layer in SHAPES:
        np.testing.assert_allclose(found[layer], dense(wanted[layer]), rtol=1e-4, atol=1e-5)


def test_with_the_exact_product_every_client_starts_at_the_global_model_whatever_its_rank():
    fleet = Fleet(ExactProduct(), [1, 5])
    fleet.play()
    wanted = ExactProduct().product(fleet.state)
    small = fleet.change(fleet.start(0))
    cut = Fleet(FlexLoRA(), [1, 5])
    cut.play()
    for layer in SHAPES:
        np.testing.assert_allclose(small[layer], dense(wanted[layer]), rtol=1e-4, atol=1e-5)
        short = cut.change(cut.start(0))[layer]
        assert np.linalg.norm(short - dense(FlexLoRA().product(cut.state)[layer])) > 1e-2


@pytest.mark.parametrize("name", ["ffa", "rolora"])
def test_the_factor_that_is_not_trained_keeps_every_bit(name):
    fleet = Fleet(METHODS[name], [3, 3])
    for t in range(4):
        before = fleet.state
        fleet.play()
        side = METHODS[name].trained_factors(t)
        for layer, pair in fleet.state.lora.items():
            kept, changed = ("A", "B") if side == "B" else ("B", "A")
            assert torch.equal(getattr(pair, kept), getattr(before.lora[layer], kept))
            assert not torch.equal(getattr(pair, changed), getattr(before.lora[layer], changed))
            sent = [u.state.halves[layer].side for u in fleet.updates]
            assert sent == [changed, changed]
    assert [METHODS["rolora"].trained_factors(t) for t in range(4)] == ["B", "A", "B", "A"]


def test_the_frozen_rows_of_a_smaller_rank_are_the_first_rows_bit_for_bit():
    fleet = Fleet(METHODS["ffa"], [2, 6, 4])
    starts = [fleet.start(k) for k in range(3)]
    for layer in SHAPES:
        whole = starts[1].lora[layer].A
        assert torch.equal(starts[0].lora[layer].A, whole[:2])
        assert torch.equal(starts[2].lora[layer].A, whole[:4])
        assert torch.equal(fleet.state.lora[layer].A, whole)
        torch.testing.assert_close(whole @ whole.T, torch.eye(6), rtol=0, atol=1e-6)
    other = Fleet(METHODS["ffa"], [6], seed=1).start(0)
    assert not torch.equal(other.lora["q"].A, starts[1].lora["q"].A)
    with pytest.raises(ValueError, match="exceeds the width of v"):
        Fleet(METHODS["ffa"], [14])
    with pytest.raises(ValueError, match="exceeds the global rank"):
        METHODS["ffa"].starting_point(fleet.state, lora_rank=7)


def test_fedsa_never_sends_b_or_heads_and_gives_every_client_its_own_back():
    method = METHODS["fedsa"]
    fleet = Fleet(method, [2, 4, 4])
    fleet.play()
    kept = [fleet.personal[k] for k in range(3)]
    for k, update in enumerate(fleet.updates):
        assert {h.side for h in update.state.halves.values()} == {"A"}
        assert not update.state.dense
        start = fleet.start(k)
        for layer in SHAPES:
            assert torch.equal(start.lora[layer].B, kept[k].halves[layer].value)
            assert torch.equal(start.lora[layer].A, fleet.state.halves[layer].value[: fleet.ranks[k]])
        assert torch.equal(start.dense["head"], kept[k].dense["head"])
    assert fleet.reduction.relative_error < 1e-6
    first = [u.state.halves["q"].value.double() * u.weight for u in fleet.updates]
    wanted = sum(a[:2] for a in first) / 6.0
    torch.testing.assert_close(fleet.state.halves["q"].value[:2], wanted.float(), rtol=1e-6, atol=1e-7)
    wanted = (
        sum(a[2:] for a in first[1:]) / 5.0
    )  # the third client and the second have these rows, the first not
    torch.testing.assert_close(fleet.state.halves["q"].value[2:], wanted.float(), rtol=1e-6, atol=1e-7)
    with pytest.raises(ValueError, match="no global product"):
        method.product(fleet.state)
    assert method.product(start).keys() == SHAPES.keys()
    both = dataclasses.replace(fleet.updates[0].state, dense={"head": torch.zeros(3)})
    with pytest.raises(ValueError, match="heads, which are personal"):
        method.reduce(fleet.before, [ClientUpdate(client_id="a", weight=1.0, state=both)])
    fleet.ranks[0] = 3
    with pytest.raises(ValueError, match="the B that was kept"):
        fleet.start(0)
    with pytest.raises(ValueError, match="exceeds the global rank"):
        method.starting_point(fleet.state, lora_rank=9)


def test_rolora_refuses_two_factors_in_one_round_and_other_ranks():
    fleet = Fleet(METHODS["rolora"], [3, 3])
    fleet.play()
    first, second = fleet.updates
    turned = {k: HalfPair(side="A", value=torch.ones(3, SHAPES[k][1])) for k in SHAPES}
    mixed = dataclasses.replace(second, state=dataclasses.replace(second.state, halves=turned))
    with pytest.raises(ValueError, match="shapes differ from the state's"):
        METHODS["rolora"].reduce(fleet.before, [first, mixed])
    narrow = {k: HalfPair(side="B", value=h.value[:, :2]) for k, h in second.state.halves.items()}
    small = dataclasses.replace(second, state=dataclasses.replace(second.state, halves=narrow))
    with pytest.raises(ValueError, match="use ffa or flora"):
        METHODS["rolora"].reduce(fleet.before, [first, small])
    none = dataclasses.replace(second, state=dataclasses.replace(second.state, halves={}))
    with pytest.raises(ValueError, match="layers differ"):
        METHODS["rolora"].reduce(fleet.before, [first, none])


@QUICK
@given(mixed=st.lists(st.integers(1, 6), min_size=1, max_size=4), seed=SEEDS, energy=st.floats(0.3, 1.0))
def test_florist_loses_no_more_than_the_energy_it_may(mixed, seed, energy):
    fleet = Fleet(Florist(energy=energy), mixed, seed=seed)
    fleet.play()
    layers = [norm(p) ** 2 for p in exact_sums(fleet).values()]
    assert fleet.reduction.relative_error <= math.sqrt(1 - energy) + 1e-5
    assert sum(layers) > 0
    with pytest.raises(ValueError, match="must be above 0"):
        Florist(energy=0.0).reduce(fleet.before, fleet.updates)


def exact_sums(fleet):
    factors = RunningFactors({})
    for update in fleet.updates:
        factors.add(update.state.lora, update.weight)
    return factors.exact()


def test_flexlora_errs_by_what_no_pair_of_its_rank_can_hold_and_a_truncated_redistribution_is_nested():
    fleet = Fleet(FlexLoRA(), [2, 5, 3])
    fleet.play()
    values = [np.linalg.svd(dense(pair), compute_uv=False) for pair in exact_sums(fleet).values()]
    cut, whole = sum((v[5:] ** 2).sum() for v in values), sum((v**2).sum() for v in values)
    assert fleet.reduction.relative_error == pytest.approx(math.sqrt(cut / whole), rel=1e-4)
    wide, narrow = (FlexLoRA().starting_point(fleet.state, lora_rank=r).lora["q"] for r in (4, 2))
    assert torch.equal(wide.B[:, :2], narrow.B)
    assert torch.equal(wide.A[:2], narrow.A)


@pytest.mark.parametrize("name", ["flexlora", "product", "zero-pad", "rank-index", "hetlora"])
def test_no_component_is_dead_after_a_round_that_moved_nothing(name):
    method = METHODS[name]
    fleet = Fleet(method, [2, 4])
    start = [method.trained_part(fleet.start(k)) for k in range(2)]
    updates = [ClientUpdate(client_id=f"c{k}", weight=1.0, state=s) for k, s in enumerate(start)]
    state = method.reduce(fleet.state, updates).state
    assert state.lora.keys() == SHAPES.keys()
    for pair in state.lora.values():
        assert not pair.B.any()
        assert bool((pair.A.norm(dim=1) > 0).all())
        assert pair.lora_rank == 4


def test_components_that_no_client_of_a_round_has_fade_with_padding_and_stay_with_the_mean_by_index():
    for name, stays in (("rank-index", True), ("zero-pad", False)):
        method = METHODS[name]
        fleet = Fleet(method, [2, 4], same_scale=True)
        fleet.play()
        small = Fleet(method, [2], same_scale=True)
        small.state = before = fleet.state
        small.play()
        after = small.state.lora["q"]
        assert after.lora_rank == 4
        assert torch.equal(after.A[2:], before.lora["q"].A[2:]) == stays
        assert bool(after.B[:, 2:].any()) == stays


def test_hetlora_prunes_a_tail_that_has_shrunk_and_only_then():
    g = torch.Generator().manual_seed(0)
    before = {"q": FactorPair(B=torch.randn(6, 8, generator=g), A=torch.randn(8, 5, generator=g), scale=1.5)}
    shrunk = {"q": FactorPair(B=before["q"].B * 0.9, A=before["q"].A, scale=1.5)}
    grown = {"q": FactorPair(B=before["q"].B * 1.1, A=before["q"].A, scale=1.5)}
    assert tail_rank(8, 0.75) == 6
    pruned = self_pruned(shrunk, before, keep=0.75)["q"]
    assert (pruned.lora_rank, pruned.scale) == (6, 1.5)
    assert torch.equal(pruned.B, shrunk["q"].B[:, :6])
    assert self_pruned(grown, before, keep=0.75)["q"].lora_rank == 8
    assert self_pruned(before, before, keep=0.75)["q"].lora_rank == 8
    tail = torch.linalg.norm(before["q"].B[:, 6:]) * torch.linalg.norm(before["q"].A[6:])
    assert float(tail_penalty(before["q"], 0.75)) == pytest.approx(float(tail))
    assert tail_rank(1, 0.99) == 1
    for bad in (0.0, 1.1):
        with pytest.raises(ValueError, match="must be above 0"):
            tail_rank(8, bad)
    with pytest.raises(ValueError, match="layers differ"):
        self_pruned(shrunk, {})


@pytest.mark.parametrize("name", ["fed-sb", "ffa", "rolora", "fedsa"])
def test_methods_that_average_what_is_sent_keep_no_update(name):
    method = METHODS[name]
    fleet = Fleet(method, [3])
    fleet.play()
    update = fleet.updates[0].state
    alive, most = [], 0

    def stream():
        nonlocal most
        for k in range(12):
            state = AdapterState(
                halves={
                    layer: HalfPair(side=h.side, value=h.value.clone(), scale=h.scale)
                    for layer, h in update.halves.items()
                },
                cores={layer: core.clone() for layer, core in update.cores.items()},
                dense=update.dense,
            )
            alive.append(weakref.ref((*state.cores.values(), *(h.value for h in state.halves.values()))[0]))
            yield ClientUpdate(client_id=f"c{k:02d}", weight=1.0, state=state)
            del state
            most = max(most, sum(ref() is not None for ref in alive))

    assert method.reduce(fleet.before, stream()).num_clients == 12
    assert most <= 3


def test_the_exact_sum_holds_a_dense_matrix_instead_of_more_factors_and_is_the_same_sum():
    shape, count = (12, 9), 40
    g = torch.Generator().manual_seed(0)
    pairs = [
        FactorPair(B=torch.randn(12, 2, generator=g), A=torch.randn(2, 9, generator=g), scale=1 + k)
        for k in range(count)
    ]
    factors, widest = RunningFactors({}), 0
    for k, pair in enumerate(pairs):
        factors.add({"q": pair}, 1.0 + k)
        widest = max(widest, sum(p.lora_rank for p, _ in factors._kept["q"]))
    assert widest <= 2 * min(shape)
    assert factors.kept("q") is None
    wanted = sum(w * dense(p) for p, w in zip(pairs, factors.shares, strict=True))
    found = factors.exact()["q"]
    assert found.lora_rank == min(shape)
    np.testing.assert_allclose(dense(found), wanted, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(dense(factors.exact()["q"]), wanted, rtol=1e-12, atol=1e-12)
    few = RunningFactors({})
    few.add({"q": pairs[0]}, 1.0)
    assert few.kept("q") == [(pairs[0], 1.0)]


@pytest.mark.parametrize("name", ["fedit", "lora-fair", "fedex", "product", "flexlora", "flora", "hetlora"])
def test_methods_agree_with_themselves_when_the_stack_is_wider_than_the_layer(name, monkeypatch):
    method = METHODS[name]
    fleet = Fleet(method, [4] * 12, same_scale=True)
    assert sum(fleet.ranks) > 2 * min(SHAPES["v"])
    held = fleet.play()
    total = math.fsum(fleet.weights)
    wide = {k: dense(p) for k, p in method.product(fleet.state).items()}
    monkeypatch.setattr(RunningFactors, "_widen", lambda self, layer: None)
    narrow = method.reduce(fleet.before, fleet.updates)
    for layer, pair in method.product(narrow.state).items():
        np.testing.assert_allclose(wide[layer], dense(pair), rtol=1e-4, atol=1e-5)
    assert narrow.relative_error == pytest.approx(fleet.reduction.relative_error, rel=1e-4, abs=1e-6)
    if name in EXACT:
        for layer in SHAPES:
            wanted = sum(w / total * h[layer] for w, h in zip(fleet.weights, held, strict=True))
            np.testing.assert_allclose(wide[layer], wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["zero-pad", "hetlora", "flexlora", "product", "ffa"])
def test_scales_that_can_not_be_folded_are_refused(name):
    method = METHODS[name]
    fleet = Fleet(method, [2, 4])
    fleet.play()
    if name in ("zero-pad", "hetlora", "flexlora", "product"):
        with pytest.raises(ValueError, match="can not be folded"):
            method.starting_point(fleet.state, lora_rank=2, scale=-1.0)
        with pytest.raises(ValueError, match="at least 1"):
            method.starting_point(fleet.state, lora_rank=-1)
    if name in ("zero-pad", "hetlora"):
        pair = fleet.updates[0].state.lora
        turned = {k: FactorPair(B=p.B, A=p.A, scale=-p.scale) for k, p in pair.items()}
        bad = ClientUpdate(
            client_id="x", weight=1.0, state=AdapterState(lora=turned, dense=fleet.state.dense)
        )
        with pytest.raises(ValueError, match="can not be folded"):
            method.reduce(fleet.before, [bad])


def test_means_need_someone_of_positive_weight_and_one_width():
    empty = PaddedSum("A")
    for read in (empty.mean, lambda: empty.mean_by_index(None)):
        with pytest.raises(ValueError, match="positive weight"):
            read()
    empty.add(torch.ones(2, 3), 1.0)
    with pytest.raises(ValueError, match="shapes differ"):
        empty.add(torch.ones(2, 4), 1.0)

"""Rules against a few wrong clients: what they bound, that an honest gauge changes nothing, what they can not do."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import aggregation.robust
from aggregation.adapter import AdapterState, ClientUpdate, FactorPair, HalfPair
from aggregation.geometry import changes_gram, half_gram, squared_distances, state_gram, tensor_gram
from aggregation.kernels import stack
from aggregation.methods import FedIT, FedSB, Flora
from aggregation.robust import (
    canonical,
    clipped,
    coordinate_median,
    coordinate_trimmed_mean,
    geometric_median,
    multi_krum,
    norm_clip,
    reweighted,
    trimmed,
)

QUICK = settings(max_examples=25, deadline=None)
SEEDS = st.integers(0, 2**31)
COUNT, BAD, SHAPE, RANK = 20, 4, (40, 30), 4
ALIKE = [1 / COUNT] * COUNT


def honest(seed=0, count=COUNT):
    """Clients that agree up to noise, as trained from one start."""
    g = torch.Generator().manual_seed(seed)
    b, a = torch.randn(SHAPE[0], RANK, generator=g), torch.randn(RANK, SHAPE[1], generator=g)
    return [
        FactorPair(
            B=b + 0.2 * torch.randn(b.shape, generator=g), A=a + 0.2 * torch.randn(a.shape, generator=g)
        )
        for _ in range(count)
    ]


def regauged(pair, seed, kind):
    g = torch.Generator().manual_seed(seed)
    turn = torch.linalg.qr(torch.randn(RANK, RANK, generator=g)).Q
    if kind == "scaled":
        turn = torch.diag(torch.logspace(-1, 1, RANK)) * 5.0
    return FactorPair(B=pair.B @ torch.linalg.inv(turn), A=turn @ pair.A, scale=pair.scale)


def attacked(kind, seed=0):
    pairs = honest(seed)
    for k in range(BAD):
        if kind in ("rotated", "scaled"):
            pairs[k] = regauged(pairs[k], k, kind)
        elif kind == "sign":
            pairs[k] = FactorPair(B=-3 * pairs[k].B, A=pairs[k].A)
        elif kind == "large":
            pairs[k] = FactorPair(B=-30 * pairs[k].B, A=pairs[k].A)
        elif kind == "hidden":  # a harmless product, huge factors
            pairs[k] = FactorPair(B=1e-3 * pairs[k].B, A=1e3 * pairs[k].A)
    return pairs


def updates_of(pairs):
    return [
        ClientUpdate(client_id=f"c{k:02d}", weight=1.0, state=AdapterState(lora={"q": p}))
        for k, p in enumerate(pairs)
    ]


def dense(pair):
    return pair.scale * pair.B.double().numpy() @ pair.A.double().numpy()


def gram_of(pairs):
    return changes_gram([u.state for u in updates_of(pairs)], AdapterState())


RULES = {
    "median": lambda g, p: geometric_median(g, p),
    "krum": lambda g, p: multi_krum(g, p, BAD),
    "trimmed": lambda g, p: trimmed(g, p, BAD),
    "clip": lambda g, p: norm_clip(g, p, float(g.diagonal().sqrt().median())),
}


def miss(kind, rule, seed=0):
    """Relative error of FLoRA's exact sum under a rule, against the mean of the honest."""
    pairs = attacked(kind, seed)
    weights = RULES[rule](gram_of(pairs), ALIKE) if rule else tuple(ALIKE)
    found = Flora().reduce(AdapterState(), reweighted(updates_of(pairs), weights)).state.base_delta["q"]
    wanted = sum(dense(p) for p in honest(seed)[BAD:]) / (COUNT - BAD)
    return np.linalg.norm(dense(found) - wanted) / np.linalg.norm(wanted)


@pytest.mark.parametrize("kind", ["sign", "large"])
@pytest.mark.parametrize(
    ("rule", "most"), [("krum", 0.02), ("trimmed", 0.02), ("median", 0.15), ("clip", 0.5)]
)
def test_a_fifth_of_wrong_clients_moves_the_result_little_and_the_plain_mean_far(kind, rule, most):
    assert miss(kind, rule) <= most
    assert miss(kind, None) > 0.7
    assert miss("none", rule) <= 0.1


@pytest.mark.parametrize("kind", ["rotated", "scaled", "hidden"])
@pytest.mark.parametrize("rule", sorted(RULES))
def test_another_gauge_of_the_same_product_changes_no_weight(kind, rule):
    plain = RULES[rule](gram_of(attacked("none")), ALIKE)
    turned = RULES[rule](gram_of(attacked(kind)), ALIKE)
    np.testing.assert_allclose(turned, plain, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("kind", ["rotated", "scaled"])
def test_the_check_of_gauges_fails_for_distances_between_factors(kind):
    def factors_gram(pairs):
        return tensor_gram([torch.cat([p.B.flatten(), p.A.flatten()]) for p in pairs])

    plain, turned = (multi_krum(factors_gram(attacked(k)), ALIKE, BAD) for k in ("none", kind))
    assert turned[:BAD] == (0.0,) * BAD  # honest clients, thrown out for their gauge
    assert plain[:BAD] != turned[:BAD]


def test_huge_factors_of_a_harmless_product_break_means_of_factors_and_the_canonical_gauge_mends_it():
    pairs = attacked("hidden")
    wanted = sum(dense(p) for p in pairs) / COUNT
    raw = FedIT().reduce(AdapterState(), updates_of(pairs))
    mended = FedIT().reduce(AdapterState(), [canonical(u) for u in updates_of(pairs)])
    assert raw.relative_error > 10
    assert mended.relative_error < 2
    for update in updates_of(pairs):
        same = canonical(update).state.lora["q"]
        assert np.linalg.norm(dense(same) - dense(update.state.lora["q"])) <= 1e-4 * np.linalg.norm(wanted)


@pytest.mark.parametrize("rule", sorted(RULES))
@QUICK
@given(order=st.permutations(range(COUNT)), seed=SEEDS)
def test_weights_follow_their_clients_and_sum_to_one(rule, order, seed):
    pairs = attacked("sign", seed)
    weights = np.array(RULES[rule](gram_of(pairs), ALIKE))
    moved = np.array(RULES[rule](gram_of([pairs[i] for i in order]), ALIKE))
    np.testing.assert_allclose(moved, weights[list(order)], rtol=1e-6, atol=1e-9)
    assert weights.sum() == pytest.approx(1.0)
    assert (weights >= 0).all()


@QUICK
@given(seed=SEEDS)
def test_weiszfeld_in_gram_coordinates_is_weiszfeld_on_the_dense_products(seed):
    pairs = attacked("sign", seed)
    flat = np.stack([dense(p).ravel() for p in pairs])
    weights = np.array(geometric_median(gram_of(pairs), ALIKE, steps=500))
    centre = flat.mean(0)
    for _ in range(500):
        closeness = 1 / np.maximum(np.linalg.norm(flat - centre, axis=1), 1e-12)
        centre = closeness @ flat / closeness.sum()
    assert np.linalg.norm(weights @ flat - centre) <= 1e-4 * np.linalg.norm(centre)
    cost = np.linalg.norm(flat - weights @ flat, axis=1).sum()
    assert cost <= np.linalg.norm(flat - flat.mean(0), axis=1).sum()


@QUICK
@given(seed=SEEDS, num_bad=st.integers(0, 3))
def test_multi_krum_is_the_textbook_rule_on_dense_products(seed, num_bad):
    pairs = honest(seed, 9)
    flat = np.stack([dense(p).ravel() for p in pairs])
    squared = ((flat[:, None] - flat[None]) ** 2).sum(-1)
    scores = [np.sort(np.delete(row, k))[: 9 - num_bad - 2].sum() for k, row in enumerate(squared)]
    kept = set(np.argsort(scores, kind="stable")[: 9 - num_bad])
    weights = multi_krum(gram_of(pairs), [1 / 9] * 9, num_bad)
    assert {k for k, w in enumerate(weights) if w > 0} == kept


def test_the_check_of_krum_fails_when_a_client_is_its_own_neighbour(monkeypatch):
    pairs = attacked("large")
    for k in range(BAD):  # colluding: all at one place
        pairs[k] = pairs[0]
    weights = multi_krum(gram_of(pairs), ALIKE, BAD)
    assert weights[:BAD] == (0.0,) * BAD
    right = aggregation.robust.squared_distances
    monkeypatch.setattr(aggregation.robust, "squared_distances", lambda g: -right(g))
    assert multi_krum(gram_of(pairs), ALIKE, BAD)[:BAD] != (0.0,) * BAD


def test_shares_count_and_a_clip_bounds_one_clients_pull():
    pairs = honest(0, 5)
    gram = gram_of(pairs)
    heavy = geometric_median(gram, [0.96, 0.01, 0.01, 0.01, 0.01])
    assert heavy[0] > 0.9
    assert norm_clip(gram, [5.0, 1, 1, 1, 1], 1e9) == pytest.approx((5 / 9, 1 / 9, 1 / 9, 1 / 9, 1 / 9))
    bound = 2 * float(gram.diagonal().sqrt().max())
    huge = [*pairs[:4], FactorPair(B=1e6 * pairs[4].B, A=pairs[4].A)]
    weights = norm_clip(gram_of(huge), [0.2] * 5, bound)
    pull = weights[4] * np.linalg.norm(dense(huge[4]))
    assert pull <= 0.2 * bound / 0.8 * (1 + 1e-9)
    assert 0.2 * np.linalg.norm(dense(huge[4])) > 1e4 * bound  # without the clip


def test_what_makes_no_sense_is_refused():
    gram = gram_of(honest(0, 5))
    shares = [0.2] * 5
    for bad in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="must be positive"):
            norm_clip(gram, shares, bad)
    with pytest.raises(ValueError, match="needs 2 f"):
        multi_krum(gram, shares, 2)
    for count in (-1, 5):
        with pytest.raises(ValueError, match="can not be dropped"):
            trimmed(gram, shares, count)
    for wrong in ([0.2] * 4, [0.5, 0.5, 0.0, 0.0, 0.0]):
        with pytest.raises(ValueError, match="positive shares"):
            geometric_median(gram, wrong)
    with pytest.raises(ValueError, match="finite"):
        geometric_median(gram * math.nan, shares)
    with pytest.raises(ValueError, match=r"shorter|longer"):
        reweighted(updates_of(honest(0, 3)), (0.5, 0.5))
    assert [u.client_id for u in reweighted(updates_of(honest(0, 3)), (0.5, 0.0, 0.5))] == ["c00", "c02"]


# -- cores -----------------------------------------------------------------------------------------------------------


def cores(values):
    return [
        AdapterState(cores={"q": torch.full((2, 2), v)}, dense={"h": torch.full((3,), -v)}) for v in values
    ]


def test_coordinate_rules_by_hand():
    states = cores([1.0, 2.0, 3.0, 4.0, 1000.0])
    assert torch.equal(coordinate_trimmed_mean(states, 1).cores["q"], torch.full((2, 2), 3.0))
    assert torch.equal(coordinate_median(states).dense["h"], torch.full((3,), -3.0))
    assert torch.equal(coordinate_median(states[:4]).cores["q"], torch.full((2, 2), 2.5))
    assert torch.equal(coordinate_trimmed_mean(states, 0).cores["q"], torch.full((2, 2), 202.0))
    with pytest.raises(ValueError, match="leave none"):
        coordinate_trimmed_mean(states[:4], 2)
    with pytest.raises(ValueError, match="have a gauge"):
        coordinate_median([u.state for u in updates_of(honest(0, 3))])
    with pytest.raises(ValueError, match="names of tensors differ"):
        coordinate_median([*states, AdapterState(cores={"v": torch.ones(2, 2)})])


@QUICK
@given(seed=SEEDS, bound=st.floats(0.01, 10))
def test_a_clipped_core_changes_by_no_more_than_the_bound_in_the_same_direction(seed, bound):
    g = torch.Generator().manual_seed(seed)
    start = AdapterState(
        cores={"q": torch.randn(3, 3, generator=g)}, dense={"h": torch.randn(4, generator=g)}
    )
    state = AdapterState(
        cores={"q": torch.randn(3, 3, generator=g)}, dense={"h": torch.randn(4, generator=g)}
    )

    def move(s):
        return torch.cat([(s.cores["q"] - start.cores["q"]).flatten(), s.dense["h"] - start.dense["h"]])

    after = clipped(state, start, bound)
    assert float(move(after).norm()) <= bound * (1 + 1e-5) + 1e-6
    cosine = torch.nn.functional.cosine_similarity(move(after), move(state), dim=0)
    assert float(cosine) == pytest.approx(1.0, abs=1e-3)
    torch.testing.assert_close(clipped(start, start, bound).cores["q"], start.cores["q"])
    mean = FedSB().reduce(start, [ClientUpdate(client_id="a", weight=1.0, state=after)]).state
    assert float(move(mean).norm()) <= bound * (1 + 1e-5) + 1e-6
    with pytest.raises(ValueError, match="must be positive"):
        clipped(state, start, 0.0)
    with pytest.raises(ValueError, match="use norm_clip"):
        clipped(updates_of(honest(0, 1))[0].state, start, 1.0)


def test_factors_alone_are_compared_padded_and_scaled():
    halves = [
        HalfPair(side="B", value=torch.ones(3, 2), scale=2.0),
        HalfPair(side="B", value=torch.ones(3, 1), scale=1.0),
    ]
    assert half_gram(halves).tolist() == [[24.0, 6.0], [6.0, 3.0]]
    states = [AdapterState(halves={"q": h}) for h in halves]
    assert torch.equal(state_gram(states), half_gram(halves))
    assert float(squared_distances(half_gram(halves))[0, 1]) == 15.0
    a = [HalfPair(side="A", value=torch.ones(2, 3)), HalfPair(side="A", value=torch.ones(1, 3))]
    assert half_gram(a).tolist() == [[6.0, 3.0], [3.0, 3.0]]
    with pytest.raises(ValueError, match="different sides"):
        half_gram([halves[0], a[0]])


def test_a_rule_composes_with_every_weighted_mean_of_products():
    pairs = attacked("large")
    weights = multi_krum(gram_of(pairs), ALIKE, BAD)
    chosen = reweighted(updates_of(pairs), weights)
    assert [dataclasses.replace(u, weight=1.0) for u in chosen] == updates_of(pairs)[BAD:]
    whole = stack([u.state.lora["q"] for u in chosen], [u.weight for u in chosen])
    found = Flora().reduce(AdapterState(), chosen).state.base_delta["q"]
    assert np.linalg.norm(dense(whole) - dense(found)) <= 1e-5 * np.linalg.norm(dense(whole))

"""What holds for every method: proportions, split clients, one client alone, equal clients, one round at a time.

Each check fails on a method that is broken on purpose.
"""

import dataclasses

import numpy as np
import pytest
import torch

from aggregation.adapter import AdapterState, ClientUpdate, FactorPair
from aggregation.initial import orthonormal_bases
from aggregation.methods import METHODS
from aggregation.methods.base import in_order

SHAPES = {"q": (12, 20), "v": (17, 9)}
RANK = 3
EVERY = pytest.mark.parametrize("name", sorted(METHODS))
READS_WEIGHTS = pytest.mark.parametrize("name", sorted(set(METHODS) - {"hetlora"}))  # its weights are its own


def started(method, seed=0):
    return method.initial_state(SHAPES, lora_rank=RANK, scale=2.0, dense={"head": torch.zeros(3)}, seed=seed)


def sent(method, state, seed, *, round_index=0):
    """What a client sends after a random step."""
    start = method.local_start(
        method.starting_point(state, lora_rank=RANK, scale=2.0), layer_shapes=SHAPES, lora_rank=RANK, scale=2.0,
        seed=0, fresh_seed=5,
    )  # fmt: skip
    g = torch.Generator().manual_seed(seed)
    which = method.trained_factors(round_index)

    def moved(value):
        return value + torch.randn(value.shape, generator=g)

    lora = {
        k: FactorPair(
            B=moved(p.B) if "B" in which else p.B, A=moved(p.A) if "A" in which else p.A, scale=p.scale
        )
        for k, p in start.lora.items()
    }
    after = dataclasses.replace(
        start,
        lora=lora,
        cores={k: moved(c) for k, c in start.cores.items()},
        dense={"head": moved(torch.zeros(3))},
    )
    return method.trained_part(after, round_index)


def reduced(method, state, states, weights):
    updates = [
        ClientUpdate(client_id=f"c{k:02d}", weight=w, state=s)
        for k, (s, w) in enumerate(zip(states, weights, strict=True))
    ]
    return method.reduce(state, updates)


def learned(method, state):
    """Dense products, and heads; for fedsa, whose server holds no product, the shared factor."""
    if state.halves:
        found = {k: h.value.double().numpy() for k, h in state.halves.items()}
    else:
        bases = orthonormal_bases(SHAPES, RANK, 0) if method.trains == "core" else None
        pairs = method.product(state, bases=bases, scale=2.0)
        found = {k: p.scale * p.B.double().numpy() @ p.A.double().numpy() for k, p in pairs.items()}
    return found | {k: v.double().numpy() for k, v in state.dense.items()}


def gap(left, right):
    assert left.keys() == right.keys()
    miss = sum(np.linalg.norm(left[k] - right[k]) ** 2 for k in left)
    return (miss / sum(np.linalg.norm(right[k]) ** 2 for k in right)) ** 0.5


def proportions(method):
    state = started(method)
    states = [sent(method, state, k) for k in range(3)]
    plain, seven = (
        learned(method, reduced(method, state, states, w).state) for w in ([3.0, 2.0, 1.0], [21.0, 14.0, 7.0])
    )
    return gap(seven, plain)


def halves(method):
    state = started(method)
    states = [sent(method, state, k) for k in range(2)]
    whole = reduced(method, state, states, [2.0, 1.0])
    split = reduced(method, state, [states[0], *states], [1.0, 1.0, 1.0])
    return gap(learned(method, split.state), learned(method, whole.state))


def alone(method):
    """The largest distance of one client's, and of three equal clients', result to what the client holds."""
    state = started(method)
    one = sent(method, state, 1)
    results = [
        learned(method, reduced(method, state, [one] * count, [1.0 + k for k in range(count)]).state)
        for count in (1, 3)
    ]
    wanted = _held(method, state, one)
    return max(gap(result, wanted) for result in results)


def _held(method, state, one):
    if method.name == "fedsa":
        values = {k: h.value.double().numpy() for k, h in one.halves.items()}
        return values | {"head": state.dense["head"].double().numpy()}
    if one.halves:
        frozen = state.lora
        made = {
            k: h.scale * (h.value @ frozen[k].A if h.side == "B" else frozen[k].B @ h.value)
            for k, h in one.halves.items()
        }
    elif one.cores:
        bases = orthonormal_bases(SHAPES, RANK, 0)
        made = {k: 2.0 * bases[k][0] @ core @ bases[k][1] for k, core in one.cores.items()}
    else:
        made = {k: p.scale * p.B @ p.A for k, p in one.lora.items()}
    return {k: v.double().numpy() for k, v in (made | dict(one.dense)).items()}


def stale(make):
    """Two rounds by one method, the second against a fresh one: nothing of the first may come back."""
    method = make()
    state = started(method)
    first = method.reduce(state, _updates([sent(method, state, k) for k in range(2)])).state
    second = [sent(method, first, 10 + k, round_index=1) for k in range(2)]
    after, fresh = (m.reduce(first, _updates(second)).state for m in (method, make()))
    return gap(learned(method, after), learned(method, fresh))


def _updates(states):
    return [ClientUpdate(client_id=f"c{k}", weight=1.0, state=s) for k, s in enumerate(states)]


@READS_WEIGHTS
def test_seven_times_the_weights_are_the_same_weights(name):
    assert proportions(METHODS[name]) < 1e-5


@READS_WEIGHTS
def test_a_client_split_into_two_of_half_the_weight_changes_nothing(name):
    assert halves(METHODS[name]) < 1e-5


@EVERY
def test_one_client_alone_and_equal_clients_get_what_they_hold(name):
    assert alone(METHODS[name]) < 1e-5


@EVERY
def test_a_round_reads_its_own_updates_and_keeps_nothing_between_rounds(name):
    assert stale(lambda: METHODS[name]) == 0


# -- the same checks on methods that are broken on purpose -----------------------------------------------------------


class Broken:
    """A method whose ``reduce`` sees other updates than those that came."""

    def __init__(self, method, change):
        self._method, self._change = method, change

    def __getattr__(self, name):
        return getattr(self._method, name)

    def reduce(self, state, updates):
        return self._method.reduce(state, self._change(list(in_order(updates))))


def first_weighs_one(updates):
    """A weight that is not divided by the sum."""
    return [dataclasses.replace(updates[0], weight=1.0), *updates[1:]]


def by_count(updates):
    """Weights are forgotten: each message counts the same."""
    return [dataclasses.replace(u, weight=1.0) for u in updates]


def only_the_first(updates):
    """One client for all, scaled: the known mistake of a baseline."""
    state = updates[0].state
    lora = {k: dataclasses.replace(p, B=p.B / 2) for k, p in state.lora.items()}
    halves = {k: dataclasses.replace(h, value=h.value / 2) for k, h in state.halves.items()}
    cores = {k: c / 2 for k, c in state.cores.items()}
    return [
        dataclasses.replace(
            updates[0], state=dataclasses.replace(state, lora=lora, halves=halves, cores=cores)
        )
    ]


def remembering():
    seen = []

    def change(updates):
        seen.extend(
            [dataclasses.replace(u, client_id=f"r{len(seen) + k:03d}") for k, u in enumerate(updates)]
        )
        return list(seen)

    return change


@READS_WEIGHTS
def test_the_checks_fail_where_weights_are_not_divided_by_their_sum_or_forgotten(name):
    assert proportions(Broken(METHODS[name], first_weighs_one)) > 1e-3
    assert halves(Broken(METHODS[name], by_count)) > 1e-3


@EVERY
def test_the_check_of_a_client_alone_fails_for_one_that_is_scaled(name):
    assert alone(Broken(METHODS[name], only_the_first)) > 0.3


@pytest.mark.parametrize("name", ["fed-sb", "fedit", "ffa", "flora"])
def test_the_check_of_rounds_fails_where_earlier_ones_are_kept(name):
    """The known mistake of a list of clients that is made outside the loop over rounds."""
    assert stale(lambda: Broken(METHODS[name], remembering())) > 1e-3


def test_an_empty_state_is_no_round():
    with pytest.raises(ValueError, match="no updates"):
        METHODS["product"].reduce(AdapterState(), [])

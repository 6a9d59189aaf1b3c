import dataclasses
import math

import pytest
import torch

import aggregation.server_optimizer
from aggregation.adapter import AdapterState, ClientUpdate, FactorPair, HalfPair
from aggregation.methods import METHODS
from aggregation.serialize import from_bytes, to_bytes
from aggregation.server_optimizer import (
    LINEAR_METHODS,
    OptimizerState,
    ServerOptimizer,
    advance,
    linear_part,
    step,
    with_linear_part,
)
from aggregation.table import TABLE

RULES = ["fedavgm", "fedadagrad", "fedadam", "fedyogi"]


def run(rule, means, start=0.0, **constants):
    """Values after each round, for one number."""
    optimizer = ServerOptimizer(rule=rule, **constants)
    state, seen = OptimizerState(values={"x": torch.tensor([start])}), []
    for mean in means:
        state = step(optimizer, state, {"x": torch.tensor([mean])})
        seen.append(float(state.values["x"]))
    return seen, state


def by_hand(rule, means, lr, b1, b2, tau):
    """The paper's Algorithm 2 with plain numbers, written apart."""
    x, m, v, seen = 0.0, 0.0, tau * tau, []
    for mean in means:
        delta = mean - x
        if rule == "fedavgm":
            m = b1 * m + delta
            x = x + lr * m
        else:
            m = b1 * m + (1 - b1) * delta
            v = {
                "fedadagrad": v + delta * delta,
                "fedadam": b2 * v + (1 - b2) * delta * delta,
                "fedyogi": v - (1 - b2) * delta * delta * math.copysign(1.0, v - delta * delta),
            }[rule]
            x = x + lr * m / (math.sqrt(v) + tau)
        seen.append(x)
    return seen


@pytest.mark.parametrize("rule", RULES)
def test_each_rule_is_the_papers(rule):
    means, constants = [1.0, 0.5, -2.0, 3.0], {"learning_rate": 0.3, "beta1": 0.8, "beta2": 0.9, "tau": 0.05}
    wanted = by_hand(rule, means, 0.3, 0.8, 0.9, 0.05)
    assert run(rule, means, **constants)[0] == pytest.approx(wanted, rel=1e-5)
    others = [r for r in RULES if r != rule]
    assert all(run(r, means, **constants)[0] != pytest.approx(wanted, rel=1e-3) for r in others)


def test_the_check_of_yogi_fails_when_its_sign_is_forgotten(monkeypatch):
    means, constants = [1.0, 0.5, -2.0], {"learning_rate": 0.3, "beta1": 0.8, "beta2": 0.9, "tau": 0.05}
    monkeypatch.setattr(
        aggregation.server_optimizer,
        "_second",
        lambda optimizer, v, square: v + (1 - optimizer.beta2) * square,
    )
    means[1] = run("fedyogi", means[:1], **constants)[0][0] + 0.25  # a smaller step: v falls
    wanted = by_hand("fedyogi", means, 0.3, 0.8, 0.9, 0.05)
    assert run("fedyogi", means, **constants)[0] != pytest.approx(wanted, rel=1e-5)


def test_without_momentum_and_at_rate_one_fedavgm_is_the_mean():
    assert run("fedavgm", [3.0, -1.0], beta1=0.0)[0] == [3.0, -1.0]
    assert run("fedavgm", [3.0, -1.0], beta1=0.5)[0] != [3.0, -1.0]


@pytest.mark.parametrize("rule", RULES)
def test_a_step_is_pure_and_counts(rule):
    optimizer = ServerOptimizer(rule=rule)
    before = OptimizerState(values={"x": torch.zeros(2), "y": torch.ones(1)})
    one, again = (step(optimizer, before, {"x": torch.ones(2)}) for _ in range(2))
    assert torch.equal(one.values["x"], again.values["x"])
    assert torch.equal(before.values["x"], torch.zeros(2))
    assert (before.steps, one.steps, dict(before.momentum)) == (0, 1, {})
    assert torch.equal(one.values["y"], torch.ones(1))
    assert "y" not in one.momentum
    assert one.values["x"].dtype == torch.float32


def test_a_small_rate_goes_on_towards_a_fixed_mean():
    for rule in RULES:
        seen, _ = run(rule, [1.0] * 400, learning_rate=0.05)
        assert seen[-1] == pytest.approx(1.0, abs=0.1), rule


def test_what_does_not_fit_is_refused():
    state = OptimizerState(values={"x": torch.zeros(2)})
    optimizer = ServerOptimizer(rule="fedadam")
    for mean in ({"y": torch.zeros(2)}, {"x": torch.zeros(3)}):
        with pytest.raises(ValueError, match="does not fit"):
            step(optimizer, state, mean)
    with pytest.raises(ValueError, match="NaN or infinity"):
        step(optimizer, state, {"x": torch.tensor([1.0, math.nan])})
    for name, bad in [
        ("learning_rate", 0.0),
        ("beta1", 1.0),
        ("beta2", -0.1),
        ("tau", 0.0),
        ("tau", math.inf),
    ]:
        with pytest.raises(ValueError, match=name):
            ServerOptimizer(rule="fedadam", **{name: bad})


@pytest.mark.parametrize("name", sorted(LINEAR_METHODS))
def test_on_a_linear_method_a_plain_step_is_the_method_and_momentum_goes_further(name):
    method = METHODS[name]
    shapes = {"q": (6, 5)}
    before = method.initial_state(shapes, lora_rank=2, scale=2.0, dense={"h": torch.zeros(2)}, seed=0)
    updates = [
        ClientUpdate(client_id=f"c{k}", weight=1.0 + k, state=sent(method, before, k)) for k in range(3)
    ]
    mean = method.reduce(before, updates).state
    start = OptimizerState(values=linear_part(name, before))
    plain = step(ServerOptimizer(rule="fedavgm", beta1=0.0), start, linear_part(name, mean))
    after = with_linear_part(before, plain.values)
    values, wanted = linear_part(name, after), linear_part(name, mean)
    assert values.keys() == wanted.keys()
    assert all(torch.allclose(values[k], wanted[k], atol=1e-6) for k in wanted)
    half = step(ServerOptimizer(rule="fedavgm", beta1=0.0, learning_rate=0.5), start, linear_part(name, mean))
    middle = {k: (v + wanted[k]) / 2 for k, v in linear_part(name, before).items()}
    assert all(torch.allclose(half.values[k], middle[k], atol=1e-6) for k in middle)


def sent(method, state, k):
    g = torch.Generator().manual_seed(k)
    start = method.local_start(
        method.starting_point(state), layer_shapes={"q": (6, 5)}, lora_rank=2, scale=2.0, seed=0, fresh_seed=k
    )
    lora = {
        n: FactorPair(B=torch.randn(p.B.shape, generator=g), A=p.A, scale=p.scale)
        for n, p in start.lora.items()
    }
    cores = {n: torch.randn(c.shape, generator=g) for n, c in start.cores.items()}
    dense = {n: torch.randn(v.shape, generator=g) for n, v in start.dense.items()}
    return method.trained_part(dataclasses.replace(start, lora=lora, cores=cores, dense=dense), 0)


def test_methods_whose_product_is_not_linear_are_refused_with_a_way_out():
    assert {n for n in TABLE if n not in LINEAR_METHODS} | LINEAR_METHODS == set(TABLE)
    state = AdapterState(lora={"q": FactorPair(B=torch.ones(3, 2), A=torch.ones(2, 4))})
    for name in set(TABLE) - LINEAR_METHODS:
        with pytest.raises(ValueError, match="use fed-sb, fedsa, ffa, rolora"):
            linear_part(name, state)


def test_heads_alone_are_linear_for_every_method():
    state = AdapterState(dense={"head": torch.ones(2)})
    assert all(set(linear_part(name, state)) == {"dense/head"} for name in TABLE)


def rolora_round(b, a):
    return AdapterState(lora={"q": FactorPair(B=torch.full((3, 2), b), A=torch.full((2, 4), a))})


def test_a_run_that_is_read_back_from_bytes_takes_the_same_steps_and_a_resting_factor_rests():
    optimizer = ServerOptimizer(rule="fedadam", learning_rate=0.1)
    before, memory = rolora_round(0.0, 1.0), None
    stored, stored_memory = before, None
    for round_index, mean in enumerate([(1.0, 1.0), (1.0, 2.0), (3.0, 2.0)]):
        trained = "BA"[round_index % 2]
        rest = "A" if trained == "B" else "B"
        goal = {"B": mean[0], "A": mean[1]}
        resting = getattr(before.lora["q"], rest)
        pair = {
            side: torch.full_like(getattr(before.lora["q"], side), goal[side]) if side == trained else resting
            for side in "AB"
        }
        reduced = AdapterState(lora={"q": FactorPair(**pair)})
        before, memory = advance(optimizer, "rolora", before, reduced, memory, trained=trained)
        assert torch.equal(getattr(before.lora["q"], rest), resting)
        assert not torch.equal(getattr(before.lora["q"], trained), resting)
        again = from_bytes(to_bytes(stored))
        read = None if stored_memory is None else from_bytes(to_bytes(stored_memory))
        stored, stored_memory = advance(optimizer, "rolora", again, reduced, read, trained=trained)
        assert to_bytes(stored) == to_bytes(before)
        assert to_bytes(stored_memory) == to_bytes(memory)
    forgot, _ = advance(optimizer, "rolora", before, rolora_round(3.0, 9.0), None, trained="A")
    kept, _ = advance(optimizer, "rolora", before, rolora_round(3.0, 9.0), memory, trained="A")
    assert not torch.equal(forgot.lora["q"].A, kept.lora["q"].A)  # positive control: the memory counts


def test_what_has_another_shape_since_begins_anew():
    optimizer = ServerOptimizer(rule="fedavgm")
    one, two = (AdapterState(dense={"head": torch.zeros(n)}) for n in (2, 3))
    goal = AdapterState(dense={"head": torch.ones(3)})
    _, memory = advance(
        optimizer, "flora", one, AdapterState(dense={"head": torch.ones(2)}), None, trained="AB"
    )
    grown, _ = advance(optimizer, "flora", two, goal, memory, trained="AB")
    fresh, memory = advance(optimizer, "flora", two, goal, None, trained="AB")
    assert torch.equal(grown.dense["head"], fresh.dense["head"])
    kept, _ = advance(optimizer, "flora", two, goal, memory, trained="AB")
    assert not torch.equal(kept.dense["head"], fresh.dense["head"])  # positive control


def test_the_frozen_factor_is_never_moved():
    pair = FactorPair(B=torch.ones(3, 2), A=torch.ones(2, 4), scale=2.0)
    state = AdapterState(lora={"q": pair}, halves={"v": HalfPair(side="A", value=torch.ones(2, 4))})
    assert set(linear_part("ffa", state)) == {"lora/q/B", "half/v/A"}
    assert set(linear_part("rolora", state)) == {"lora/q/B", "lora/q/A", "half/v/A"}
    moved = with_linear_part(state, {"lora/q/B": torch.zeros(3, 2), "half/v/A": torch.zeros(2, 4)})
    assert not moved.lora["q"].B.any()
    assert torch.equal(moved.lora["q"].A, pair.A)
    assert not moved.halves["v"].value.any()
    assert moved.lora["q"].scale == 2.0

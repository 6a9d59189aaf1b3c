"""Rounds with wrong clients and with server optimisers, through the engine and its database."""

import dataclasses
import json

import pytest
import torch
from stored_runs import describe

from aggregation.adapter import AdapterState, FactorPair, HalfPair
from aggregation.changes import change_norm, moves, with_moves
from aggregation.serialize import from_bytes, sha256_hex, to_bytes
from motet.cli.run import show_command
from motet.recipe import from_canonical_json
from motet.recipe.method import local_start, method_of
from motet.wire.messages import TrainReply

SHAPES = {"x.query": (12, 8), "x.value": (8, 12)}
CLIENTS = ("a", "b", "c", "d", "e")
RECIPE = """
name: tiny
base_model: {tiny: tiny-bert}
task: {kind: sequence-classification, num_labels: 2}
data: {path: none.jsonl}
adapter: {lora_rank: 2}
method: {name: METHOD}
cohort: {clients: [a, b, c, d, e], minimum: 5, deadline_s: 5}
training: {rounds: ROUNDS, local_steps: 2}
"""
NO_CLIP = "robust: {clip_factor: 1.0e+9}\n"


class Killed(BaseException):
    """Stands for kill -9."""


def text(method, extra="", rounds=1):
    return RECIPE.replace("METHOD", method).replace("ROUNDS", str(rounds)) + extra


def step(shape, seed, *, common):
    """A direction that all clients share, and a little of their own."""
    shared = torch.randn(shape, generator=torch.Generator().manual_seed(common))
    own = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return 0.1 * (shared + 0.2 * own)


def reply_to(order, attack=None):
    """An honest client's step from where it starts; ``attack`` maps its moves to others."""
    recipe = from_canonical_json(order.recipe_json)
    method = method_of(recipe)
    start = method.trained_part(
        local_start(
            recipe, method, from_bytes(order.payload), layer_shapes=SHAPES, lora_rank=order.lora_rank,
            round_index=order.round_index, client_id=order.client_id,
        ),
        order.round_index,
    )  # fmt: skip
    seed = 100 * order.round_index + ord(order.client_id)
    moved = {
        k: step(v.shape, seed + i, common=order.round_index + 1000 + i)
        for i, (k, v) in enumerate(moves(start, start).items())
    }
    now = with_moves(start, moved)
    if attack is not None:
        now = attack(now, start)
    payload = to_bytes(now)
    return TrainReply(
        run_id=order.run_id,
        round_index=order.round_index,
        attempt=order.attempt,
        client_id=order.client_id,
        payload=payload,
        payload_sha256=sha256_hex(payload),
        num_steps=2,
        num_examples=10,
    )


def scaled_by(factor):
    return lambda now, start: with_moves(start, {k: factor * v for k, v in moves(now, start).items()})


def hidden_gauge(now, start):
    """The same product from factors that ruin every mean of factors."""
    lora = {k: FactorPair(B=p.B * 1e3, A=p.A / 1e3, scale=p.scale) for k, p in now.lora.items()}
    return dataclasses.replace(now, lora=lora)


ATTACKS = {"100 times as large": scaled_by(100.0), "sign flipped, three times": scaled_by(-3.0)}


def final(federation, recipe, run_id, attack=None, attacker="e"):
    federation.grid.clients = list(CLIENTS)
    federation.grid.handlers = {
        c: (lambda order: reply_to(order, attack)) if c == attacker else reply_to for c in CLIENTS
    }
    run = federation.submit(recipe, run_id=run_id)
    result = federation.engine().run(run)
    return result, federation.artifacts.load_state(result.adapter_sha256)


def learned(recipe_method, state):
    """Layer -> what the state means as numbers that can be compared."""
    if state.cores:
        return {**state.cores, **state.dense}
    if state.halves:
        return {k: h.value for k, h in state.halves.items()}
    from aggregation.methods import get_method

    products = get_method(recipe_method).product(state)
    return {k: p.scale * p.B @ p.A for k, p in products.items()} | dict(state.dense)


def miss(method, state, honest):
    one, other = learned(method, state), learned(method, honest)
    gap = sum(float((one[k] - other[k]).square().sum()) for k in other) ** 0.5
    return gap / sum(float(other[k].square().sum()) for k in other) ** 0.5


EVERY = ["fedit", "flora", "lora-fair", "zero-pad", "rank-index", "product", "flexlora", "florist", "fedex"]
EVERY += ["ffa", "rolora", "fedsa", "fed-sb", "dp-lora"]
SHARED_START = {"fedsa"}  # its A does not start at zero, so that one round moves it little


RULES = [(method, "geometric_median") for method in EVERY]
RULES += [(method, rule) for method in ("flora", "fedit", "fed-sb") for rule in ("multi_krum", "trimmed")]


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize(("method", "rule"), RULES)
def test_one_wrong_client_of_five_does_not_carry_a_robust_round_and_does_carry_a_plain_mean(
    federation, method, rule, attack
):
    _, honest = final(federation, text(method, NO_CLIP), "r-honest")
    _, plain = final(federation, text(method, NO_CLIP), "r-plain", ATTACKS[attack])
    _, state = final(federation, text(method, f"robust: {{rule: {rule}}}\n"), "r", ATTACKS[attack])
    assert miss(method, state, honest) < 0.5
    assert miss(method, plain, honest) > 2.5 * miss(method, state, honest)  # positive control
    if method not in SHARED_START:
        assert miss(method, plain, honest) > 0.5


@pytest.mark.parametrize("rule", ["coordinate_median", "coordinate_trimmed_mean"])
@pytest.mark.parametrize("attack", ATTACKS)
def test_rules_by_coordinate_hold_for_fed_sb(federation, rule, attack):
    _, honest = final(federation, text("fed-sb", NO_CLIP), "r-honest")
    _, plain = final(federation, text("fed-sb", NO_CLIP), "r-plain", ATTACKS[attack])
    result, state = final(federation, text("fed-sb", f"robust: {{rule: {rule}}}\n"), "r", ATTACKS[attack])
    assert miss("fed-sb", state, honest) < 0.3 < miss("fed-sb", plain, honest)
    assert result.rounds[0]["relative_error"] > 0.01  # it says how far it is from the mean


def test_the_clip_alone_bounds_a_huge_update_and_the_round_says_so(federation):
    result, state = final(federation, text("flora"), "r-clip", scaled_by(1e4))
    _, plain = final(federation, text("flora", NO_CLIP), "r-plain", scaled_by(1e4))
    _, honest = final(federation, text("flora", NO_CLIP), "r-honest")
    assert miss("flora", plain, honest) > 100 * miss("flora", state, honest)
    clients = result.rounds[0]["clients"]
    assert clients["e"]["outcome"] == "clipped"
    assert clients["e"]["share"] < 1e-3
    assert clients["a"]["outcome"] == ""
    assert sum(c["share"] for c in clients.values()) == pytest.approx(1)
    metrics = {m.name: m.value for m in federation.store.metrics("r-clip")}
    assert (metrics["clipped"], metrics["rejected"]) == (1, 0)


def test_hidden_gauges_ruin_a_mean_of_factors_and_not_a_clipped_one(federation):
    _, honest = final(federation, text("fedit", NO_CLIP), "r-honest")
    _, plain = final(federation, text("fedit", NO_CLIP), "r-plain", hidden_gauge)
    result, state = final(federation, text("fedit"), "r", hidden_gauge)
    assert miss("fedit", plain, honest) > 20 * miss("fedit", state, honest)
    assert result.rounds[0]["clients"]["e"]["outcome"] == "clipped"
    _, exact = final(federation, text("flora"), "r-flora", hidden_gauge)
    _, honest = final(federation, text("flora"), "r-flora-honest")
    assert miss("flora", exact, honest) < 1e-3  # products do not see the gauge


def test_hetlora_which_makes_its_own_weights_leaves_a_huge_update_out(federation):
    result, state = final(federation, text("hetlora"), "r", scaled_by(1e3))
    _, honest = final(federation, text("hetlora", NO_CLIP), "r-honest")
    _, plain = final(federation, text("hetlora", NO_CLIP), "r-plain", scaled_by(1e3))
    assert (
        result.rounds[0]["clients"]["e"] | {"outcome": "rejected", "share": 0}
        == result.rounds[0]["clients"]["e"]
    )
    assert miss("hetlora", state, honest) < 1 < miss("hetlora", plain, honest)


def test_what_was_rejected_is_shown_and_stands_in_the_json(federation, tmp_path, capsys):
    final(federation, text("flora", "robust: {rule: multi_krum}\n"), "r", scaled_by(-100.0))
    row = describe(federation.store, "r")
    rejected = {c["client_id"]: c for c in row["rounds"][0]["clients"] if c["outcome"] == "rejected"}
    assert set(rejected) == {"e"}
    assert rejected["e"]["share"] == 0
    assert rejected["e"]["change_norm"] > 50 * row["rounds"][0]["clients"][0]["change_norm"]
    show_command("r", home=tmp_path, as_json=True)
    assert json.loads(capsys.readouterr().out)["rounds"] == row["rounds"]
    show_command("r", home=tmp_path)
    assert "e (rejected)" in " ".join(capsys.readouterr().out.split())


def test_with_honest_clients_the_clip_changes_no_bit(federation):
    with_clip, _ = final(federation, text("fedit"), "r-1")
    without, _ = final(federation, text("fedit", NO_CLIP), "r-2")
    assert with_clip.adapter_sha256 == without.adapter_sha256


def test_the_norm_that_is_recorded_is_the_clients_own_change(federation):
    """Also for a client of smaller rank, which starts from a part of the global factors."""
    recipe = text("zero-pad", rounds=2).replace("lora_rank: 2", "lora_rank: {a: 1, default: 3}")
    result, _ = final(federation, recipe, "r")
    order = next(o for o in federation.grid.sent if o.client_id == "a" and o.round_index == 1)
    now, start = from_bytes(reply_to(order).payload), from_bytes(order.payload)
    assert result.rounds[1]["clients"]["a"]["change_norm"] == pytest.approx(change_norm(now, start), rel=1e-6)


@pytest.mark.parametrize("clip", [NO_CLIP, ""], ids=["no clip", "clip"])
def test_scaffolds_mean_variate_is_bounded_by_the_clip_as_well(federation, clip):
    """It counts all clients alike, so a clipped client's move is cut before it is seen."""
    recipe = text("ffa", clip).replace(
        "local_steps: 2", "local_steps: 2, algorithm: scaffold, optimizer: sgd, learning_rate: 0.1"
    )
    _, honest = final(federation, recipe, "r-honest")
    _, attacked = final(federation, recipe, "r", scaled_by(1e4))
    size = max(float(v.norm()) for v in honest.control.values())
    loud = max(float(v.norm()) for v in attacked.control.values())
    assert (loud < 5 * size) == (clip == "")


STEPS = [(method, "fedadam") for method in ("fed-sb", "ffa", "rolora", "fedsa")]
STEPS += [("fed-sb", rule) for rule in ("fedavgm", "fedyogi", "fedadagrad")]


@pytest.mark.parametrize(("method", "rule"), STEPS)
def test_a_run_killed_after_any_round_takes_the_optimisers_same_steps(federation, monkeypatch, rule, method):
    recipe = text(method, f"server_optimizer: {{rule: {rule}}}\n", rounds=4)
    whole, _ = final(federation, recipe, "r-whole")
    plain, _ = final(federation, text(method, rounds=4), "r-mean")
    assert whole.adapter_sha256 != plain.adapter_sha256  # positive control: it does something
    original, calls = federation.store.close_round, []

    def deadly(*args, **kwargs):
        calls.append(args)
        if len(calls) == 2:
            raise Killed
        original(*args, **kwargs)
        if len(calls) == 4:
            raise Killed

    run = federation.submit(recipe, run_id="r-killed")
    monkeypatch.setattr(federation.store, "close_round", deadly)
    deaths = 0
    while deaths < 3:
        try:
            result = federation.engine().run(run)
            break
        except Killed:
            deaths += 1
            federation.grid.pending.clear()
    assert deaths == 2
    assert result.adapter_sha256 == whole.adapter_sha256


def test_a_run_that_forgets_the_optimisers_memory_ends_elsewhere(federation, monkeypatch):
    recipe = text("ffa", "server_optimizer: {rule: fedadam}\n", rounds=3)
    whole, _ = final(federation, recipe, "r-whole")
    from coordinator.engine.round_engine import _OneRun

    monkeypatch.setattr(_OneRun, "_optimizer_memory", lambda self, round_index: None)
    forgetful, _ = final(federation, recipe, "r-forgets")
    assert forgetful.adapter_sha256 != whole.adapter_sha256


def test_momentum_comes_after_the_robust_weights(federation):
    extra = "robust: {rule: trimmed}\nserver_optimizer: {rule: fedavgm, beta1: 0.5}\n"
    _, honest = final(federation, text("ffa", extra, rounds=3), "r-honest")
    _, attacked = final(federation, text("ffa", extra, rounds=3), "r", scaled_by(-50.0))
    assert miss("ffa", attacked, honest) < 0.35


def test_halves_are_compared_as_they_are_sent():
    half = HalfPair(side="A", value=torch.ones(2, 3), scale=2.0)
    zero = HalfPair(side="A", value=torch.zeros(2, 3), scale=2.0)
    norm = change_norm(AdapterState(halves={"x": half}), AdapterState(halves={"x": zero}))
    assert norm == pytest.approx(2 * 6**0.5)

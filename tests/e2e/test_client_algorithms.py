"""FedProx, SCAFFOLD and ranks that owners bound, in whole runs."""

import dataclasses

import pytest
import torch

from client.control import OwnControls
from coordinator.engine.grid import GridFailure
from coordinator.engine.local_grid import LocalGrid
from coordinator.storage.artifacts import ArtifactStore
from motet.errors import MotetError
from motet.recipe import parse_recipe
from motet.simulate import simulate

SCAFFOLD = ", algorithm: scaffold, optimizer: sgd}"
PRIVATE = "privacy: {noise_multiplier: 0.5, sampling_rate: 0.2}\n"


def scaffold(recipe_text, method, rounds=3, extra=""):
    text = recipe_text("tiny-bert", method, "4", rounds, extra).replace(
        "head_learning_rate: 2e-2}", "head_learning_rate: 2e-2" + SCAFFOLD
    )
    return parse_recipe(text.replace("learning_rate: 5e-3", "learning_rate: 5.0"))


def gap(out, result, counted):
    """Largest difference of the mean variate to the mean of the clients', and its own size."""
    control = ArtifactStore(out / "runs/federated/artifacts").load_state(result["adapter_sha256"]).control
    own = [
        OwnControls(out / "runs/federated/clients" / c / "control").in_force(result["run_id"], counted[c])
        for c in "abc"
    ]
    size = max(float(v.abs().max()) for v in control.values())
    return (
        max(float((v - torch.stack([o[k] for o in own]).mean(0)).abs().max()) for k, v in control.items())
        / size
    )


@pytest.mark.parametrize("extra", ["", PRIVATE], ids=["plain", "private"])
@pytest.mark.parametrize("method", ["fedit", "ffa", "fed-sb", "zero-pad"])
def test_the_mean_variate_of_a_run_is_the_mean_of_the_clients_own(recipe_text, tmp_path, method, extra):
    result = simulate(scaffold(recipe_text, method, extra=extra), tmp_path, baselines=False, processes=0)
    assert gap(tmp_path, result, dict.fromkeys("abc", 3)) < 1e-4
    first, later = (result["clients"][0][k] for k in ("bytes_up", "bytes_down"))
    assert later > 1.5 * first  # the mean comes down beside the start; nothing more goes up


@pytest.mark.parametrize("told", [True, False], ids=["told", "not told"])
def test_a_lost_reply_leaves_no_trace_because_orders_tell_what_was_counted(
    recipe_text, tmp_path, monkeypatch, told
):
    collect, send = LocalGrid.collect, LocalGrid.send
    lost = set()

    def losing(grid, message_ids):
        return [
            (m, GridFailure(code="client_crashed", message="gone") if m in lost else reply)
            for m, reply in collect(grid, message_ids)
        ]

    def sending(grid, order, *, deadline_s):
        if not told:  # the broken one: whatever a client trained last is taken to be counted
            order = dataclasses.replace(order, counted_round=order.round_index)
        message_id = send(grid, order, deadline_s=deadline_s)
        if (order.client_id, order.round_index) == ("c", 1):
            lost.add(message_id)
        return message_id

    monkeypatch.setattr(LocalGrid, "collect", losing)
    monkeypatch.setattr(LocalGrid, "send", sending)
    result = simulate(scaffold(recipe_text, "ffa", rounds=4), tmp_path, baselines=False, processes=0)
    assert lost
    assert (gap(tmp_path, result, dict.fromkeys("abc", 4)) < 1e-4) == told


def test_a_pull_to_the_start_changes_the_run_and_needs_no_more_bytes(recipe_text, tmp_path):
    results = {}
    for algorithm in ("fedavg", "fedprox"):
        text = recipe_text("tiny-bert", "flora", "4").replace(
            "head_learning_rate: 2e-2", f"head_learning_rate: 2e-2, algorithm: {algorithm}"
        )
        results[algorithm] = simulate(parse_recipe(text), tmp_path / algorithm, baselines=False, processes=0)
    plain, pulled = results["fedavg"], results["fedprox"]
    assert plain["adapter_sha256"] != pulled["adapter_sha256"]
    sizes = [[(c["bytes_up"], c["bytes_down"]) for c in r["clients"]] for r in (plain, pulled)]
    assert sizes[0] == sizes[1]


@pytest.mark.slow
def test_simulated_owners_bound_their_rank_by_policy_and_by_class(recipe_text, tmp_path):
    policies = tmp_path / "policies"
    policies.mkdir()
    (policies / "a.toml").write_text("max_lora_rank = 2\nmax_memory_mb = 1000000\n")
    text = recipe_text("tiny-bert", "flora", "{small: 3, default: 6}").replace(
        "targets:", "rank_policy: measured, targets:"
    )
    result = simulate(
        parse_recipe(text),
        tmp_path / "out",
        baselines=False,
        processes=0,
        policies=policies,
        classes={"b": "small"},
    )
    assert {c["client_id"]: c["lora_rank"] for c in result["clients"]} == {"a": 2, "b": 3, "c": 6}
    measured = tmp_path / "out/runs/federated/clients/a/capacity.json"
    assert measured.exists()  # a's memory is bounded, so it was measured; nobody else's was
    assert not measured.parent.with_name("b").joinpath("capacity.json").exists()


@pytest.mark.slow
def test_simulated_owners_are_asked_for_leave_and_who_refuses_is_charged_nothing(recipe_text, tmp_path):
    policies = tmp_path / "policies"
    policies.mkdir()
    (policies / "a.toml").write_text('allowed_methods = ["ffa"]\n')
    text = recipe_text("tiny-bert", "flora", "4", extra=PRIVATE)
    result = simulate(parse_recipe(text), tmp_path / "out", baselines=False, processes=0, policies=policies)
    told = {c["client_id"]: c["epsilon"] for c in result["clients"]}
    assert told.get("a") in (None, 0.0)
    assert told["b"] > 0
    (policies / "b.toml").write_text('approval = "manual"\n')
    with pytest.raises(MotetError, match=r"b without approval yet|with approval: b"):
        simulate(parse_recipe(text), tmp_path / "two", baselines=False, processes=0, policies=policies)

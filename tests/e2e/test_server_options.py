"""Robust rules, server optimisers and compression in whole runs on a tiny model, alone and together."""

import dataclasses
import json
import os
from contextlib import closing

import forked_motet
import pytest
from stored_runs import describe

from aggregation.changes import moves, with_moves
from aggregation.serialize import from_bytes, sha256_hex, to_bytes
from coordinator.engine.local_grid import LocalGrid
from coordinator.storage.store import Store
from motet.recipe import parse_recipe
from motet.simulate import simulate

MIXED = "{a: 1, b: 4, c: 7}"
PRIVATE = "privacy: {noise_multiplier: 0.5, sampling_rate: 0.2}\n"
ALL = "robust: {rule: geometric_median}\nserver_optimizer: {rule: fedadam}\ncompression: {kind: int4}\n"


def run(text, out):
    result = simulate(parse_recipe(text), out, baselines=False, processes=0)
    with closing(Store.open(out / "runs/federated/motet.db")) as store:
        row = describe(store, result["run_id"])
    return result, row["rounds"][-1]["clients"]


@pytest.mark.parametrize(
    ("method", "rule"),
    [
        ("flora", "trimmed"),
        pytest.param("product", "geometric_median", marks=pytest.mark.slow),
        ("fed-sb", "trimmed"),
        ("fedsa", "geometric_median"),
    ],
)
def test_a_rule_weighs_real_clients_and_the_run_says_how(recipe_text, tmp_path, method, rule):
    rank = MIXED if method in ("flora", "product", "ffa") else "4"
    text = recipe_text(method=method, rank=rank, extra=f"robust: {{rule: {rule}}}\n")
    _, clients = run(text.replace("minimum: 2", "minimum: 3"), tmp_path)
    assert sum(c["share"] for c in clients) == pytest.approx(1)
    assert all(c["change_norm"] > 0 for c in clients)
    outcomes = [c["outcome"] for c in clients]
    assert outcomes.count("rejected") == (1 if rule == "trimmed" else 0)
    assert len({round(c["share"], 6) for c in clients}) > 1


@pytest.mark.parametrize(
    ("method", "rule"),
    [
        ("fed-sb", "fedadam"),
        pytest.param("ffa", "fedavgm", marks=pytest.mark.slow),
        pytest.param("rolora", "fedyogi", marks=pytest.mark.slow),
        ("fedsa", "fedadagrad"),
    ],
)
def test_a_server_optimiser_runs_and_gives_the_same_adapter_again(recipe_text, tmp_path, method, rule):
    text = recipe_text(method=method, rank="4", rounds=3, extra=f"server_optimizer: {{rule: {rule}}}\n")
    one, again = (run(text, tmp_path / name)[0] for name in ("one", "again"))
    plain, _ = run(recipe_text(method=method, rank="4", rounds=3), tmp_path / "plain")
    assert one["adapter_sha256"] == again["adapter_sha256"] != plain["adapter_sha256"]


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        ("fedit", "bf16"),
        ("fed-sb", "int8"),
        pytest.param("rolora", "int4", marks=pytest.mark.slow),
        ("flora", "compeft"),
        ("fedsa", "int4"),
    ],
)
def test_compressed_runs_send_less_and_tell_their_error(recipe_text, tmp_path, method, kind):
    rank = MIXED if method == "flora" else "4"
    plain, _ = run(recipe_text(method=method, rank=rank), tmp_path / "plain")
    extra = f"compression: {{kind: {kind}, density: 0.25}}\n"
    small, clients = run(recipe_text(method=method, rank=rank, extra=extra), tmp_path / "small")
    for one, other in zip(small["clients"], plain["clients"], strict=True):
        assert one["bytes_up"] < 0.55 * other["bytes_up"]
    assert all(0 < c["compression_error"] < 1 for c in clients)


@pytest.mark.parametrize("extra", ["", PRIVATE], ids=["plain", "private"])
def test_all_three_go_together(recipe_text, tmp_path, extra):
    text = recipe_text(method="ffa", rank=MIXED, rounds=3, extra=ALL + extra)
    result, clients = run(text, tmp_path / "one")
    assert {c["outcome"] for c in clients} <= {"", "clipped"}
    assert all(c["compression_error"] > 0 for c in clients)
    if not extra:
        assert run(text, tmp_path / "again")[0]["adapter_sha256"] == result["adapter_sha256"]


@pytest.mark.parametrize("rule", ["none", "geometric_median"])
def test_one_client_that_sends_its_move_reversed_and_a_hundred_times_over(
    recipe_text, tmp_path, monkeypatch, rule
):
    """A positive control beside it: the plain mean goes where the attacker wants."""
    clip = "clip_factor: 1.0e+9, " if rule == "none" else ""
    text = recipe_text(method="ffa", rank="4", rounds=1, extra=f"robust: {{{clip}rule: {rule}}}\n")
    honest, _ = run(text, tmp_path / "honest")
    collect, started = LocalGrid.collect, {}
    send = LocalGrid.send

    def sending(grid, order, *, deadline_s):
        started[order.client_id] = from_bytes(order.payload)
        return send(grid, order, deadline_s=deadline_s)

    def attacking(grid, message_ids):
        found = []
        for message_id, reply in collect(grid, message_ids):
            if reply.client_id == "c":
                now, start = from_bytes(reply.payload), started["c"]
                payload = to_bytes(with_moves(start, {k: -100 * v for k, v in moves(now, start).items()}))
                reply = dataclasses.replace(reply, payload=payload, payload_sha256=sha256_hex(payload))
            found.append((message_id, reply))
        return found

    monkeypatch.setattr(LocalGrid, "send", sending)
    monkeypatch.setattr(LocalGrid, "collect", attacking)
    attacked, clients = run(text, tmp_path / "attacked")
    from coordinator.storage.artifacts import ArtifactStore

    states = [
        ArtifactStore(tmp_path / name / "runs/federated/artifacts").load_state(result["adapter_sha256"])
        for name, result in (("honest", honest), ("attacked", attacked))
    ]
    products = [{k: p.scale * p.B @ p.A for k, p in s.lora.items()} for s in states]
    gap = sum(float((products[0][k] - products[1][k]).square().sum()) for k in products[0]) ** 0.5
    size = sum(float(v.square().sum()) for v in products[0].values()) ** 0.5
    if rule == "none":
        assert gap > 20 * size
    else:
        assert gap < 2 * size
        assert clients[2]["outcome"] == "clipped"
        assert clients[2]["share"] < 0.05


@pytest.mark.slow
def test_a_run_of_one_client_alone_does_not_need_the_rules_company(recipe_text, tmp_path):
    text = recipe_text(rounds=1, extra="robust: {rule: trimmed}\n").replace("minimum: 2", "minimum: 3")
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    words = ("simulate", path, "--out", tmp_path / "out", "--json")
    done = forked_motet.run(words, os.environ, tmp_path, 120)
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout.splitlines()[-1])["metrics"]["local_only"]) == {"a", "b", "c"}

"""A whole federation over Flower: real processes, TLS, node keys; killed, restarted, misused."""

import json
import signal
import ssl
import time
from pathlib import Path

import httpx
import psutil
import pytest

from client.ledger import ClientLedger
from motet.recipe import parse_recipe
from motet.simulate import prepare_shards, run_engine

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]


def embedded_hash(deployment, text):
    recipe = parse_recipe(text)
    shards = prepare_shards(recipe, deployment.folder / "shards")
    outcome = run_engine(recipe, shards, deployment.folder / "embedded", stage="x", with_curve=False)
    return outcome.result.adapter_sha256


def test_embedded_and_deployed_give_the_same_adapter_and_so_does_a_second_run(federation):
    text = federation.recipe_text()
    expected = embedded_hash(federation, text)
    before = {p.pid for p in federation.alive()}
    for _ in range(2):
        row = federation.wait_for_end(federation.submit(text))
        assert (row.state, row.adapter_sha256) == ("FINISHED", expected), row.reason
    assert {p.pid for p in federation.alive()} == before  # nobody was started for it
    other = federation.wait_for_end(federation.submit(federation.recipe_text(seed=4)))
    assert other.adapter_sha256 != expected  # positive control


def test_a_coordinator_killed_in_the_middle_of_a_round_ends_with_the_same_adapter(federation):
    text = federation.recipe_text(steps=8)
    expected = embedded_hash(federation, text)
    run = federation.submit(text)

    def in_round_1(store):
        rows = store.contributions(run, 1)
        return any(r.message_id for r in rows) and any(r.state == "ORDERED" for r in rows)

    federation.wait_for(run, in_round_1, "round 1 ordered")
    children = psutil.Process(federation.processes["coordinator"].pid).children(recursive=True)
    assert len(children) >= 2  # SuperLink and gateway
    federation.kill("coordinator")
    assert not psutil.wait_procs(children, timeout=10)[1]  # they went with it
    store = federation.store()
    assert [r.state for r in store.rounds(run)] == ["CLOSED", "PLANNED"]
    store.close()
    federation.start_coordinator()
    row = federation.wait_for_end(run)
    store = federation.store()
    answers = [(c.round_index, c.client_id, c.state, c.error_message) for c in store.contributions(run)]
    assert (row.state, row.adapter_sha256) == ("FINISHED", expected), answers
    assert [(r.round_index, r.attempt) for r in store.rounds(run)] == [(0, 0), (1, 0), (2, 0)]
    store.close()


def test_a_killed_client_is_left_behind_at_the_deadline_and_is_back_the_next_round(federation):
    run = federation.submit(federation.recipe_text(rounds=4, steps=60, deadline_s=8))
    federation.wait_for(
        run, lambda s: any(r.client_id == "c" and r.message_id for r in s.contributions(run, 0)), "ordered"
    )
    federation.kill("c")
    federation.wait_for(run, lambda s: len(s.closed_rounds(run)) >= 1, "round 0 closed")
    federation.start_client("c")
    assert federation.wait_for_end(run, 150).state == "FINISHED"
    store = federation.store()
    states = [{c.client_id: c.state for c in store.contributions(run, r, 0)} for r in range(4)]
    took = store.closed_rounds(run)[0]
    store.close()
    assert states[0]["a"] == states[0]["b"] == "RECEIVED"
    assert states[0]["c"] in {"FAILED", "LATE"}
    assert took.closed_at - took.started_at >= 7.5
    assert states[-1] == dict.fromkeys("abc", "RECEIVED")


def test_the_gateway_answers_fleet_routes_only(deployment):
    deployment.start_coordinator()
    joined = json.loads(deployment.join_file.read_text())
    context = ssl.create_default_context(cadata=joined["ca"])
    with httpx.Client(base_url=f"https://{joined['address']}", verify=context, timeout=10) as http:
        for service in (
            "control.Control",
            "serverappio.ServerAppIo",
            "clientappio.ClientAppIo",
            "simulationio",
        ):
            for path in (f"/flwr.proto.{service}/StartRun", f"/{service}/ListRuns", f"/v1/{service}"):
                assert http.post(path, content=b"").status_code == 404, path
        for path in ("/", "/health", "/..%2f/control", "//", "/docs"):
            assert http.get(path).status_code == 404, path
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"https://{joined['address']}/", timeout=5)  # its certificate is of the federation's own CA
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"http://{joined['address']}/", timeout=5)


def test_an_unregistered_client_gets_no_order_and_the_run_says_for_whom_it_waits(deployment):
    deployment.register("a")
    deployment.start_coordinator()
    deployment.motet("client", "init", "--home", deployment.folder / "b")
    deployment.start_client("a")
    deployment.start_client("b")
    run = deployment.submit(deployment.recipe_text())
    reason = deployment.wait_for(run, lambda s: "b, c not online" in s.get_run(run).reason, "a reason")
    assert reason
    time.sleep(3)
    store = deployment.store()
    assert store.contributions(run) == []
    store.close()


def test_a_client_refuses_a_bundle_that_is_not_the_pinned_one(deployment):
    deployment.register("a", "b", "c")
    deployment.start_coordinator()
    joined = json.loads(deployment.join_file.read_text())
    other = deployment.folder / "other-join.json"
    other.write_text(json.dumps(joined | {"bundle_sha256": "0" * 64}))
    deployment.start_client("a", join=other)
    for name in ("b", "c"):
        deployment.start_client(name)
    run = deployment.submit(deployment.recipe_text(rounds=1, deadline_s=10))
    assert deployment.wait_for_end(run).state == "FINISHED"
    store = deployment.store()
    states = {c.client_id: c.state for c in store.contributions(run, 0, 0)}
    store.close()
    assert states["b"] == states["c"] == "RECEIVED"  # positive control: the pinned ones worked
    assert states["a"] == "FAILED"
    assert not list((deployment.folder / "a").glob("replies/*"))


def test_a_home_and_a_port_belong_to_one_coordinator(deployment):
    deployment.start_coordinator()
    second = deployment.motet("coordinator", "start", "--home", deployment.home, check=False)
    assert second.returncode == 7
    assert "another coordinator works in" in second.stderr
    elsewhere = deployment.folder / "elsewhere"
    third = deployment.motet(
        "coordinator", "start", "--home", elsewhere, "--listen", deployment.address, check=False
    )
    assert third.returncode == 7
    assert deployment.address in third.stderr
    assert "Traceback" not in second.stderr + third.stderr
    assert deployment.processes["coordinator"].poll() is None


def test_cancel_takes_effect_within_seconds(federation):
    run = federation.submit(federation.recipe_text(rounds=50, steps=40))
    federation.wait_for(run, lambda s: s.contributions(run, 0), "ordered")
    federation.motet("run", "cancel", run, "--home", federation.home)
    started = time.monotonic()
    assert federation.wait_for_end(run, 20).state == "CANCELLED"
    assert time.monotonic() - started < 10
    again = federation.submit(federation.recipe_text(rounds=1))  # the federation works on
    assert federation.wait_for_end(again).state == "FINISHED"


def test_a_client_reconnects_by_itself_when_the_coordinator_comes_back(federation):
    first = federation.submit(federation.recipe_text(rounds=1))
    assert federation.wait_for_end(first).state == "FINISHED"
    federation.kill("coordinator")
    time.sleep(2)
    federation.start_coordinator()
    second = federation.submit(federation.recipe_text(rounds=1, seed=9))
    assert federation.wait_for_end(second).state == "FINISHED"
    assert all(federation.processes[name].poll() is None for name in "abc")


def test_a_private_run_charges_coordinator_and_client_the_same(federation):
    run = federation.submit(
        federation.recipe_text(extra="privacy: {target_epsilon: 8, sampling_rate: 0.2}\n")
    )
    assert federation.wait_for_end(run).state == "FINISHED"
    store = federation.store()
    for name in "abc":
        charged = store.spent_events(name, run)
        rows = [
            r
            for r in ClientLedger(federation.folder / name / "ledger.jsonl").rows()
            if r["kind"] == "reserve"
        ]
        assert len(charged) == len(rows) == 3
        assert {r["run_id"] for r in rows} == {run}
    assert {c.num_examples for c in store.contributions(run)} == {0}
    store.close()


def test_stopping_by_sigterm_leaves_no_process_and_says_nothing_alarming(federation):
    run = federation.submit(federation.recipe_text(rounds=1))
    assert federation.wait_for_end(run).state == "FINISHED"
    everyone = federation.alive()
    assert len(everyone) >= 6  # coordinator, SuperLink, gateway, three clients
    for name in ("a", "b", "c", "coordinator"):
        federation.processes[name].send_signal(signal.SIGTERM)
        assert federation.processes[name].wait(30) == 0
    assert not psutil.wait_procs(everyone, timeout=10)[1]
    for name in ("a", "b", "c", "coordinator"):
        assert "Traceback" not in federation.log(name)


def test_nothing_calls_home(federation):
    quiet = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "DO_NOT_TRACK": "1"}
    run = federation.submit(federation.recipe_text(rounds=1))
    assert federation.wait_for_end(run).state == "FINISHED"
    remote = set()
    for process in federation.alive():
        if "flower-superlink" in " ".join(process.cmdline()) or "gateway" in " ".join(process.cmdline()):
            environment = process.environ()
            assert {k: environment.get(k) for k in quiet} == quiet
        remote |= {c.raddr.ip for c in process.net_connections("inet") if c.raddr}
    assert remote <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    assert remote  # positive control: connections were seen


def test_secrets_stay_in_files_that_only_their_owner_reads(federation):
    secret = (federation.home / "superlink/secret").read_text().strip()
    keys = [
        federation.home / "tls/ca.key",
        federation.home / "tls/server.key",
        federation.home / "superlink/secret",
    ]
    keys += [federation.folder / name / "client.key" for name in "abc"]
    assert all(path.stat().st_mode & 0o077 == 0 for path in keys)
    lines = [" ".join(p.cmdline()) for p in federation.alive()]
    texts = [p.read_bytes() for p in Path(federation.folder).rglob("*.log")]
    database = (federation.home / "motet.db").read_bytes()
    assert not any(secret in line for line in lines)
    assert not any(secret.encode() in text for text in [*texts, database])
    assert secret.encode() not in federation.join_file.read_bytes()
    assert len(secret) >= 32


def test_a_client_without_a_key_or_with_a_foreign_join_file_is_told_what_to_do(deployment):
    done = deployment.motet(
        *("client", "start", "--name", "a", "--data", deployment.data / "a.jsonl"),
        *("--join", deployment.folder / "none.json", "--home", deployment.folder / "nokey"),
        check=False,
    )
    assert done.returncode == 2
    assert "no such join file" in done.stderr
    deployment.start_coordinator()
    done = deployment.motet(
        *("client", "start", "--name", "a", "--data", deployment.data / "a.jsonl"),
        *("--join", deployment.join_file, "--home", deployment.folder / "nokey"),
        check=False,
    )
    assert done.returncode == 2
    assert "motet client init" in done.stderr


def test_the_demo_runs_as_a_real_federation(deployment):
    from motet.deployed import run_deployed

    text = deployment.recipe_text(rounds=2)
    seen = []
    result = run_deployed(
        parse_recipe(text), deployment.folder / "out", on_step=lambda *step: seen.append(step)
    )
    assert result["adapter_sha256"] == embedded_hash(deployment, text)
    assert seen[0][1:] == (0, 2)
    assert seen[-1][1:] == (2, 2)
    assert [c["lora_rank"] for c in result["clients"]] == [1, 4, 7]
    assert len(result["curves"]["federated"]) == 3
    assert (Path(result["adapter_dir"]) / "adapter_model.safetensors").exists()
    listening = [c for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    mine = {p.pid for p in psutil.Process().children(recursive=True)}
    assert not [c for c in listening if c.pid in mine]

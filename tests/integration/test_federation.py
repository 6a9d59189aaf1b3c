"""A federation of three clients that stays up from test to test, with an embedded run's answers through crashes."""

import hashlib
import json
import re
import time

import psutil
import pytest

from client.keys import init_key
from client.ledger import ClientLedger

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("federation")]
ALL = dict.fromkeys("abc", "RECEIVED")
PRIVATE = "privacy: {noise_multiplier: 1.0, sampling_rate: 0.2}\n"
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "DO_NOT_TRACK": "1",
}


def states(deployment, run_id, round_index):
    return {r.client_id: r.state for r in deployment.store.contributions(run_id, round_index)}


def attempts(deployment, run_id):
    return [(r.round_index, r.attempt, r.state) for r in deployment.store.rounds(run_id)]


def gone(processes):
    try:
        return all(not p.is_running() or p.status() == psutil.STATUS_ZOMBIE for p in processes)
    except psutil.NoSuchProcess:  # it ended between the two looks
        return False


# -- the same answer -------------------------------------------------------------------------------------------------


def test_embedded_and_deployed_give_the_same_adapter(federation, recipe_file, embedded):
    submitted = federation.motet("run", "submit", recipe_file(), "--home", federation.place, "--json")
    assert submitted.returncode == 0, submitted.stderr
    run_id = json.loads(submitted.stdout)["run_id"]
    watched = federation.motet("run", "watch", run_id, "--home", federation.place, "--timeout", 50)
    assert watched.returncode == 0, watched.stdout + watched.stderr + federation.tails()
    row = federation.store.get_run(run_id)
    assert row.adapter_sha256 in watched.stdout
    assert row.adapter_sha256 == embedded(recipe_file())
    assert row.adapter_sha256 != embedded(recipe_file("another", seed=4))  # the hash tells runs apart
    assert [states(federation, run_id, k) for k in range(3)] == [ALL] * 3


@pytest.mark.slow
def test_a_clients_control_variates_outlive_its_process_and_the_adapter_is_the_embedded_one(
    federation, recipe_file, embedded
):
    path = recipe_file("scaffold", rounds=4, minimum=3)
    text = re.sub(r"lora_rank: \{.*?\}", "lora_rank: 4", path.read_text()).replace("flora", "ffa")
    path.write_text(
        text.replace("learning_rate: 5e-3", "algorithm: scaffold, optimizer: sgd, learning_rate: 1.0")
    )
    run_id = federation.submit(path)
    federation.wait_for_order(run_id, 2, "c")
    federation.kill("c")
    folder = federation.client_home("c") / "control" / run_id
    assert sorted(p.stem for p in folder.glob("*.safetensors"))[:2] in (["0", "1"], ["1", "2"], ["1"])
    federation.start_clients("c")
    row = federation.wait_for_end(run_id)
    assert (row.state, row.adapter_sha256) == ("FINISHED", embedded(path)), federation.tails()
    assert [states(federation, run_id, k) for k in range(4)] == [ALL] * 4


@pytest.mark.slow
def test_pruned_ranks_outlive_both_processes_and_the_adapter_is_the_embedded_one(
    federation, recipe_file, embedded
):
    path = recipe_file("pruning", rounds=4, minimum=3)
    pruning = "hetlora, self_pruning: {decay: 0.75, penalty_weight: 100.0}"
    path.write_text(path.read_text().replace("flora", pruning).replace("5e-3", "2e-2"))
    run_id = federation.submit(path)
    federation.wait_for_order(run_id, 2, "c")
    federation.kill("c")
    children = federation.kill("coordinator")
    federation.wait(lambda: gone(children), "the end of its SuperLink and gateway", 20)
    federation.start_coordinator()
    federation.start_clients("c")
    row = federation.wait_for_end(run_id)
    assert (row.state, row.adapter_sha256) == ("FINISHED", embedded(path)), federation.tails()
    ranks = [c.lora_rank for c in federation.store.contributions(run_id) if c.client_id == "c"]
    assert ranks == sorted(ranks, reverse=True)
    assert ranks[1] < ranks[0] == 7  # what was pruned before the kill was kept after it


@pytest.mark.slow
@pytest.mark.parametrize("basis", ["public_gradient", "gradient_sketch"])
def test_a_basis_of_gradients_is_the_same_at_every_client_and_outlives_a_kill(
    federation, recipe_file, embedded, tmp_path, basis
):
    public = tmp_path / "public.jsonl"
    rows = [{"text": f"{('kind', 'rude')[i % 2]} word {i}", "label": i % 2} for i in range(50)]
    public.write_text("".join(json.dumps(row) + "\n" for row in rows))
    sha256 = hashlib.sha256(public.read_bytes()).hexdigest()
    path = recipe_file("public", minimum=3)
    method = f"fed-sb, basis: {basis}"
    if basis == "public_gradient":
        method += f", public_data: {{path: {public}, sha256: '{sha256}', num_examples: 40}}"
    text = re.sub(r"lora_rank: \{.*?\}", "lora_rank: 4", path.read_text()).replace("flora", method)
    path.write_text(text)
    run_id = federation.submit(path)
    federation.wait_for_order(run_id, 1, "c")  # of gradient_sketch, the second half of the search
    federation.kill("c")
    federation.start_clients("c")
    row = federation.wait_for_end(run_id)
    assert (row.state, row.adapter_sha256) == ("FINISHED", embedded(path)), federation.tails()
    changed = text.replace("num_examples: 40", "num_examples: 30").replace("gradient_sketch", "svd")
    path.write_text(changed)
    assert row.adapter_sha256 != embedded(path)  # positive control: other examples, or none, another basis


@pytest.mark.slow
def test_what_compression_left_and_the_optimisers_memory_outlive_their_processes_and_the_adapter_is_the_embedded_one(
    federation, recipe_file, embedded
):
    path = recipe_file("compressed", rounds=4, minimum=3)  # a round without c would be another adapter
    options = (
        "robust: {rule: geometric_median}\nserver_optimizer: {rule: fedadam}\ncompression: {kind: int4}\n"
    )
    path.write_text(path.read_text().replace("flora", "ffa") + options)
    run_id = federation.submit(path)
    federation.wait_for_order(run_id, 2, "c")
    federation.kill("c")
    assert list((federation.client_home("c") / "residuals" / run_id).glob("*.safetensors"))
    children = federation.kill("coordinator")
    federation.wait(lambda: gone(children), "the end of its SuperLink and gateway", 20)
    federation.start_coordinator()
    federation.start_clients("c")
    row = federation.wait_for_end(run_id)
    assert (row.state, row.adapter_sha256) == ("FINISHED", embedded(path)), federation.tails()
    counted = federation.store.contributions(run_id, 3)
    assert all(c.compression_error and c.change_norm and c.share for c in counted)


def test_a_second_run_uses_the_same_processes(federation, recipe_file):
    before = {p.pid for p in federation.processes()}
    assert len(before) == 6  # coordinator, SuperLink, gateway, three clients
    run_id = federation.submit(recipe_file("second", rounds=2))
    seen = set()

    def ended():
        seen.update(p.pid for p in federation.processes())
        return federation.store.get_run(run_id).state == "FINISHED"

    federation.wait(ended, "the second run", 120)
    assert seen == before
    assert {p.pid for p in federation.processes()} == before


def test_a_private_run_deployed_charges_coordinator_and_client_the_same(federation, recipe_file):
    run_id = federation.finish(recipe_file("private", rounds=2, extra=PRIVATE)).run_id
    plain = federation.finish(recipe_file("plain", rounds=1)).run_id
    for name in "abc":
        charged = federation.store.spent_events(name, run_id)
        charges = ClientLedger(federation.client_home(name) / "ledger.jsonl").charges()
        own = [c for c in charges if c.run_id == run_id]
        assert [c.event for c in own] == charged
        assert [(c.round_index, c.attempt, c.is_settled) for c in own] == [(0, 0, True), (1, 0, True)]
        assert federation.store.spent_events(name, plain) == []
        assert not [c for c in charges if c.run_id == plain]
    assert {c.num_examples for c in federation.store.contributions(run_id)} == {0}
    assert {c.num_examples for c in federation.store.contributions(plain)} == {
        40
    }  # told where nothing is private


def test_a_client_trains_the_rank_that_its_owner_allows_as_if_the_recipe_had_written_it(
    federation, recipe_file, shards, tmp_path
):
    policy = tmp_path / "policy.toml"
    policy.write_text("max_lora_rank = 2\n")
    federation.register("bounded")
    where = (
        "--data",
        shards / "c.jsonl",
        "--join",
        federation.join,
        "--home",
        federation.client_home("bounded"),
    )
    federation.spawn("bounded", "client", "start", "--name", "bounded", *where, "--policy", policy)

    def trained(adapter):
        path = recipe_file("measured", rounds=2, clients="[a, bounded]", minimum=2)
        path.write_text(re.sub(r"lora_rank: \{.*?\}", adapter, path.read_text()))
        return federation.finish(path)

    try:
        federation.wait(lambda: "is connected" in federation.log("bounded"), "connected", 40, ("bounded",))
        offered = trained("rank_policy: measured, lora_rank: 5")
        written = trained("lora_rank: {a: 5, bounded: 2}")
    finally:
        assert federation.terminate("bounded") == [0]
    told = {(c.round_index, c.client_id): c.lora_rank for c in federation.store.contributions(offered.run_id)}
    assert told == {(0, "a"): 5, (0, "bounded"): 2, (1, "a"): 5, (1, "bounded"): 2}
    assert offered.adapter_sha256 == written.adapter_sha256


# -- crashes ---------------------------------------------------------------------------------------------------------


def test_the_coordinator_killed_in_the_middle_of_a_round_and_started_again_ends_with_the_same_adapter(
    federation, recipe_file, embedded
):
    run_id = federation.submit(recipe_file())
    federation.wait_for_order(run_id, 1)
    children = federation.kill("coordinator")
    assert len(children) == 2  # SuperLink and gateway
    before = federation.store.rounds(run_id)
    assert [r.state for r in before] == ["CLOSED", "PLANNED"]  # it was in the middle of a round
    federation.wait(lambda: gone(children), "the end of its SuperLink and gateway", 20)
    federation.start_coordinator()
    row = federation.wait_for_end(run_id)
    assert (row.state, row.adapter_sha256) == ("FINISHED", embedded(recipe_file())), federation.tails()
    assert attempts(federation, run_id) == [(k, 0, "CLOSED") for k in range(3)]
    assert federation.store.rounds(run_id)[1].started_at == before[1].started_at  # the same round went on


def test_a_killed_client_that_is_back_before_the_deadline_answers_the_same_order(
    federation, recipe_file, embedded
):
    path = recipe_file("redone", local_steps=40)
    run_id = federation.submit(path)
    federation.wait_for_order(run_id, 1, "c")
    journal = federation.client_home("c") / "in-flight.pb"
    federation.wait(journal.exists, "the order in the client's journal", 10, every_s=0.002)
    federation.kill("c")
    told = federation.store.contributions(run_id, 1)
    assert next(r.state for r in told if r.client_id == "c") == "ORDERED"  # it had not answered
    assert journal.exists()
    federation.start_clients("c")
    row = federation.wait_for_end(run_id)
    assert (row.state, row.adapter_sha256) == ("FINISHED", embedded(path)), federation.tails()
    assert attempts(federation, run_id) == [(k, 0, "CLOSED") for k in range(3)]
    assert states(federation, run_id, 1) == ALL


def test_a_killed_client_is_left_behind_at_the_deadline_and_is_back_the_next_round(federation, recipe_file):
    run_id = federation.submit(recipe_file("deadline", rounds=9, local_steps=10, deadline_s=10))
    federation.wait_for_order(run_id, 1, "c")
    federation.kill("c")
    closed = federation.wait(lambda: federation.store.closed_rounds(run_id)[1:], "the end of the round", 60)
    assert states(federation, run_id, 1) == ALL | {"c": "FAILED"}
    assert closed[0].closed_at - closed[0].started_at >= 10
    missed = next(r for r in federation.store.contributions(run_id, 1) if r.client_id == "c")
    assert missed.error_code == "deadline"
    federation.start_clients("c")

    def is_back():
        later = [r.round_index for r in federation.store.closed_rounds(run_id) if r.round_index > 1]
        return any(states(federation, run_id, k) == ALL for k in later)

    federation.wait(is_back, "a round with all three", 90)
    assert {attempt for _, attempt, _ in attempts(federation, run_id)} == {0}
    federation.store.request_cancel(run_id)
    federation.wait_for_end(run_id)


def test_a_client_reconnects_when_the_coordinator_comes_back(federation, recipe_file):
    clients = {name: federation.running[name].pid for name in "abc"}
    noticed = {name: federation.log(name).count("does not answer") for name in "abc"}
    assert federation.terminate("coordinator") == [0]
    federation.wait(
        lambda: all(federation.log(n).count("does not answer") > noticed[n] for n in "abc"), "a word", 20
    )
    federation.start_coordinator()
    run_id = federation.finish(recipe_file("after", rounds=1)).run_id
    assert states(federation, run_id, 0) == ALL
    assert {name: federation.running[name].pid for name in "abc"} == clients


# -- who may take part -----------------------------------------------------------------------------------------------


def test_an_unregistered_client_gets_no_order(federation, recipe_file, shards):
    init_key(federation.client_home("stranger"))
    federation.spawn_client("stranger", data=shards / "a.jsonl")
    try:
        refused = "does not admit this client"
        federation.wait(lambda: refused in federation.log("stranger"), "a refusal", 40, needs=("stranger",))
        anybody = recipe_file("anybody", rounds=1, clients=None, minimum=3)
        run_id = federation.finish(anybody).run_id
        assert states(federation, run_id, 0) == ALL
        assert not (federation.client_home("stranger") / "replies").exists()
        federation.register("stranger")  # positive control: it was the key that was missing
        federation.wait(lambda: "is connected" in federation.log("stranger"), "admission", 60)
        run_id = federation.finish(anybody).run_id
        assert states(federation, run_id, 0) == ALL | {"stranger": "RECEIVED"}
    finally:
        assert federation.terminate("stranger") == [0]


def test_a_client_refuses_a_bundle_that_is_not_pinned(federation, recipe_file, shards, tmp_path):
    other = tmp_path / "join.json"
    other.write_text(json.dumps(json.loads(federation.join.read_text()) | {"bundle_sha256": "0" * 64}))
    federation.register("careful")
    federation.spawn_client("careful", data=shards / "c.jsonl", join=other)
    try:
        federation.wait(lambda: "is connected" in federation.log("careful"), "connected", 40, ("careful",))
        path = recipe_file("careful", rounds=1, clients="[a, careful]", minimum=1)
        run_id = federation.finish(path).run_id
        alone = federation.submit(recipe_file("alone", rounds=1, clients="[careful]", minimum=1))
        ended = federation.wait_for_end(alone)
    finally:
        assert federation.terminate("careful") == [0]
    assert states(federation, run_id, 0) == {"a": "RECEIVED"}
    why = "is not the one that this client pins"
    assert f"run {run_id} goes on without careful: bundle" in federation.log("coordinator")
    assert (ended.state, why in ended.reason) == ("FAILED", True)
    assert attempts(federation, alone) == []  # nobody was ordered anything, and nobody charged
    assert not (federation.client_home("careful") / "replies").exists()


# -- one home, one port ----------------------------------------------------------------------------------------------


def test_a_second_coordinator_in_the_same_home_is_refused(federation):
    done = federation.motet("coordinator", "start", "--home", federation.place, "--listen", "127.0.0.1:1")
    assert done.returncode == 7
    assert f"another coordinator works in {federation.place}" in done.stderr
    assert not federation.is_down("coordinator")


def test_a_port_in_use_is_named(federation, tmp_path):
    before = {p.pid for p in federation.processes()}
    done = federation.motet(
        "coordinator", "start", "--home", tmp_path / "other", "--listen", federation.address
    )
    assert done.returncode == 7
    assert f"{federation.address} can not be used" in done.stderr
    assert "--listen" in done.stderr
    assert {p.pid for p in federation.processes()} == before


# -- silence ---------------------------------------------------------------------------------------------------------


def test_no_telemetry_or_update_check_environment(federation):
    children = federation.children("coordinator")
    assert len(children) == 2
    for child, line in children.items():
        environment = child.environ()
        assert {key: environment.get(key) for key in QUIET} == QUIET, line
    parent = psutil.Process(federation.running["coordinator"].pid).environ()
    assert not set(QUIET) & set(parent)  # nobody had set it for them: it is our doing


def test_every_connection_ends_on_this_machine_and_a_clients_at_the_gateway(federation, recipe_file):
    run_id = federation.submit(recipe_file("silent", rounds=2))
    clients = {federation.running[name].pid for name in "abc"}
    anywhere, of_clients = set(), set()

    def ended():
        for process in federation.processes():
            for connection in process.net_connections("inet"):
                if connection.raddr:
                    anywhere.add(connection.raddr.ip)
                    if process.pid in clients:
                        of_clients.add(f"{connection.raddr.ip}:{connection.raddr.port}")
        return federation.store.get_run(run_id).state == "FINISHED"

    federation.wait(ended, "the run", 120)
    assert anywhere == {"127.0.0.1"}
    assert of_clients == {federation.address}


# -- cancel ----------------------------------------------------------------------------------------------------------


def test_cancel_takes_effect_within_seconds(federation, recipe_file):
    run_id = federation.submit(recipe_file("long", rounds=2, local_steps=100_000, deadline_s=600))
    federation.wait_for_order(run_id, 0)
    done = federation.motet("run", "cancel", run_id, "--home", federation.place)
    assert done.returncode == 0, done.stderr
    asked = time.monotonic()
    row = federation.wait_for_end(run_id, 30)
    assert row.state == "CANCELLED"
    assert time.monotonic() - asked < 20
    (last,) = federation.store.rounds(run_id)
    assert (last.state, last.reason) == ("ABORTED", "the run was cancelled")  # its clients were told to stop
    shown = federation.motet("run", "list", "--home", federation.place, "--json")
    assert {r["run_id"]: r["state"] for r in json.loads(shown.stdout)}[run_id] == "CANCELLED"

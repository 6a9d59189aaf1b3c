"""A deployed private run as operators see it: its metrics, its health, its logs, and how it stops."""

import json
import time
import urllib.error
import urllib.request

import pytest
from metric_figures import figures

from client.ledger import ClientLedger
from motet.ports import check_port_is_free, free_port

pytestmark = pytest.mark.integration
PRIVATE = "privacy: {noise_multiplier: 1.0, sampling_rate: 0.2, clipping_norm: 1.0}\n"


def get(address, path):
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as e:
        return e.code, e.read()


def secrets_of(deployment):
    """Every line of every key and secret of both homes, as it stands in its file."""
    files = [
        *deployment.place.rglob("*.key"),
        deployment.place / "superlink/secret",
        deployment.place / "artifact.keys",
    ]
    files += [deployment.client_home("a") / "client.key"]
    lines = {line.strip(' ",') for f in files for line in f.read_text(errors="replace").splitlines()}
    found = {line.split('": "')[-1] for line in lines if len(line) >= 24 and "-----" not in line}
    assert len(found) >= 8
    return found


def loopback():
    """Of IPv6 where this machine has it: coordinator and client are to get along there too."""
    try:
        check_port_is_free(f"[::1]:{free_port()}")
    except OSError:
        return "127.0.0.1"
    return "[::1]"


def test_a_private_run_shows_figures_and_health_and_no_example_key_or_token_in_any_log(
    deploy, recipe_file, shards
):
    own, host = deploy("a"), loopback()
    port = int(own.address.rpartition(":")[2])
    own.address, metrics = f"{host}:{port}", f"{host}:{port + 1}"
    own.options = ["--metrics", metrics, "--log-format", "json", "--control", f"{host}:0"]
    own.start_coordinator()
    assert get(metrics, "/healthz")[0] == 200
    connected = own._next_line("a", "is connected")
    where = ("--data", own.data["a"], "--join", own.join, "--home", own.client_home("a"))
    own.spawn("a", "client", "start", "--name", "a", *where, "--verbose", "--log-format", "json")
    own.wait(connected, "client connected", 120, needs=("a",))
    recipe = recipe_file("private", rounds=1, clients="[a]", minimum=1, extra=PRIVATE)
    row = own.finish(recipe)

    found = figures(get(metrics, "/metrics")[1])
    assert found["motet_clients", (("state", "registered"),)] == 1
    assert found["motet_leading", ()] == 1
    own.wait(
        lambda: figures(get(metrics, "/metrics")[1])["motet_runs", (("state", "FINISHED"),)] == 1,
        "the finished run in the metrics", 30, every_s=1.0,
    )  # fmt: skip
    assert (
        figures(get(metrics, "/metrics")[1])["motet_replies_total", (("code", ""), ("outcome", "received"))]
        == 1
    )

    lines = [
        json.loads(line)
        for line in own.log("coordinator").splitlines()
        if not line.startswith("coordinator ready")
    ]
    closed = [line for line in lines if "closed with" in line["message"]]
    assert closed == [closed[0] | {"run_id": row.run_id, "round_index": 0}]
    assert {"at", "level", "logger", "message"} <= set(closed[0])
    logs = {p: p.read_text(errors="replace") for p in [*own.logs.glob("*.log"), *own.place.glob("*.log")]}
    assert len(logs) >= 4
    texts = [json.loads(line)["text"] for line in (shards / "a.jsonl").read_text().splitlines()]
    words = {*texts, *(t.split(" ", 2)[2] for t in texts)} | secrets_of(own)
    for path, content in logs.items():
        assert not [w for w in words if w in content], path
    logs[own.log_path("a")] += texts[0]  # positive control: the search finds what is there
    assert [w for w in words if w in logs[own.log_path("a")]]
    assert len(ClientLedger(own.client_home("a") / "ledger.jsonl").charges()) == 1

    second = own.submit(
        recipe_file("long", rounds=1, local_steps=4000, clients="[a]", minimum=1, extra=PRIVATE)
    )
    own.wait_for_order(second, 0)
    asked = time.monotonic()
    assert own.terminate("coordinator") == [0]
    assert time.monotonic() - asked < 40
    assert own.store.get_run(second).state == "RUNNING"
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"http://{metrics}/healthz/live", timeout=5)

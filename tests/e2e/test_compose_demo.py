"""docker-compose.yml whole, by the runner: the demo recipe over PostgreSQL with four clients, and with two of its
parts failing meanwhile. Minutes each; the runner itself is tested in tests/integration/test_compose_boxes.py."""

import json
import os
import re
import time
from pathlib import Path

import pytest
from compose_house import ROOT, House, why_not_here

from motet.materials import is_fetched
from motet.materials.cache import cache_folder

CLIENTS = [f"client-{n}" for n in range(1, 5)]
HOME = "/var/lib/motet/home"
MEASURED = "MOTET_COMPOSE_MEASURED"  # a file for seconds and memory of the whole run
DASHBOARD = f"""
import http.client, json, ssl, subprocess
from urllib.parse import urlsplit
told = subprocess.run(["motet", "dashboard", "--home", "{HOME}", "--json"], capture_output=True, check=True).stdout
link = urlsplit(json.loads(told)["url"])
def get(path, cookie=""):
    context = ssl.create_default_context(cafile="{HOME}/tls/ca.crt")
    there = http.client.HTTPSConnection(link.hostname, link.port, context=context, timeout=30)
    there.request("GET", path, headers={{"Cookie": cookie}})
    answer = there.getresponse()
    return answer.status, (answer.getheader("Set-Cookie") or "").split(";")[0], answer.read().decode()
status, cookie, _ = get(link.path + "?" + link.query)
print(get("/")[0], status, get("/", cookie)[0], "newsgroups-demo" in get("/", cookie)[2])
"""
METRICS = (
    "import urllib.request as u; print(u.urlopen('http://metrics:9464/metrics', timeout=30).read().decode())"
)


def why_not():
    missing = [name for name in ("minilm", "newsgroups") if not is_fetched(name)]
    return why_not_here() or (f"not fetched: {', '.join(missing)}" if missing else "")


pytestmark = [
    pytest.mark.slow,
    pytest.mark.integration,
    pytest.mark.materials,
    pytest.mark.timeout(2400),
    pytest.mark.skipif(bool(why_not()), reason=why_not() or "runs here"),
]
MATERIALS = ("--volume", f"materials={cache_folder().parent}")


@pytest.fixture
def house():
    made = House(ROOT / "docker-compose.yml", MOTET_RECIPE="")
    made.before = made.left()
    try:
        yield made
    finally:
        made.down()


def rounds_closed(house):
    path = house.state / "logs" / "submit.log"
    found = re.findall(r"(\d+) of \d+ rounds closed", path.read_text()) if path.exists() else []
    return int(found[-1]) if found else 0


def wait_for(house, count, seconds=1200):
    """Until so many rounds of the run are closed."""
    until = time.monotonic() + seconds
    while rounds_closed(house) < count:
        assert time.monotonic() < until, house.logs()
        time.sleep(0.3)


def has_trained(house):
    """The adapter is in its volume, as peft loads it; the run that made it."""
    adapter = house.state / "volumes" / "adapter" / "demo"
    assert json.loads((adapter / "adapter_config.json").read_text())["peft_type"] == "LORA"
    assert (adapter / "adapter_model.safetensors").stat().st_size > 100_000
    said = (house.state / "logs" / "submit.log").read_text()
    assert "its adapter is in /var/lib/motet/adapter/demo" in said
    return re.search(r"^(r-\w+) newsgroups-demo", said, re.MULTILINE)[1]


def is_audited(house):
    """The auditor's check holds, with the signed record of every owner; what it printed."""
    said = house.ok("run", "auditor", profile="auditor")
    assert said.rstrip().endswith("all holds")
    assert "no countersignature" not in said
    return said


def charges_of(said):
    return int(re.search(r"(\d+)\s+charges", said)[1])


def nothing_is_left(house):
    house.ok("down")
    until = time.monotonic() + 20
    while (left := house.left()) != ([], *house.before[1:3], False) and time.monotonic() < until:
        time.sleep(0.2)
    assert left == ([], *house.before[1:3], False)


def test_up_ends_with_a_trained_adapter_and_everything_closed_that_has_to_be(house):
    began = time.time()
    said = house.ok("up", "--timeout", "1800", *MATERIALS, profile="observer")
    assert "grafana: nothing here stands for" in said
    rows = house.rows()
    run_id = has_trained(house)

    metrics = house.ok("exec", "coordinator", "python", "-c", METRICS)
    assert 'motet_rounds_total{state="CLOSED"} 6.0' in metrics
    assert 'motet_clients{state="online"} 4.0' in metrics
    if rows["prometheus"]["state"] != "not here":
        asked = ("promtool", "query", "instant", "http://prometheus:9090", "motet_ledger_entries > 0")
        assert "motet_ledger_entries" in house.ok("exec", "prometheus", *asked)
    assert house.ok("exec", "coordinator", "python", "-c", DASHBOARD).split() == ["401", "200", "200", "True"]

    operators = rows["coordinator"]["addresses"]
    gates = ["coordinator:8443", "coordinator:8445"]  # the positive control of what is closed
    closed = [f"coordinator:{port}" for port in (8444, 8446, 9464)]
    closed += [
        f"{operators['operator']}:8444",
        f"{operators['observer']}:9464",
        "control:8444",
        "postgres:5432",
    ]
    closed += [f"{rows['postgres']['addresses']['database']}:5432"]
    for client in CLIENTS:
        others = [f"{rows[o]['addresses'][o]}:{port}" for o in CLIENTS if o != client for port in (22, 8443)]
        assert house.reached(client, [*gates, *closed, *others]) == set(gates)
        renewed = house.ok("exec", client, "motet", "client", "renew", "--home", HOME)
        assert renewed.startswith("the certificate of client")
    told = (house.state / "logs" / "coordinator.log").read_text()
    assert told.count("EnrolmentService/RenewSigned by anyone: OK") == len(CLIENTS)
    inside = {"control:8444", "control:8446", "postgres:5432", "metrics:9464"}
    assert house.reached("coordinator", sorted(inside)) == inside

    charges = charges_of(is_audited(house))
    assert charges == 24  # six rounds, four clients
    house.ok("down", "--keep-volumes")
    house.ok("up", "--timeout", "600", *MATERIALS)  # a second time: everything is found done
    assert has_trained(house) == run_id
    assert charges_of(is_audited(house)) == charges
    assert (house.state / "logs" / "submit.log").read_text().count(f"{run_id} newsgroups-demo") == 2
    runs = house.ok("exec", "coordinator", "motet", "run", "list", "--home", HOME, "--json")
    assert [run["run_id"] for run in json.loads(runs)] == [run_id]
    write_measured(began, rows)
    nothing_is_left(house)


def test_a_client_that_is_killed_and_a_database_that_restarts_cost_time_and_nothing_else(house):
    house.ok("up", "--detach", "--rootless", *MATERIALS)
    wait_for(house, 1)
    without = ("psql", "--host", "127.0.0.1", "-U", "motet", "--no-password", "-c", "SELECT 1")
    assert "no password supplied" in house.run("exec", "postgres", *without).stdout
    house.ok("kill", "client-2")
    wait_for(house, 2)
    before = house.rows()["postgres"]["starts"]
    house.ok("kill", "postgres")
    wait_for(house, 4)
    house.ok("restart", "postgres")
    house.ok("wait", "--timeout", "1200")
    rows = house.rows()
    assert rows["client-2"]["starts"] == 2
    assert rows["postgres"]["starts"] >= before + 1
    assert rows["coordinator"]["health"] == "healthy"
    has_trained(house)
    is_audited(house)
    nothing_is_left(house)


def write_measured(began, rows):
    if MEASURED not in os.environ:
        return
    told = {
        "seconds_to_coordinator": rows["coordinator"]["healthy_at"] - began,
        "seconds_to_clients": max(rows[c]["healthy_at"] for c in CLIENTS) - began,
        "seconds_to_adapter": rows["submit"]["ended_at"] - began,
        "peak_mb": {name: row["peak_mb"] for name, row in rows.items()},
    }
    Path(os.environ[MEASURED]).write_text(json.dumps(told, indent=1) + "\n")

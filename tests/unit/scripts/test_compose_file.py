"""docker-compose.yml, the Dockerfile and what they mount: valid, hardened, and closed where they have to be."""

import inspect
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from compose.dockerfile import image_facts
from compose.model import load, parsed

from coordinator.observing.metrics import METRICS

ROOT = Path(__file__).resolve().parents[3]
FILE = ROOT / "docker-compose.yml"
DOCKERFILE = ROOT / "docker" / "Dockerfile"
BIN = Path(sys.executable).parent
CLIENTS = [f"client-{n}" for n in range(1, 5)]


@pytest.fixture(scope="module")
def project():
    return load(FILE, {})


@pytest.fixture(scope="module")
def raw():
    return parsed(FILE.read_text())["services"]


def tool(name):
    found = shutil.which(name, path=f"{BIN}:{'/usr/bin:/usr/local/bin'}")
    if found is None:
        pytest.skip(f"{name} is not installed here; the checks of our own below still ran")
    return found


def test_the_file_holds_against_the_official_schema():
    command = [tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(FILE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_docker_compose_config_takes_the_file():
    command = [tool("docker-compose"), "--file", str(FILE), "config", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dockerfile_passes_a_linter():
    done = subprocess.run([tool("hadolint"), str(DOCKERFILE)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_takes_its_configuration():
    command = [tool("promtool"), "check", "config", str(ROOT / "docker" / "prometheus.yml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_image_is_built_in_stages_from_a_pinned_slim_python_and_runs_as_nobody_in_particular():
    lines = DOCKERFILE.read_text().splitlines()
    assert re.search(r"^ARG PYTHON=python:3\.11\.\d+-slim-\w+$", DOCKERFILE.read_text(), re.MULTILINE)
    assert [line for line in lines if line.startswith("FROM")] == [
        "FROM ${PYTHON} AS build",
        "FROM ${PYTHON} AS motet",
    ]
    facts = image_facts(DOCKERFILE)
    assert facts.user == "10001:10001"
    assert facts.entrypoint == ("motet",)
    assert facts.environment["FLWR_TELEMETRY_ENABLED"] == "0"
    assert facts.environment["HF_HUB_DISABLE_TELEMETRY"] == facts.environment["DO_NOT_TRACK"] == "1"


def test_the_build_gets_the_packages_and_nothing_else_of_the_checkout():
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    copied = set(re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE.read_text(), re.MULTILINE))
    wanted = {word for words in copied for word in words.split()}
    assert "*" in ignored
    assert {line[1:] for line in ignored if line.startswith("!")} == wanted


def test_every_service_runs_without_root_without_rights_on_a_read_only_root_below_an_init(project, raw):
    for name, service in project.services.items():
        assert service.read_only, name
        assert service.init, name
        assert service.drops_capabilities, name
        assert re.fullmatch(r"[1-9]\d*:\d+", service.user), name
        assert raw[name]["security_opt"] == ["no-new-privileges:true"], name
        assert {"mem_limit", "pids_limit", "logging", "stop_grace_period"} <= set(raw[name]), name
        assert re.search(r":\D*\d+\.\d+", service.image), f"{name}: {service.image} is not pinned"
        if service.restart == "unless-stopped":
            assert service.health is not None, name


def test_no_password_stands_in_the_file(project):
    for service in project.services.values():
        for key, value in service.environment.items():
            if "PASSWORD" in key or "TOKEN" in key or "SECRET" in key:
                assert key.endswith("_FILE"), f"{service.name}: {key}={value}"


def test_ports_are_published_on_this_host_alone(raw):
    ports = [port for service in raw.values() for port in service.get("ports", [])]
    assert ports
    assert all(str(port).startswith("127.0.0.1:") for port in ports)


def test_a_client_shares_a_network_with_the_coordinator_alone_and_that_one_leads_nowhere(project):
    for client in CLIENTS:
        (network,) = project.services[client].networks
        there = {name for name, service in project.services.items() if network in service.networks}
        assert there == {client, "coordinator"}
        assert project.networks[network] is True
        assert project.services["coordinator"].networks[network] == ()


def test_no_volume_of_a_client_is_seen_by_another_client_and_none_of_the_operators_by_any(project):
    def volumes(name):
        return {m.source for m in project.services[name].mounts if m.kind == "volume"}

    operators = {"coordinator-home", "database", "database-secret"}
    operators |= {volume for volume in project.volumes if volume.endswith("-identity")}
    for client in CLIENTS:
        assert not volumes(client) & operators
        for other in set(CLIENTS) - {client}:
            assert volumes(client) & volumes(other) == {"materials"}
    writers = {
        name
        for name, service in project.services.items()
        for mount in service.mounts
        if mount.source == "materials" and not mount.read_only
    }
    assert writers == {"materials"}


def test_the_authoritys_key_and_the_databases_password_are_seen_by_few(project):
    def who_mounts(volume):
        return {s.name for s in project.services.values() if volume in {m.source for m in s.mounts}}

    makes_identities = {"operator", "researcher", "auditor-identity"}
    assert who_mounts("coordinator-home") == {"coordinator", *makes_identities}
    assert who_mounts("database-secret") == {
        "coordinator",
        *makes_identities,
        "postgres",
        "database-password",
    }
    for name in makes_identities:
        assert project.services[name].networks == {"database": ()}
    for n in range(1, 5):
        assert who_mounts(f"client-{n}-token") == {f"client-{n}-token", f"client-{n}"}


def test_what_only_the_operator_may_reach_listens_on_a_name_that_clients_do_not_have(project):
    coordinator = project.services["coordinator"]
    words = dict(
        word[2:].split("=", 1) for word in coordinator.command if word.startswith("--") and "=" in word
    )
    for option in ("control", "metrics", "dashboard"):
        host = words[option].rpartition(":")[0]
        (network,) = [n for n, names in coordinator.networks.items() if host in names]
        assert network not in CLIENTS


def test_the_auditor_has_no_network(project):
    assert project.services["auditor"].networks == {}
    assert project.services["auditor"].profiles == {"auditor"}


def test_a_fifth_client_is_the_fourths_services_and_lines_copied(tmp_path):
    """As docs/compose.md says it."""
    text = FILE.read_text()
    start, end = text.index("  client-4-data:"), text.index("  # -- docker compose --profile auditor")
    services = text[start:end]

    def twice(part):
        lines = part.splitlines(keepends=True)
        return "".join(
            line + (line.replace("client-4", "client-5") if "client-4" in line else "") for line in lines
        )

    path = tmp_path / "docker-compose.yml"
    path.write_text(
        twice(text[:start]) + services + services.replace("client-4", "client-5") + twice(text[end:])
    )
    project = load(path, {})
    assert set(project.services) - set(load(FILE, {}).services) == {
        f"client-5{end}" for end in ("", "-data", "-token", "-receipts")
    }
    assert set(project.services["client-5"].networks) == {"client-5"}
    assert project.networks["client-5"] is True
    assert "client-5" in project.services["coordinator"].networks
    assert project.services["submit"].depends_on["client-5"] == "service_healthy"
    assert "client-5-receipts" in project.services["auditor"].depends_on
    assert "--receipts=/var/lib/motet/receipts/client-5/client-5.json" in project.services["auditor"].command


def test_what_is_mounted_from_the_checkout_is_there(project):
    for service in project.services.values():
        for mount in service.mounts:
            assert mount.kind == "volume" or Path(mount.source).exists()


def test_dashboards_ask_for_figures_that_exist():
    known = {metric.name for metric in METRICS}
    known |= {f"{name}{end}" for name in known for end in ("_sum", "_count")}
    asked = set()
    for path in sorted((ROOT / "docker" / "grafana" / "dashboards").glob("*.json")):
        board = json.loads(path.read_text())
        assert board["uid"]
        for panel in board["panels"]:
            for target in panel["targets"]:
                asked |= set(re.findall(r"\b(?:motet|process)_\w+", target["expr"]))
    assert not asked - known
    assert {metric.name for metric in METRICS} - asked <= {"motet_round_seconds"}  # asked for by its parts


BROKEN = [
    (
        test_every_service_runs_without_root_without_rights_on_a_read_only_root_below_an_init,
        ("  read_only: true\n", "  read_only: false\n"),
        ('user: "10001:10001"', 'user: "0:0"'),
        ('security_opt: ["no-new-privileges:true"]', "security_opt: []"),
        ("  init: true\n", "  init: false\n"),
        ("image: postgres:18.4-bookworm", "image: postgres:latest"),
    ),
    (
        test_no_password_stands_in_the_file,
        ("POSTGRES_PASSWORD_FILE: /run/motet/database-password", "POSTGRES_PASSWORD: motet"),
    ),
    (test_ports_are_published_on_this_host_alone, ("127.0.0.1:8446:8446", "8446:8446")),
    (
        test_a_client_shares_a_network_with_the_coordinator_alone_and_that_one_leads_nowhere,
        ("networks: [client-1]", "networks: [client-1, database]"),
        ("networks: [client-1]", "networks: [client-2]"),
        ("  client-1: {internal: true}", "  client-1: {}"),
        ("      client-1: {}\n", "      client-1: {aliases: [control]}\n"),
    ),
    (
        test_no_volume_of_a_client_is_seen_by_another_client_and_none_of_the_operators_by_any,
        ("source: client-2-home", "source: client-1-home"),
        (
            "source: client-2-data, target: /var/lib/motet/data, read",
            "source: database-secret, target: /s, read",
        ),
    ),
    (
        test_the_authoritys_key_and_the_databases_password_are_seen_by_few,
        ("volumes: [*operator-identity, {", "volumes: [*coordinator-home, {"),
        (
            "source: client-3-token, target: /var/lib/motet/token, read",
            "source: client-4-token, target: /t, read",
        ),
    ),
    (
        test_what_only_the_operator_may_reach_listens_on_a_name_that_clients_do_not_have,
        ("--control=control:8444", "--control=0.0.0.0:8444"),
    ),
]


@pytest.mark.parametrize(
    ("check", "old", "new"),
    [pytest.param(check, *change, id=change[1].strip()) for check, *changes in BROKEN for change in changes],
)
def test_each_of_these_checks_fails_once_the_file_says_otherwise(tmp_path, check, old, new):
    text = FILE.read_text()
    assert old in text
    path = tmp_path / "docker-compose.yml"
    path.write_text(text.replace(old, new))
    given = {"project": load(path, {}), "raw": parsed(path.read_text())["services"]}
    with pytest.raises((AssertionError, ValueError)):
        check(**{name: given[name] for name in inspect.signature(check).parameters})

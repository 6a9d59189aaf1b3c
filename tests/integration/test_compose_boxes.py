"""The compose runner on small services: order, health, networks, volumes, read-only roots, restarts, and no trace."""

import os
import shutil
import signal
import time

import pytest
from compose_house import RUNNER, House, why_not_here

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(bool(why_not_here()), reason=why_not_here() or "runs here"),
]
PYTHON = "/opt/motet/bin/python"
FILE = """
x-safe: &safe
  image: scratch
  init: true
  read_only: true
  user: "10001:10001"
  cap_drop: [ALL]
  tmpfs: ["/tmp:size=1m,mode=1777"]
services:
  prepare: {<<: *safe, command: [sh, -c, "id -u > /data/who"], network_mode: none,
    volumes: [{type: volume, source: data, target: /data}]}
  server:
    <<: *safe
    command: [PYTHON, -m, http.server, --bind, api, "8000", --directory, /data]
    restart: unless-stopped
    stop_signal: SIGINT
    networks: {front: {}, back: {aliases: [api]}}
    volumes: [{type: volume, source: data, target: /data, read_only: true}]
    depends_on: {prepare: {condition: service_completed_successfully}}
    healthcheck: {test: [CMD, PYTHON, -c, "import socket; socket.create_connection(('api', 8000))"], interval: 1s,
      retries: 60}
  friend: {<<: *safe, command: [sleep, "600"], restart: unless-stopped, networks: [back],
    depends_on: {server: {condition: service_healthy}}}
  stranger: {<<: *safe, command: [sleep, "600"], restart: unless-stopped, networks: [FRONT]}
  late: {<<: *safe, command: [cat, /data/who], profiles: [extra], network_mode: none,
    volumes: [{type: volume, source: data, target: /data, read_only: true}]}
networks: {front: {internal: true}, back: {}}
volumes: {data: {}}
""".replace("PYTHON", PYTHON)


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    path = tmp_path_factory.mktemp("boxes") / "small.yml"
    path.write_text(FILE.replace("FRONT", "front"))
    made = House(path)
    try:
        made.said = made.ok("up", "--timeout", "60")
        yield made
    finally:
        made.down()


def in_box(house, service, script):
    return house.run("exec", service, "sh", "-c", script)


def test_services_start_in_order_and_up_ends_when_all_is_well(house):
    rows = house.rows()
    assert rows["prepare"]["exit_code"] == 0
    assert rows["prepare"]["ended_at"] <= rows["server"]["started_at"]
    assert rows["server"]["healthy_at"] <= rows["friend"]["started_at"]
    assert "late" not in rows
    assert house.said.index("prepare: done") < house.said.index("server: healthy")


def test_a_service_is_reached_from_its_networks_by_name_and_from_nowhere_else(house):
    back = house.rows()["server"]["addresses"]["back"]
    addresses = ["server:8000", "api:8000", f"{back}:8000", "friend:8000"]
    assert house.reached("friend", addresses, PYTHON) == set(addresses[:3])
    assert (
        house.reached("stranger", addresses, PYTHON) == set()
    )  # `server` it finds, where it does not listen


def test_a_box_has_its_user_no_capability_its_own_processes_and_a_root_that_takes_nothing(house):
    look = "id -u; grep CapBnd /proc/self/status; hostname; touch /new; touch /data/new; touch /tmp/new && echo wrote"
    said = in_box(house, "server", look).stdout
    assert said.split()[:4] == ["10001", "CapBnd:", "0" * 16, "server"]
    assert said.count("Read-only file system") == 2
    assert said.rstrip().endswith("wrote")
    said = in_box(house, "friend", "ls /tmp; ls -d /data 2>&1; ls -d /proc/[0-9]*").stdout
    assert "new" not in said
    assert "cannot access '/data'" in said
    assert 2 < said.count("/proc/") < 6


def test_a_step_of_a_profile_runs_when_it_is_asked_for_and_reads_the_volume(house):
    assert house.ok("run", "late").strip() == "10001"


def test_a_service_that_is_killed_starts_again_and_one_that_is_stopped_does_not(house):
    before = house.rows()["server"]["starts"]
    house.ok("kill", "server")
    until = time.monotonic() + 30
    while time.monotonic() < until:
        row = house.rows()["server"]
        if row["starts"] == before + 1 and row["health"] == "healthy":
            break
        time.sleep(0.2)
    assert row["starts"] == before + 1
    house.ok("stop", "stranger")
    time.sleep(1)
    assert house.rows()["stranger"]["state"] == "exited"
    house.ok("restart", "stranger")
    time.sleep(0.5)
    assert house.rows()["stranger"]["starts"] == 2


ILL = """
  ill: {<<: *safe, command: [sleep, "600"], restart: unless-stopped, network_mode: none,
    healthcheck: {test: [CMD, "false"], interval: 100ms, retries: 2}}
  nurse: {<<: *safe, command: ["true"], network_mode: none, depends_on: {ill: {condition: service_healthy}}}
networks:"""


def test_what_waits_for_a_failed_step_or_an_ill_service_is_given_up_and_up_fails(tmp_path):
    path = tmp_path / "failing.yml"
    text = FILE.replace("FRONT", "front").replace("id -u > /data/who", "sleep 1; exit 3")
    path.write_text(text.replace("\nnetworks:", ILL))
    house = House(path)
    try:
        done = house.run("up", "--timeout", "60")
        assert done.returncode == 1
        until = time.monotonic() + 60
        while time.monotonic() < until:
            rows = house.rows()
            if all(rows[name]["state"] == "given up" for name in ("server", "friend", "nurse")):
                break
            time.sleep(0.3)
        assert rows["prepare"]["exit_code"] == 3
        assert [rows[name]["state"] for name in ("server", "friend", "nurse")] == ["given up"] * 3
        assert rows["ill"]["health"] == "unhealthy"
        assert rows["stranger"]["state"] == "running"
        os.kill(int((house.state / "pid").read_text()), signal.SIGKILL)  # the supervisor: nothing outlives it
        while house.left()[0] and time.monotonic() < until:
            time.sleep(0.2)
        assert house.left()[0] == []
    finally:
        house.down()


def test_after_down_nothing_is_left_and_what_is_shut_in_is_found_open_once_the_file_says_so(tmp_path):
    """The positive control of the networks: in another one the stranger does reach the server."""
    path = tmp_path / "open.yml"
    path.write_text(FILE.replace("FRONT", "front, back"))
    house = House(path)
    before = house.left()
    try:
        house.ok("up", "--rootless", "--timeout", "60")  # as those who are not root have it
        assert house.reached("stranger", ["api:8000"], PYTHON)
        assert house.left()[0] != before[0]
        assert in_box(house, "server", "id -u; grep CapBnd /proc/self/status").stdout.split()[::2] == [
            "10001",
            "0" * 16,
        ]
    finally:
        house.down()
    until = time.monotonic() + 20
    while (left := house.left()) != ([], *before[1:3], False) and time.monotonic() < until:
        time.sleep(0.2)
    assert left == ([], *before[1:3], False)


def test_a_box_starts_also_where_its_outer_process_goes_on_long_after_the_inner_one_has_changed_the_root(
    tmp_path,
):
    """What the outer process writes by name from then on would not be found."""
    scripts = shutil.copytree(
        RUNNER.parent, tmp_path / "scripts", ignore=shutil.ignore_patterns("__pycache__")
    )
    box = scripts / "compose" / "box.py"
    late = "import os, time\nos.register_at_fork(after_in_parent=lambda: time.sleep(0.5))\n"
    box.write_text(box.read_text().replace("import ctypes\n", f"import ctypes\n{late}", 1))
    path = tmp_path / "small.yml"
    path.write_text(FILE.replace("FRONT", "front"))
    house = House(path, scripts / RUNNER.name)
    try:
        house.ok("up", "--timeout", "60")
        assert in_box(house, "server", "hostname").stdout.strip() == "server"
    finally:
        house.down()

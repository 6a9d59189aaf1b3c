"""``motet doctor`` at homes that work and at homes that do not, as people type it."""

import fcntl
import json
import shutil
import socket
import subprocess
import sys

import pytest

from client.ledger import ClientLedger
from privacy.events import PoissonGaussianEvent

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("federation")]


def doctor(deployment, *arguments):
    """Exit code and findings by check."""
    done = deployment.motet("doctor", *arguments, "--json")
    told = json.loads(done.stdout)
    found = {}
    for finding in told["findings"]:
        found.setdefault(finding["check"], []).append(finding)
    assert told["healthy"] == (done.returncode == 0), done.stderr
    return done.returncode, found


def failures(found):
    return {f["check"] for rows in found.values() for f in rows if f["level"] == "failure"}


def test_the_doctor_finds_nothing_at_a_coordinator_and_a_client_that_work(federation):
    code, found = doctor(federation, "--home", federation.place)
    assert code == 0, found
    assert {"port", "processes", "certificates", "database", "ledger", "disk", "secrets", "artifacts"} <= set(
        found
    )
    assert [f["what"] for f in found["processes"]] == ["coordinator, SuperLink and gateway run"]
    assert [f["what"] for f in found["port"]] == ["answers"]
    code, found = doctor(federation, "--home", federation.client_home("a"), "--join", federation.join)
    assert code == 0, found
    assert {f["level"] for f in found["coordinator"]} == {"ok"}
    assert {f["where"] for f in found["clock"]} == {federation.address}


def test_the_doctor_names_each_fault_of_a_broken_home_and_what_mends_it(federation, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(
        federation.place, broken, ignore=shutil.ignore_patterns("*.lock", "state.db*", "motet.db*")
    )
    (broken / "tls/server.key").chmod(0o644)
    entries = broken / "ledger/entries.jsonl"
    entries.write_bytes(b"".join(entries.read_bytes().splitlines(keepends=True)[:-1]))
    (broken / "artifact.keys").unlink()
    (broken / "motet.db").write_bytes(b"no database")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        join = json.loads((broken / "join.json").read_text())
        address = f"127.0.0.1:{other.getsockname()[1]}"
        (broken / "join.json").write_text(json.dumps(join | {"address": address}))
        code, found = doctor(federation, "--home", broken)
    assert code == 12
    assert failures(found) >= {"secrets", "ledger", "artifacts", "database", "port"}
    mends = [f["mend"] for rows in found.values() for f in rows if f["level"] != "ok"]
    assert all(mends)
    assert f"chmod 600 {broken}/tls/server.key" in mends
    words = federation.motet("doctor", "--home", broken)
    assert words.returncode == 12
    assert "checks failed" in words.stderr
    assert "-> chmod 600" in words.stdout


def test_the_doctor_names_each_fault_of_a_broken_client(federation, tmp_path):
    home = tmp_path / "ward"
    federation.motet("client", "init", "--home", home)
    (home / "client.key").chmod(0o640)
    event = PoissonGaussianEvent(noise_multiplier=1.0, sampling_rate=0.1, num_steps=1)
    place = {"data_set": "d", "run_id": "r", "attempt": 0, "event": event, "epsilon_cap": None}
    for index in range(2):
        ClientLedger(home / "ledger.jsonl").reserve(round_index=index, target_delta=1e-5, **place)
    lines = (home / "ledger.jsonl").read_bytes().splitlines(keepends=True)
    (home / "ledger.jsonl").write_bytes(lines[0])
    (home / "policy.toml").write_text("max_epsilom = 3\n")
    join = json.loads(federation.join.read_text())
    elsewhere = tmp_path / "join.json"
    elsewhere.write_text(json.dumps(join | {"address": "127.0.0.1:9"}))
    code, found = doctor(federation, "--client-home", home, "--join", elsewhere)
    assert code == 12
    assert failures(found) == {"secrets", "ledger", "policy", "coordinator"}


def test_a_coordinator_that_stands_by_is_no_fault(federation):
    """The facts of a standby, put together: its home is locked, and another leads."""
    home = federation.home / "standby"
    home.mkdir()
    shutil.copytree(federation.place / "tls", home / "tls")
    (home / "motet.db").symlink_to(federation.place / "motet.db")
    with (home / "coordinator.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _, found = doctor(federation, "--home", home)
        assert [f["level"] for f in found["processes"]] == ["ok"]
        assert [f["level"] for f in found["lead"]] == ["ok"]
        assert str(federation.place.resolve()) in found["lead"][0]["what"]
    shutil.rmtree(home)


def test_the_doctor_imports_no_torch(tmp_path):
    (tmp_path / "client.key").touch(mode=0o600)
    code = (
        "import sys\nfrom motet.cli.main import main\n"
        f"try:\n    main(['doctor', '--home', {str(tmp_path)!r}])\nexcept SystemExit:\n    pass\n"
        "import motet.doctor.coordinator_side\n"
        "assert 'motet.doctor.client_side' in sys.modules\nassert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr

"""Every decision of the doctor, from facts that a test invents."""

import datetime
import tomllib
from pathlib import Path

import pytest
from cryptography import x509

from coordinator.tls import ensure_certificates
from motet.doctor import checks
from motet.doctor.findings import Level, as_json
from motet.doctor.tested import MODEL_SHA256, RANGES
from motet.materials import is_fetched

ROOT = Path(__file__).resolve().parents[4]
NOW = datetime.datetime(2026, 11, 21, tzinfo=datetime.UTC)


def levels(findings):
    findings = findings if isinstance(findings, list) else [findings]
    for finding in findings:
        assert finding.mend or finding.level == Level.OK, finding  # what is wrong names what mends it
        assert finding.where
        assert finding.what
    return [f.level.value for f in findings]


def test_the_tested_ranges_are_those_of_the_package():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {d.split(">=")[0]: ">=" + d.split(">=", 1)[1] for d in declared}
    assert names == RANGES


@pytest.mark.parametrize(
    ("version", "wanted", "is_right"),
    [
        ("2.13.0", ">=2.13,<2.14", True),
        ("2.13.1+cpu", ">=2.13,<2.14", True),
        ("2.14", ">=2.13,<2.14", False),
        ("2.12.9", ">=2.13,<2.14", False),
        ("2.9", ">=2.13,<3", False),
        ("2", ">=2,<3", True),
        ("3.0.0", ">=2,<3", False),
        ("3.0.0rc1", ">=2,<3", False),
        ("1.41.0.dev3", ">=1.41,<1.42", True),
        ("2.0.45", ">=2.0.45,<3", True),
        ("2.0.5", ">=2.0.45,<3", False),
    ],
)
def test_versions_are_compared_by_their_numbers(version, wanted, is_right):
    assert checks.is_within(version, wanted) is is_right


def test_a_package_that_is_missing_or_untested_is_named_with_the_command_that_brings_it():
    ranges = {"flwr": ">=1.41,<1.42", "numpy": ">=2,<3", "rich": ">=14,<15"}
    found = checks.check_versions({"flwr": "1.42.0", "numpy": None, "rich": "14.1"}, ranges)
    assert levels(found) == ["failure", "failure"]
    assert [f.where for f in found] == ["flwr", "numpy"]
    assert found[0].mend == "pip install 'flwr>=1.41,<1.42'"
    assert levels(checks.check_versions({"rich": "14.1"}, {"rich": ">=14,<15"})) == ["ok"]


def test_an_old_python_is_a_failure():
    assert levels(checks.check_python((3, 10), (3, 11))) == ["failure"]
    assert levels(checks.check_python((3, 14), (3, 11))) == ["ok"]


@pytest.mark.parametrize(("free", "level"), [(10**8, "failure"), (10**9, "warning"), (10**10, "ok")])
def test_a_full_disk_is_told_before_a_round_meets_it(free, level):
    assert levels(checks.check_disk("fed", free, 10**11)) == [level]


def test_a_secret_that_others_may_read_is_named_with_its_chmod():
    found = checks.check_modes({"a.key": 0o600, "b.key": 0o640, "c.key": None, "d.key": 0o604})
    assert levels(found) == ["failure", "failure"]
    assert [f.mend for f in found] == ["chmod 600 b.key", "chmod 600 d.key"]
    assert levels(checks.check_modes({"a.key": 0o400, "c.key": None})) == ["ok"]


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """Authority, its server, and another authority."""
    made = []
    for name in ("one", "other"):
        folder = tmp_path_factory.mktemp("tls") / name
        ensure_certificates(folder, ["fed.example.org"], NOW)
        made.append(folder)
    read = lambda path: x509.load_pem_x509_certificates(path.read_bytes())[0]  # noqa: E731
    return read(made[0] / "ca.crt"), read(made[0] / "server.pem"), read(made[1] / "ca.crt")


@pytest.mark.parametrize(
    ("days", "level"), [(0, "ok"), (380, "ok"), (390, "warning"), (398, "failure"), (-1, "failure")]
)
def test_certificates_are_held_against_the_clock(chain, days, level):
    authority, server, _ = chain
    now = NOW + datetime.timedelta(days=days)
    found = checks.check_certificate("server.pem", server, authority, now, mend="start it again")
    assert levels(found) == [level]
    assert levels(checks.check_certificate("ca.crt", authority, authority, NOW, mend="restore")) == ["ok"]


def test_a_certificate_of_another_authority_is_a_failure(chain):
    _, server, other = chain
    found = checks.check_certificate("server.pem", server, other, NOW, mend="restore")
    assert levels(found) == ["failure"]
    assert "authority" in found[0].what


@pytest.mark.parametrize(
    ("skew", "level"), [(0, "ok"), (-29, "ok"), (31, "warning"), (-31, "warning"), (301, "failure")]
)
def test_a_clock_that_differs_is_told_by_how_much(skew, level):
    assert levels(checks.check_skew("host:1", skew)) == [level]


def test_a_clock_behind_the_ledger_is_a_failure():
    assert levels(checks.check_last_entry("ledger", 1000.0, 2000.0)) == ["failure"]
    assert levels(checks.check_last_entry("ledger", 1000.0, 1010.0)) == ["ok"]
    assert levels(checks.check_last_entry("ledger", 1000.0, None)) == ["ok"]


def test_a_model_file_is_held_against_its_hash():
    assert levels(checks.check_model("minilm", "m/model.safetensors", "a" * 64, "a" * 64)) == ["ok"]
    assert levels(checks.check_model("minilm", "m/model.safetensors", "b" * 64, "a" * 64)) == ["failure"]
    assert checks.check_model("minilm", "minilm", None, "a" * 64).mend == "motet materials fetch minilm"


@pytest.mark.materials
@pytest.mark.parametrize("name", sorted(MODEL_SHA256))
def test_the_pinned_hashes_are_those_of_what_is_fetched(name):
    from motet.doctor import machine

    if not is_fetched(name):
        pytest.skip("not on this machine")
    assert levels(machine.models([name])) == ["ok"]


@pytest.mark.parametrize(
    ("current", "level"), [("0003", "ok"), ("0002", "warning"), ("0009", "failure"), (None, "failure")]
)
def test_the_databases_revision_is_held_against_this_versions(current, level):
    assert levels(checks.check_revision("db", current, ["0001", "0002", "0003"], "fed")) == [level]


@pytest.mark.parametrize(
    ("facts", "level"),
    [
        ({"is_running": True, "is_free": False, "is_answering": True}, "ok"),
        ({"is_running": True, "is_free": False, "is_answering": False}, "failure"),
        ({"is_running": False, "is_free": True, "is_answering": False}, "ok"),
        ({"is_running": False, "is_free": False, "is_answering": False}, "failure"),
    ],
)
def test_the_port_answers_while_the_coordinator_runs_and_is_free_while_it_does_not(facts, level):
    assert levels(checks.check_port("127.0.0.1:8443", home="fed", **facts)) == [level]


def test_a_word_to_start_again_speaks_of_the_options_that_a_coordinator_had():
    idle = {"is_running": False, "is_free": True, "is_answering": False}
    assert "the options that it had" in checks.check_port("h:1", home="fed", **idle).what
    half = checks.check_processes("fed", is_running=True, flower={11: "SuperLink"}, coordinator=10)
    assert "the options that it had" in half[0].mend


@pytest.mark.parametrize(
    ("is_running", "flower", "level"),
    [
        (True, {11: "SuperLink", 12: "gateway"}, "ok"),
        (True, {11: "SuperLink"}, "failure"),
        (True, {11: "SuperLink", 12: "gateway", 13: "SuperLink"}, "warning"),
        (False, {}, "ok"),
        (False, {11: "SuperLink"}, "failure"),
    ],
)
def test_missing_and_orphaned_processes_are_told(is_running, flower, level):
    found = checks.check_processes("fed", is_running=is_running, flower=flower, coordinator=10)
    assert levels(found) == [level]
    if level == "failure":
        assert "kill 1" in found[0].mend


def test_only_a_failure_makes_a_home_unhealthy():
    fine = checks.check_skew("host", 0.0)
    odd = checks.check_skew("host", 60.0)
    bad = checks.check_skew("host", 600.0)
    assert as_json([fine, odd])["healthy"]
    assert not as_json([fine, odd, bad])["healthy"]

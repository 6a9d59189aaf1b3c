"""Audit, identities and garbage over the control API: from elsewhere, each for the roles that may and no other."""

import json
import time

import pytest
from control_house import house

from coordinator.rpc import ledger as served_ledger
from coordinator.storage.artifacts import ArtifactStore
from motet.audit import bundle
from motet.audit.verify import verify_bundle
from motet.cli.main import main
from motet.connection.errors import BadRequestError
from motet.enrolment import parse_token
from motet.identity import load_identity
from motet.recipe import parse_recipe

RECIPE = """
name: elsewhere
base_model: {tiny: tiny-bert}
task: {kind: sequence-classification, num_labels: 2}
data: {path: none.jsonl}
adapter: {lora_rank: 2}
method: {name: flora}
training: {rounds: 2, local_steps: 1}
cohort: {clients: [a], minimum: 1}
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with house(tmp_path_factory.mktemp("house"), enrols=True) as made:
        yield made


@pytest.fixture
def motet(capsys):
    def run(*arguments):
        code = 0
        try:
            main([str(a) for a in arguments])
        except SystemExit as e:
            code = int(e.code or 0)
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def at(served, role, name="somebody"):
    return ["--coordinator", served.address, "--identity", served.identity(role, name)]


def refused(found):
    code, out, err = found
    return (code, out) == (7, "") and "does not have this call" in " ".join(err.split())


def test_an_auditor_exports_the_ledger_from_elsewhere_and_it_verifies(served, motet, tmp_path, monkeypatch):
    served.store.submit_run(parse_recipe(RECIPE), run_id="r-audited")
    monkeypatch.setattr(served_ledger, "CHUNK_BYTES", 500)  # several chunks
    out = tmp_path / "new" / "audit.jsonl"
    code, text, _ = motet("audit", "export", "r-audited", "--out", out, "--json", *at(served, "auditor"))
    assert code == 0
    result = verify_bundle(out.read_bytes(), key=json.loads(text)["key"])
    assert result.is_ok, result.findings
    assert result.summary["entries"] == json.loads(text)["entries"] >= 2
    for role in ("researcher", "client"):
        other = tmp_path / role
        assert refused(motet("audit", "export", "r-audited", "--out", other, *at(served, role)))
        assert not other.exists()
    code, _, err = motet("audit", "export", "r-none", "--out", tmp_path / "x", *at(served, "operator"))
    assert (code, "knows no run" in err) == (2, True)
    assert not list(tmp_path.glob("*x*"))  # nor a part of one


def test_what_is_written_during_an_export_is_left_out_and_the_file_holds(served, tmp_path, monkeypatch):
    served.store.submit_run(parse_recipe(RECIPE), run_id="r-first")
    whole = bundle.bundle_rows

    def meanwhile(*arguments, **options):
        served.store.submit_run(parse_recipe(RECIPE), run_id=f"r-{time.monotonic_ns()}")
        served.store.ledger.publish()
        return whole(*arguments, **options)

    monkeypatch.setattr(bundle, "bundle_rows", meanwhile)
    made = served.connect("operator").ledger.export("r-first", tmp_path / "cut")
    result = verify_bundle((tmp_path / "cut").read_bytes())
    assert (result.is_ok, result.summary["entries"]) == (True, made.size)
    monkeypatch.setattr(  # positive control: an export without that bound holds the entry of meanwhile
        bundle, "bundle_rows", lambda *a, **o: meanwhile(*a, **o | {"size": None})
    )
    made = served.connect("operator").ledger.export("r-first", tmp_path / "whole")
    assert verify_bundle((tmp_path / "whole").read_bytes()).summary["entries"] == made.size + 1


def test_a_countersignature_that_is_none_or_too_large_is_refused(served, tmp_path):
    ledger = served.connect("operator").ledger
    for document in (b"[]", b"{", b"x" * 1_000_001):
        with pytest.raises(BadRequestError):
            ledger.export("r-audited", tmp_path / "x", countersignatures=[document])
    assert not (tmp_path / "x").exists()


def test_an_operator_admits_and_revokes_from_elsewhere_and_a_key_never_travels(
    served, motet, tmp_path, monkeypatch
):
    boss = at(served, "operator", "boss")
    code, out, _ = motet("ca", "token", "--client", "ward-a", "--json", *boss)
    assert (code, json.loads(out)["address"]) == (0, "fed.example.org:8445")
    assert parse_token(json.loads(out)["token"]).name == "ward-a"
    out = motet("ca", "token", "--client", "ward-b", "--address", "10.0.0.1:9", "--json", *boss)[1]
    assert json.loads(out)["address"] == "10.0.0.1:9"
    sent = []
    from motet.connection.channel import Channel

    call = Channel.call
    monkeypatch.setattr(
        Channel,
        "call",
        lambda self, s, m, request, **o: (sent.append(str(request)), call(self, s, m, request, **o))[1],
    )
    ann = tmp_path / "ann"
    code, _, _ = motet("ca", "issue", "--role", "auditor", "--name", "ann", "--out", ann, *boss)
    assert (code, load_identity(ann).control) == (0, "fed.example.org:8444")
    assert "BEGIN CERTIFICATE REQUEST" in sent[-1]
    assert "PRIVATE" not in "".join(sent)
    assert served.store.identities.certificates(name="ann")
    rows = json.loads(motet("ca", "list", "--role", "auditor", "--json", *at(served, "auditor", "bea"))[1])
    assert {r["name"] for r in rows["identities"]} >= {"ann", "bea"}
    assert all(len(r["fingerprint"]) == 64 for r in rows["identities"])
    assert refused(motet("ca", "revoke", "ann", *at(served, "auditor", "bea")))
    code, out, _ = motet("ca", "revoke", "ann", "--reason", "left", *boss)
    assert (code, "auditor ann: 1 certificate revoked" in out) == (0, True)
    for words in (["token", "--client", "c"], ["issue", "--role", "operator", "--name", "me", "--out", "x"]):
        assert refused(motet("ca", *words, *at(served, "researcher")))


def test_an_operator_collects_garbage_from_elsewhere(served, motet):
    artifacts = ArtifactStore(served.home / "artifacts")
    artifacts.put(b"x")
    sha256 = artifacts.put(b"nobody's")
    assert refused(motet("coordinator", "gc", "--grace-hours", 0, *at(served, "researcher")))
    told = json.loads(motet("coordinator", "gc", "--json", *at(served, "operator"))[1])
    assert told["files"] == 0  # younger than a day
    hours = ["--grace-hours", 0, "--json", *at(served, "operator")]
    time.sleep(0.05)
    told = json.loads(motet("coordinator", "gc", "--dry-run", *hours)[1])
    assert told["files"] == 2
    assert artifacts.get(sha256) == b"nobody's"
    told = json.loads(motet("coordinator", "gc", *hours)[1])
    assert (told["files"], told["reasons"]) == (2, {"nothing in the database names it": 2})
    assert sha256 not in {name for name, _ in artifacts.files()}


def test_a_home_that_nobody_serves_answers_the_same_commands(motet, tmp_path):
    home = ["--home", tmp_path / "fed"]
    assert (
        motet("ca", "issue", "--role", "auditor", "--name", "ann", "--out", tmp_path / "ann", *home)[0] == 0
    )
    assert (tmp_path / "fed/tls/ca.key").exists()  # a new home gets its authority here, on this machine
    assert "ann" in motet("ca", "list", *home)[1]
    assert json.loads(motet("coordinator", "gc", "--json", *home)[1])["files"] == 0
    code, _, err = motet("ca", "list", "--home", tmp_path / "none")
    assert (code, "no such database" in err) == (8, True)

"""Who did what to a run is on record: with the certificate of the call, in the transaction of the change."""

import json

import pytest
from control_house import house

from coordinator.storage.actions import Actor
from motet.audit.bundle import make_bundle
from motet.audit.verify import verify_bundle
from motet.cli.main import main
from motet.connection.errors import BadRequestError, NotAllowedError
from motet.errors import WrongStateError
from motet.reaching import connect
from motet.recipe import parse_recipe
from privacy.ledger.chain import FIRST_PREVIOUS, Entry
from privacy.ledger.entries import Approval, Genesis, RunDeclared
from privacy.ledger.rules import check_entries

RECIPE = """
name: acted-on
base_model: {tiny: tiny-bert}
task: {kind: sequence-classification, num_labels: 2}
data: {path: none.jsonl}
adapter: {lora_rank: 2}
method: {name: flora}
training: {rounds: 2, local_steps: 1}
cohort: {clients: [a], minimum: 1}
"""
PRIVACY = "privacy: {noise_multiplier: 1.0, sampling_rate: 0.1}\n"
BOSS = Actor(label="operator/boss", serial="ab", fingerprint="c" * 64)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with house(tmp_path_factory.mktemp("house"), asks_operator=True) as made:
        yield made


def show(*arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in arguments])
    assert not stop.value.code


def approvals(store):
    return [body for body in store.ledger.file.bodies().values() if isinstance(body, Approval)]


def test_who_proposed_approved_and_cancelled_is_told_with_their_certificates(served, capsys):
    ann, boss = served.connect("researcher", "ann"), served.connect("operator", "boss")
    run = ann.runs.submit(parse_recipe(RECIPE + PRIVACY), priority=3)
    boss.runs.approve(run.run_id)
    boss.runs.approve(run.run_id)  # changes nothing, and is no second action
    done = ann.runs.cancel(run.run_id)
    ann.runs.cancel(run.run_id)
    found = [(a.action, a.made_by, a.detail) for a in done.actions]
    assert found == [
        ("submit", "researcher/ann", "priority 3"),
        ("approve", "operator/boss", ""),
        ("cancel", "researcher/ann", ""),
    ]
    assert ann.runs.get(run.run_id).actions == done.actions
    rows = {r.name: r for r in served.store.identities.certificates() if r.name in {"ann", "boss"}}
    approved = done.actions[1]
    assert (approved.serial, approved.fingerprint) == (rows["boss"].serial, rows["boss"].fingerprint)
    assert done.actions[0].serial == rows["ann"].serial != approved.serial
    assert 0 < done.actions[0].at <= approved.at <= done.actions[2].at
    where = ["--coordinator", served.address, "--identity", served.identity("auditor", "bea")]
    show("run", "show", run.run_id, *where)
    assert f"approve by operator/boss, certificate {approved.serial[:12]}" in capsys.readouterr().out
    show("run", "show", run.run_id, "--json", *where)
    assert json.loads(capsys.readouterr().out)["actions"][1]["fingerprint"] == approved.fingerprint


def test_an_approval_of_a_private_run_is_on_the_ledger_and_of_another_run_it_is_not(served):
    boss = served.connect("operator", "boss2")
    runs = {}
    for name, text in (("private", RECIPE + PRIVACY), ("plain", RECIPE)):
        runs[name] = served.connect("researcher", "cleo").runs.submit(parse_recipe(text)).run_id
        boss.runs.approve(runs[name])
    served.store.ledger.publish()
    told = {a.run_id: a for a in approvals(served.store)}
    assert runs["private"] in told
    assert runs["plain"] not in told
    (row,) = served.store.identities.certificates(name="boss2")
    assert told[runs["private"]].certificate_sha256 == row.fingerprint
    data = make_bundle(served.store.ledger.file, run_id=runs["private"], made_at_ms=0, version="0")
    result = verify_bundle(data)
    assert result.is_ok
    assert runs["private"] in {a.run_id for a in result.state.approvals}


def test_priority_is_changed_by_who_submitted_a_run_or_an_operator_and_by_nobody_else(served, capsys):
    dee, boss = served.connect("researcher", "dee"), served.connect("operator", "boss3")
    run_id = dee.runs.submit(parse_recipe(RECIPE)).run_id
    assert dee.runs.set_priority(run_id, 5).priority == 5
    with pytest.raises(NotAllowedError, match="somebody else"):
        served.connect("researcher", "eve").runs.set_priority(run_id, 9)
    for role in ("auditor", "client"):
        with pytest.raises(NotAllowedError):
            served.connect(role, f"{role}-9").runs.set_priority(run_id, 9)
    for far in (1001, -1001):
        with pytest.raises(BadRequestError, match="between -1000 and 1000"):
            boss.runs.set_priority(run_id, far)
        with pytest.raises(BadRequestError, match="between -1000 and 1000"):
            boss.runs.submit(parse_recipe(RECIPE), priority=far)
    where = ["--coordinator", served.address, "--identity", served.identity("operator", "boss3")]
    show("run", "priority", run_id, "-12", *where)
    assert capsys.readouterr().out == f"{run_id} has priority -12: PROPOSED\n"
    show("run", "priority", run_id, "-12", "--json", *where)
    assert json.loads(capsys.readouterr().out)["priority"] == -12
    told = [(a.action, a.made_by, a.detail) for a in boss.runs.get(run_id).actions]
    assert told[1:] == [
        ("priority", "researcher/dee", "from 0 to 5"),
        ("priority", "operator/boss3", "from 5 to -12"),
    ]
    dee.runs.cancel(run_id)
    with pytest.raises(WrongStateError, match="is CANCELLED"):
        dee.runs.set_priority(run_id, 1)


def test_the_user_of_a_home_is_its_local_operator(tmp_path):
    with connect(home=tmp_path / "fed", create=True) as own:
        run = own.runs.submit(parse_recipe(RECIPE), hold=True)
        told = own.runs.start(run.run_id).actions
    assert [(a.action, a.made_by, a.serial) for a in told] == [
        ("submit", "operator/local", ""),
        ("start", "operator/local", ""),
    ]


def test_an_action_and_its_change_are_there_together_or_not_at_all(place, monkeypatch):
    store = place.open()
    run = store.submit_run(parse_recipe(RECIPE + PRIVACY), state="PROPOSED", actor=BOSS)

    def lost(*_arguments):
        raise RuntimeError("the process dies here")

    with monkeypatch.context() as patch:
        patch.setattr("coordinator.storage.store.record_approval", lost)
        with pytest.raises(RuntimeError):
            store.approve_run(run, BOSS)
    assert store.get_run(run).state == "PROPOSED"
    assert [a.action for a in store.actions.of(run)] == ["submit"]
    store.approve_run(run, BOSS)  # positive control
    assert store.get_run(run).state == "QUEUED"
    assert [(a.number, a.action, a.fingerprint) for a in store.actions.of(run)] == [
        (0, "submit", "c" * 64),
        (1, "approve", "c" * 64),
    ]
    store.close()


def test_an_approval_of_another_recipe_does_not_hold():
    """Positive control of the rule: an entry that names another recipe than the run has is a finding."""

    def findings(recipe_sha256):
        bodies = [
            Genesis(origin="o", key="k"),
            RunDeclared(run_id="r", recipe_sha256="0" * 64, recipe_json="{}"),
            Approval(
                run_id="r",
                recipe_sha256=recipe_sha256,
                approved_by="x",
                certificate_sha256="",
                approved_at_ms=1,
            ),
        ]
        entries = [
            Entry(sequence=i, previous=FIRST_PREVIOUS, at_ms=1, recorded_by="engine", body=b)
            for i, b in enumerate(bodies)
        ]
        return [f.code for f in check_entries(entries).findings]

    assert "approval" in findings("1" * 64)
    assert "approval" not in findings("0" * 64)

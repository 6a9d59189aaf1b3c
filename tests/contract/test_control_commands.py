"""Commands against a served coordinator: by address and identity from elsewhere, or by the home on its machine."""

import contextlib
import json
import os

import pytest
from control_house import house

from coordinator.control import ensure_operator
from motet.addresses import Addresses, remember_addresses
from motet.cli.main import main

RECIPE = """
name: commanded
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
    with house(tmp_path_factory.mktemp("house")) as made:
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


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return path


def at(served, role, name="somebody"):
    return ["--coordinator", served.address, "--identity", served.identity(role, name)]


def test_a_researcher_submits_and_cancels_from_elsewhere_and_an_auditor_may_only_look(served, motet, recipe):
    code, out, _ = motet("run", "submit", recipe, *at(served, "researcher", "ann"))
    assert code == 0
    run_id = out.split()[0]
    assert f"--coordinator {served.address} --identity " in out
    assert served.store.get_run(run_id).submitted_by == "researcher/ann"
    looked = motet("run", "show", run_id, *at(served, "auditor"), "--json")
    assert json.loads(looked[1])["state"] == "QUEUED"
    for words in (["cancel", run_id], ["resume", run_id], ["approve", run_id], ["submit", recipe]):
        code, out, err = motet("run", *words, *at(served, "auditor"))
        assert (code, out) == (7, "")
        assert "the role auditor does not have this call" in " ".join(err.split())
    code, _, err = motet("run", "cancel", run_id, *at(served, "researcher", "bob"))
    assert code == 7
    assert "somebody else" in err
    assert served.store.get_run(run_id).state == "QUEUED"
    assert motet("run", "cancel", run_id, *at(served, "researcher", "ann"))[0] == 0
    assert motet("run", "watch", run_id, *at(served, "auditor"), "--json")[0] == 9
    assert served.store.get_run(run_id).state == "CANCELLED"


def test_a_failed_run_is_resumed_by_its_owner_and_a_cancelled_one_is_not(served, motet, recipe):
    mine = at(served, "researcher", "ann")
    run_id = json.loads(motet("run", "submit", recipe, *mine, "--json")[1])["run_id"]
    served.store.start_run(run_id)
    served.store.end_run(run_id, "FAILED", "nobody answered")
    code, out, _ = motet("run", "resume", run_id, *mine, "--json")
    assert (code, json.loads(out)["state"], json.loads(out)["reason"]) == (
        0,
        "QUEUED",
        "waits for the lead: start a coordinator, or wait for the standby",
    )
    motet("run", "cancel", run_id, *mine)
    code, _, err = motet("run", "resume", run_id, *mine)
    assert code == 2
    assert "only a failed run can go on" in " ".join(err.split())


def test_the_home_of_a_served_coordinator_is_reached_over_its_api_as_its_operator(served, motet, recipe):
    ensure_operator(served.home)
    before = sum(served.counts.calls().values())
    told = Addresses(control=served.address, address=served.address, pid=os.getpid())
    remember_addresses(served.home, told)
    code, out, _ = motet("run", "submit", recipe, "--home", served.home, "--json")
    assert code == 0
    assert served.store.get_run(json.loads(out)["run_id"]).submitted_by == "operator/local"
    assert sum(served.counts.calls().values()) > before
    assert "operator/local" in motet("coordinator", "status", "--home", served.home)[1]
    before = sum(served.counts.calls().values())
    remember_addresses(served.home, Addresses(control=served.address, address=served.address))
    assert motet("run", "list", "--home", served.home)[0] == 0  # nobody serves it: the home serves itself
    assert sum(served.counts.calls().values()) == before


def test_what_can_not_be_reached_is_told_with_what_to_do(served, motet, tmp_path):
    identity = served.identity("researcher", "ann")
    code, _, err = motet("run", "list", "--coordinator", "127.0.0.1:9", "--identity", identity)
    assert code == 7
    assert "next:" in err
    assert motet("run", "list", "--coordinator", served.address)[0] == 2
    assert motet("run", "list", "--coordinator", served.address, "--identity", tmp_path / "none")[0] == 7
    assert motet("run", "list", "--home", served.home, "--identity", identity)[0] == 2


def test_exporting_a_run_without_a_closed_round_says_so(served, motet, recipe, tmp_path):
    mine = at(served, "researcher", "ann")
    run_id = json.loads(motet("run", "submit", recipe, *mine, "--json")[1])["run_id"]
    with contextlib.chdir(tmp_path):
        code, _, err = motet("export", run_id, "--out", "exported", *mine)
    assert code == 9
    assert "no closed round yet" in err

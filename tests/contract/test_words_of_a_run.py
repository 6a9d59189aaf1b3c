"""What the commands say of a run that failed, was cancelled or is over: each reason once, rounds numbered one way."""

import json
import re

import pytest
from control_house import RECIPE, house, play, submit

from motet import exporting
from motet.cli.main import main
from motet.recipe import parse_recipe


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with house(tmp_path_factory.mktemp("house")) as made:
        yield made


@pytest.fixture
def type_in(served, capsys):
    def run(*words):
        at = ["--coordinator", served.address, "--identity", str(served.identity("operator"))]
        try:
            main([*words, *at])
            code = 0
        except SystemExit as e:
            code = int(e.code or 0)
        return code, " ".join(capsys.readouterr().out.split())

    return run


def attempt(store, run_id, round_index, number, silent):
    keys = (run_id, round_index, number)
    options = {
        "start_sha256": "0" * 64,
        "deadline_s": 5,
        "ranks": dict.fromkeys(["a", "b"], 2),
        "event": None,
    }
    store.plan_round(*keys, **options)
    for client in silent:
        store.reply_failed(*keys, client, code="deadline", message=f"no answer of {client} within 5 s")
    store.abort_round(*keys, f"round {round_index}: too few answers")


@pytest.fixture(scope="module")
def failed(served):
    recipe = parse_recipe(re.sub(r"privacy:.*\n", "", RECIPE))
    served.store.submit_run(recipe, run_id="r-failed")
    served.store.start_run("r-failed")
    attempt(served.store, "r-failed", 0, 0, ["b"])
    attempt(served.store, "r-failed", 0, 1, ["a", "b"])
    served.store.end_run("r-failed", "FAILED", "round 0: too few answers")
    return "r-failed"


def test_run_show_tells_the_reason_of_each_client_that_did_not_answer(type_in, failed):
    code, out = type_in("run", "show", failed)
    assert code == 0
    assert "round 0: b: no answer of b within 5 s" in out
    assert "round 0 (attempt 2): a: no answer of a within 5 s" in out
    assert "round 0: a:" not in out  # positive control: it did answer, or was not waited for, in the first


def test_run_show_tells_the_hash_that_approve_takes_and_no_empty_table(served, type_in, failed):
    assert served.store.get_run(failed).recipe_sha256 in type_in("run", "show", failed)[1]
    submit(served, "r-fresh")
    assert "┏" in type_in("run", "show", failed)[1]
    assert "┏" not in type_in("run", "show", "r-fresh")[1]


@pytest.mark.parametrize("watch", [("watch",), ("run", "watch")], ids=" ".join)
def test_who_watches_a_run_fail_is_told_what_to_type_next(type_in, failed, watch):
    code, out = type_in(*watch, failed)
    assert code == 9
    assert "FAILED: 0 of 3 rounds closed; round 0: too few answers" in out
    assert f"next: motet run show {failed} --coordinator" in out
    assert f"then: motet run resume {failed} --coordinator" in out


def test_watch_and_show_number_a_round_alike(type_in, failed):
    watched, shown = type_in("watch", failed)[1], type_in("run", "show", failed)[1]
    for words in (watched, shown):
        assert set(re.findall(r"round (\d+)(?: \(attempt \d\))?:", words)) == {"0"}


def test_a_word_to_cancel_says_what_came_of_it(served, type_in, failed):
    submit(served, "r-waits")
    assert type_in("run", "cancel", "r-waits") == (0, "r-waits is cancelled")
    assert type_in("run", "cancel", "r-waits") == (0, "r-waits is cancelled")
    assert type_in("run", "cancel", failed) == (0, f"{failed} stays as it is: FAILED")
    submit(served, "r-works")
    served.store.start_run("r-works")
    assert type_in("run", "cancel", "r-works") == (0, "r-works will end")
    told = json.loads(type_in("run", "cancel", "r-works", "--json")[1])
    assert told == {"run_id": "r-works", "state": "RUNNING", "cancel_requested": True}


def test_the_export_of_a_run_that_has_not_finished_says_after_how_many_rounds_it_is(
    served, type_in, monkeypatch, tmp_path
):
    submit(served, "r-half")
    served.store.start_run("r-half")
    play(served, "r-half")
    facts = {
        "run_id": "r-half",
        "out_dir": "x",
        "rounds": 1,
        "adapter_sha256": "2" * 64,
        "learned_rank": None,
    }
    monkeypatch.setattr(exporting, "downloaded_state", lambda *_: None)
    monkeypatch.setattr(exporting, "_written", lambda *_, **__: dict(facts))
    words = "the run is FAILED: this is after 1 of 3 rounds"
    served.store.end_run("r-half", "FAILED", "too few")
    assert words in type_in("export", "r-half", "--out", str(tmp_path / "x"))[1]
    told = json.loads(type_in("export", "r-half", "--out", str(tmp_path / "x"), "--json")[1])
    assert (told["state"], told["rounds"], told["rounds_total"]) == ("FAILED", 1, 3)
    submit(served, "r-whole")  # positive control
    served.store.start_run("r-whole")
    play(served, "r-whole")
    served.store.end_run("r-whole", "FINISHED", adapter_sha256="2" * 64)
    assert "this is after" not in type_in("export", "r-whole", "--out", str(tmp_path / "y"))[1]

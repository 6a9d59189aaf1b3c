"""A real private run, then everything that an auditor does with it."""

import json
import os
import shutil
import sys
from pathlib import Path

import forked_motet
import pytest

from client.keys import init_key
from coordinator.registration import register
from motet.recipe import parse_recipe
from motet.simulate import simulate

ROOT = Path(__file__).resolve().parents[2]
MOTET = [sys.executable, "-m", "motet.cli.main"]
PRIVATE = "privacy: {noise_multiplier: 1.0, sampling_rate: 0.2, epsilon_limit: 9}\n"


def motet(*arguments, cwd=ROOT):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return forked_motet.run(arguments, environment, cwd)


@pytest.fixture
def finished(recipe_text, tmp_path):
    """Run id, home, and the epsilon that the run itself reported for each client."""
    result = simulate(
        parse_recipe(recipe_text(extra=PRIVATE)), tmp_path / "out", baselines=False, processes=0
    )
    home = next((tmp_path / "out").rglob("motet.db")).parent
    return result["run_id"], home, {row["client_id"]: row["epsilon"] for row in result["clients"]}


def test_the_epsilon_of_a_run_is_confirmed_by_a_stranger_with_one_file(finished, tmp_path):
    run_id, home, told = finished
    for client in "abc":  # each data owner's home holds its ledger; a key makes it able to sign
        register(home, client, init_key(home / "clients" / client))
        done = motet(
            "audit", "receipts", client, "--home", home / "clients" / client, "--out", tmp_path / client
        )
        assert done.returncode == 0, done.stderr
    bundle = tmp_path / "audit.jsonl"
    receipts = [option for client in "abc" for option in ("--receipts", tmp_path / client)]
    done = motet("audit", "export", run_id, "--home", home, "--out", bundle, *receipts)
    assert done.returncode == 0, done.stderr

    elsewhere = tmp_path / "auditor"
    elsewhere.mkdir()
    shutil.copy(bundle, elsewhere)
    shutil.rmtree(home)  # nothing of the coordinator is needed any more
    done = motet("audit", "verify", "audit.jsonl", "--json", cwd=elsewhere)
    assert done.returncode == 0, done.stdout + done.stderr
    seen = json.loads(done.stdout)
    assert seen["ok"]
    assert seen["countersignatures"] == 3
    assert {c["client_id"]: c["epsilon_pld"] for c in seen["clients"]} == pytest.approx(told)

    done = motet("audit", "report", "audit.jsonl", "--out", "report.html", cwd=elsewhere)
    assert done.returncode == 0, done.stderr
    assert f"{max(told.values()):.2f}" in (elsewhere / "report.html").read_text()


def test_the_budget_that_is_shown_is_what_the_run_reported(finished):
    _, home, told = finished
    done = motet("budget", "show", "--home", home, "--json")
    rows = {row["client_id"]: row for row in json.loads(done.stdout)["clients"]}
    assert {name: row["total"] for name, row in rows.items()} == pytest.approx(told)
    assert all(row["remaining"] == pytest.approx(9 - row["total"]) for row in rows.values())


@pytest.mark.parametrize(
    "command",
    [
        ["audit"],
        ["audit", "export"],
        ["audit", "receipts"],
        ["audit", "verify"],
        ["audit", "report"],
        ["audit", "canary"],
        ["budget"],
        ["budget", "calibrate"],
        ["budget", "show"],
    ],
    ids=" ".join,
)
def test_every_command_of_the_audit_has_help_with_an_example(command):
    done = motet(*command, "--help")
    assert done.returncode == 0
    assert "Example" in done.stdout or len(command) == 1

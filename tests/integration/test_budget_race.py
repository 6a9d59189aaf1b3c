"""Processes that race for the last of a budget: exactly as many win as fit, over SQLite and over PostgreSQL."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from budget_racer import DELTA, EVENT, MODES
from databases import BOTH, new_place, postgresql_url

from motet.recipe import parse_recipe
from privacy.accounting import epsilon_pld
from privacy.ledger.chain import verify_chain
from privacy.ledger.rules import check_entries

__all__ = ["postgresql_url"]
pytestmark = pytest.mark.integration
ROOT = Path(__file__).resolve().parents[2]
SUPPORT = ROOT / "tests" / "support"
RECIPE = """
name: raced
base_model: {tiny: tiny-bert}
task: {kind: sequence-classification, num_labels: 2}
data: {path: none.jsonl}
adapter: {lora_rank: 2}
method: {name: flora}
training: {rounds: 3, local_steps: 10}
privacy: {noise_multiplier: 1.0, sampling_rate: 0.1}
cohort: {clients: [a], minimum: 1}
"""
RACERS, FITS = 6, 2


@pytest.fixture(scope="module", params=BOTH)
def raced(request, tmp_path_factory):
    """By mode: what became of each process, and how many charges there are afterwards."""
    with new_place(request, tmp_path_factory.mktemp("race")) as place:
        store = place.open()
        runs = [f"{mode}-{i}" for mode in MODES for i in range(RACERS)]
        for run in runs:
            store.submit_run(parse_recipe(RECIPE), run_id=run)
        limit = epsilon_pld([EVENT] * FITS, DELTA) + 1e-6
        done = subprocess.run(
            [sys.executable, SUPPORT / "budget_racer.py", place.address, place.ledger, str(limit), *runs],
            capture_output=True,
            text=True,
            timeout=200,
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{SUPPORT}", "OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == 0, done.stderr
        told = {mode: (said, len(store.spent_events(mode))) for mode, said in json.loads(done.stdout).items()}
        assert all(len(said) == RACERS for said, _ in told.values()), done.stderr
        assert check_entries(verify_chain(store.ledger.leaves())).findings == []
        store.close()
    return told


def test_of_processes_that_race_for_the_last_budget_exactly_as_many_win_as_fit(raced):
    said, charged = raced["right"]
    assert said == ["refused"] * (RACERS - FITS) + ["won"] * FITS
    assert charged == FITS


def test_a_look_outside_the_lock_would_let_more_win_than_fit(raced):
    """Positive control: the same racers, the same moment."""
    said, charged = raced["apart"]
    assert said.count("won") == charged > FITS


def test_were_the_lock_forgotten_the_tables_themselves_would_let_none_too_many_win(raced):
    said, charged = raced["unlocked"]
    assert 1 <= said.count("won") == charged <= FITS
    assert any(word.startswith("stopped") for word in said)  # they did meet

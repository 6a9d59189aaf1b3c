"""Processes that race for the last of a budget: exactly as many win as fit, over SQLite and over PostgreSQL."""

import json

import budget_racer
import forked_motet
import pytest
from budget_racer import DELTA, EVENT, MODES
from databases import BOTH, new_place, postgresql_url

from motet.recipe import parse_recipe
from privacy.accounting import epsilon_pld
from privacy.ledger.chain import verify_chain
from privacy.ledger.rules import check_entries

__all__ = ["postgresql_url"]
pytestmark = pytest.mark.integration
ONCE_EACH = [pytest.param("sqlite", marks=pytest.mark.xdist_group("race")), *BOTH[1:]]
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


@pytest.fixture(scope="module", params=ONCE_EACH)
def raced(request, tmp_path_factory):
    """By mode: what became of each process, and how many charges there are afterwards."""
    folder = tmp_path_factory.mktemp("race")
    with new_place(request, folder) as place:
        store = place.open()
        runs = [f"{mode}-{i}" for mode in MODES for i in range(RACERS)]
        for run in runs:
            store.submit_run(parse_recipe(RECIPE), run_id=run)
        limit = epsilon_pld([EVENT] * FITS, DELTA) + 1e-6
        told_path = folder / "told.json"
        given = (str(place.address), str(place.ledger), str(told_path), limit, *runs)
        starter = forked_motet.start_function(budget_racer.race_all, *given)
        starter.join(200)
        assert starter.exitcode == 0
        said = json.loads(told_path.read_text())
        told = {mode: (words, len(store.spent_events(mode))) for mode, words in said.items()}
        assert all(len(words) == RACERS for words, _ in told.values()), told
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

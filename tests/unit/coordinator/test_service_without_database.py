"""A database server that goes away: the coordinator waits, and the run is not ended by it."""

import threading
from types import SimpleNamespace

import pytest

import coordinator.service as service
from coordinator.errors import DatabaseAwayError, RunFailedError, StorageError
from motet.recipe import canonical_json, parse_recipe

RECIPE = """
name: plain
base_model: {tiny: tiny-bert}
task: {kind: sequence-classification, num_labels: 2}
data: {path: none.jsonl}
adapter: {lora_rank: 2}
method: {name: flora}
training: {rounds: 1, local_steps: 1}
"""


class FakeStore:
    def __init__(self, runs):
        self.runs, self.ended = list(runs), []

    def open_runs(self):
        return [SimpleNamespace(run_id=r, cancel_requested=False) for r in self.runs]

    def get_run(self, run_id):
        return SimpleNamespace(run_id=run_id, recipe_json=canonical_json(parse_recipe(RECIPE)))

    def end_run(self, run_id, state, reason):
        self.ended.append((run_id, state, reason))
        self.runs.remove(run_id)


@pytest.fixture
def work(monkeypatch, tmp_path):
    """``work(errors)``: the service's loop over one run whose engine meets these, one a time; then it finishes."""
    monkeypatch.setattr(service, "DATABASE_PAUSE_S", 0.0)

    def run(*errors):
        store, left = FakeStore(["r-1"]), list(errors)

        class Engine:
            def __init__(self, *_args, **_options):
                pass

            def run(self, run_id):
                if left:
                    raise left.pop(0)
                store.runs.remove(run_id)

        monkeypatch.setattr(service, "RoundEngine", Engine)
        config = service.ServiceConfig(home=tmp_path)
        service._work(config, None, store, threading.Event(), [], until_idle=True)
        return store.ended

    return run


def test_a_run_waits_for_a_database_that_is_away_and_goes_on(work):
    away = DatabaseAwayError("the server closed the connection")
    assert work(away, away) == []


@pytest.mark.parametrize("error", [RunFailedError("too few"), StorageError("disk full")])
def test_any_other_error_ends_the_run(work, error):
    """Positive control."""
    assert work(error) == [("r-1", "FAILED", error.message)]

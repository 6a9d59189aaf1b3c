"""A coordinator's home with PostgreSQL: named once, found by every command."""

import json
import os

import forked_motet
import pytest
from databases import Place, postgresql_url, schema_in

from client.keys import init_key
from motet.ports import free_port

__all__ = ["postgresql_url"]
pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("postgresql")]
RECIPE = """
name: stored
base_model: {tiny: tiny-bert}
task: {kind: sequence-classification, num_labels: 2}
data: {path: none.jsonl}
adapter: {lora_rank: 2}
method: {name: flora}
privacy: {noise_multiplier: 1.0, sampling_rate: 0.1}
cohort: {clients: [a], minimum: 1}
"""


@pytest.fixture
def motet(tmp_path):
    """Run one command to its end; its standard output."""

    def run(*words):
        environment = {**os.environ, "PYTHONPATH": str(forked_motet.ROOT), "OMP_NUM_THREADS": "1"}
        done = forked_motet.run(words, environment, tmp_path, 180)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_every_command_finds_the_postgresql_database_that_a_home_was_given_once(
    motet, postgresql_url, tmp_path
):
    home = tmp_path / "fed"
    init_key(tmp_path / "a")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    with schema_in(postgresql_url) as url:
        place = Place(dialect="postgresql", where=url, ledger=home / "ledger")
        key = ("--public-key", tmp_path / "a" / "client.pub")
        motet("coordinator", "register", "a", *key, "--home", home, "--database", place.address)
        run_id = json.loads(motet("run", "submit", "recipe.yaml", "--home", home, "--json"))["run_id"]
        motet("run", "cancel", run_id, "--home", home)
        motet("coordinator", "start", "--home", home, "--listen", f"127.0.0.1:{free_port()}", "--until-idle")
        (row,) = json.loads(motet("run", "list", "--home", home, "--json"))
        assert (row["run_id"], row["state"]) == (run_id, "CANCELLED")
        motet("audit", "export", run_id, "--home", home, "--out", "audit.jsonl")
        told = json.loads(motet("audit", "verify", "audit.jsonl", "--json"))
        assert (told["ok"], told["entries"]) == (True, 3)  # genesis, the client's key, the run
        assert place.sql("SELECT run_id FROM runs") == [(run_id,)]
    assert not (home / "motet.db").exists()

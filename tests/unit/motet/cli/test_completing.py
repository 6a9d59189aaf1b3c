"""Completion of words and the list of commands: right, and at once."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from aggregation.table import TABLE
from coordinator.storage.names import client_names, run_names
from coordinator.storage.store import Store
from motet.cli.commands import COMMANDS
from motet.cli.completing import METHODS
from motet.cli.main import build_app
from motet.recipe import parse_recipe

ROOT = Path(__file__).resolve().parents[4]
RECIPE = """
name: tiny
base_model: {tiny: tiny-bert}
task: {kind: sequence-classification, num_labels: 2}
data: {path: none.jsonl}
method: {name: flora}
cohort: {clients: [a]}
"""
MOST_CPU_S = 1.0  # measured: 0.10 to 0.16; a busy machine makes that more


def shell(line, place, kind="bash"):
    """What Tab offers after ``line``, and the CPU-seconds that it took."""
    words = line.split(" ")
    told = {"COMP_WORDS": "\n".join(words), "COMP_CWORD": str(len(words) - 1), "_TYPER_COMPLETE_ARGS": line}
    told |= {"_MOTET_COMPLETE": f"complete_{kind}", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "motet.cli.main"],
        cwd=place,
        env=os.environ | told | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "Traceback" not in done.stderr, done.stderr
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return done.stdout, seconds


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("place")
    store = Store.open(folder / "fed" / "motet.db", create=True)
    for run_id in ("r-1a", "r-1b", "other"):
        store.submit_run(parse_recipe(RECIPE), run_id=run_id)
    store.register_client("ward-a", b"key")
    store.close()
    (folder / "mine.yaml").write_text(RECIPE)
    (folder / "mine.txt").write_text("")
    return folder


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("motet wa", ["watch"]),
        ("motet run s", ["submit", "show", "start"]),
        ("motet run show --home fed r-", ["r-1b", "r-1a"]),
        ("motet watch --home fed o", ["other"]),
        ("motet coordinator register --home fed w", ["ward-a"]),
        ("motet merge --method fl", ["flora", "flexlora", "florist"]),
        ("motet plan mi", ["mine.yaml"]),
        ("motet client start --data mi", []),  # files are the shell's own matter
    ],
)
def test_tab_offers_what_there_is_within_a_moment(place, line, offered):
    said, seconds = shell(line, place)
    assert sorted(said.split()) == sorted(offered)
    assert seconds < MOST_CPU_S


@pytest.mark.parametrize("kind", ["zsh", "fish"])
def test_other_shells_are_told_the_same_with_what_it_is(place, kind):
    said, _ = shell("motet run show --home fed r-", place, kind)
    assert "r-1a" in said
    assert "tiny, QUEUED" in said
    assert "other" not in said


def test_a_home_that_can_not_be_read_offers_nothing_and_makes_nothing(tmp_path):
    assert run_names(tmp_path / "none") == []
    (tmp_path / "motet.db").write_text("this is no database")
    assert run_names(tmp_path) == client_names(tmp_path) == []
    assert [p.name for p in tmp_path.iterdir()] == ["motet.db"]


def test_the_script_for_each_shell_names_the_command():
    for name in ("bash", "zsh", "fish"):
        done = subprocess.run(
            [sys.executable, "-m", "motet.cli.main", "--show-completion", name],
            env=os.environ | {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1", "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert "_MOTET_COMPLETE=complete_" + name in done.stdout, done.stderr


def test_the_list_of_commands_says_what_the_commands_say_of_themselves():
    whole = typer.main.get_command(build_app([]))
    place = list(COMMANDS).index  # typer has single commands before groups
    assert list(whole.commands) == sorted(
        whole.commands, key=lambda name: (COMMANDS[name].is_group, place(name))
    )
    said = {name: " ".join(c.help.split("\n\n")[0].split()) for name, c in whole.commands.items()}
    assert said == {name: known.summary for name, known in COMMANDS.items()}
    brief = typer.main.get_command(build_app(["--help"]))
    assert {name: c.help for name, c in brief.commands.items()} == said


def test_methods_offered_are_those_that_there_are():
    assert set(METHODS) == set(TABLE)


@pytest.mark.parametrize("words", [["--help"], ["run", "list", "--help"], ["watch", "--help"]], ids=" ".join)
def test_help_and_lists_start_without_torch_and_without_the_network(words):
    code = (
        "import sys\nfrom motet.cli.main import main\n"
        f"try: main({words!r})\nexcept SystemExit: pass\n"
        "print([m for m in ('torch', 'grpc', 'sqlalchemy', 'pydantic') if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stderr.strip() == "[]"
    assert "Usage: motet" in done.stdout

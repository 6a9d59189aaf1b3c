"""What a person types, and what comes back: words and exit codes, never a traceback."""

import json
import os
import re
import socket
import sys
from pathlib import Path

import forked_motet
import pytest
import typer

from motet.cli.main import build_app

MOTET = [sys.executable, "-m", "motet.cli.main"]


def motet(*arguments, cwd=None, **environment):
    return forked_motet.run(arguments, {**os.environ, **environment}, cwd or Path.cwd(), 120)


def commands(node, path=()):
    """Every leaf of the command tree, with its path."""
    if not hasattr(node, "commands"):
        yield path, node
        return
    for name, below in node.commands.items():
        yield from commands(below, (*path, name))


def test_every_command_has_help_with_an_example_and_json():
    found = dict(commands(typer.main.get_command(build_app([]))))
    assert {("demo",), ("run", "watch"), ("audit", "verify")} <= set(found)
    for path, command in found.items():
        assert re.search(rf"Examples?:\s+motet {' '.join(path)}", command.help), path
        assert any("--json" in option.opts for option in command.params), path


@pytest.mark.parametrize("command", [[], ["demo"], ["run"], ["run", "submit"]], ids=" ".join)
def test_help_is_printed_by_a_real_process(command):
    done = motet(*command, "--help")
    assert done.returncode == 0
    assert "Usage" in done.stdout


def bad(tmp_path, text):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    return path


GOOD = """name: x
base_model: {tiny: tiny-bert}
task: {kind: sequence-classification, num_labels: 2}
data: {path: DATA}
adapter: {lora_rank: 4, targets: [query]}
method: {name: flora}
cohort: {clients: [a, b, c]}
"""
CASES = {
    "unknown key": ("method:", "methud:", 3, "method"),
    "rank 0": ("lora_rank: 4", "lora_rank: 0", 3, "lora_rank"),
    "no such method": ("name: flora", "name: floro", 3, "flora"),
    "mixed ranks with fedit": (
        "lora_rank: 4, targets: [query]}\nmethod: {name: flora}",
        "lora_rank: {a: 2, b: 4}, targets: [query]}\nmethod: {name: fedit}",
        3,
        "zero-pad",
    ),
    "no such layer": ("[query]", "[qurey]", 3, "query"),
    "label count missing": (", num_labels: 2", "", 3, "num_labels"),
    "tab": ("name: x", "name:\tx\n\tfoo: 1", 3, "bad.yaml"),
    "empty": (GOOD, "", 3, "bad.yaml"),
    "no such folder": ("path: DATA", "path: /nonexistent/folder", 4, "/nonexistent/folder"),
    "no such model": ("{tiny: tiny-bert}", "{path: /nonexistent/model}", 10, "/nonexistent/model"),
    "missing column": ("path: DATA", "path: DATA, text_column: body", 4, "body"),
    "minimum above cohort": ("clients: [a, b, c]", "clients: [a, b, c], minimum: 9", 3, "minimum"),
    "private with counts": (
        "clients: [a, b, c]}",
        "clients: [a, b, c], weights: num_examples}\nprivacy: {noise_multiplier: 1, sampling_rate: 0.1}",
        3,
        "uniform",
    ),
    "both noise and target": (
        "cohort:",
        "privacy: {noise_multiplier: 1, target_epsilon: 1, sampling_rate: 0.1}\ncohort:",
        3,
        "exactly one",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_bad_recipe_meets_a_clear_error_and_nothing_is_written(tmp_path, data_folder, case):
    old, new, code, word = CASES[case]
    assert old in GOOD
    path = bad(tmp_path, GOOD.replace(old, new).replace("DATA", str(data_folder)))
    done = motet("simulate", path, "--out", tmp_path / "out", "--no-baselines")
    assert done.returncode == code, done.stderr[-1500:]
    assert "Traceback" not in done.stderr
    assert word in done.stderr.replace("\n", " ")
    assert not (tmp_path / "out/adapter").exists()


@pytest.mark.slow
def test_nan_weights_stop_the_run_with_the_reason(tmp_path, data_folder):
    from transformers import BertConfig, BertModel

    from motet.modeling import byte_tokenizer

    model = BertModel(
        BertConfig(
            vocab_size=261, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
        )
    )
    model.embeddings.word_embeddings.weight.data.fill_(float("nan"))
    model.save_pretrained(tmp_path / "model")
    byte_tokenizer().save_pretrained(tmp_path / "model")
    text = GOOD.replace("DATA", str(data_folder)).replace(
        "{tiny: tiny-bert}", f"{{path: {tmp_path / 'model'}}}"
    )
    done = motet("simulate", bad(tmp_path, text), "--out", tmp_path / "out", "--no-baselines")
    assert done.returncode in (9, 10)
    assert "finite" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_that_is_taken_is_named(tmp_path):
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        done = motet("coordinator", "start", "--home", tmp_path / "home", "--listen", f"127.0.0.1:{port}")
    assert done.returncode == 7
    assert str(port) in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (["run", "show", "r-none"], 2, "r-none"),
        (["run", "list", "--home", "/nonexistent/x"], 8, "no such database"),
        (["export", "r-none", "--out", "x"], 2, "r-none"),
        (["client", "start", "--name", "a", "--data", "none.jsonl", "--join", "none.json"], 2, "none.json"),
        (["coordinator", "start", "--listen", "nowhere"], 2, "HOST:PORT"),
        (["coordinator", "register", "a", "--public-key", "none.pub"], 2, "none.pub"),
        (["plan", "none.yaml"], 3, "none.yaml"),
        (["materials", "fetch", "minilmm"], 5, "minilm"),
    ],
)
def test_a_wrong_argument_is_told_in_words(tmp_path, arguments, code, word):
    from coordinator.storage.store import Store

    Store.open(tmp_path / "coordinator-home/motet.db").close()
    done = motet(*arguments, cwd=tmp_path, PYTHONPATH=str(Path.cwd()))
    assert done.returncode == code, done.stderr[-800:]
    assert word in done.stderr
    assert "Traceback" not in done.stderr


def test_a_database_that_can_not_be_written_is_told_in_words(tmp_path, recipe_text):
    home = tmp_path / "home"
    home.mkdir()
    (home / "motet.db").write_text("this is no database, it is a long enough text to be sure of that")
    path = bad(tmp_path, recipe_text())
    done = motet("run", "submit", path, "--home", home)
    assert done.returncode == 8
    assert "not a database" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_run_is_submitted_listed_shown_and_cancelled(tmp_path, recipe_text):
    path = bad(tmp_path, recipe_text())
    run_id = json.loads(motet("run", "submit", path, "--home", tmp_path / "h", "--json").stdout)["run_id"]
    assert json.loads(motet("run", "list", "--home", tmp_path / "h", "--json").stdout)[0]["state"] == "QUEUED"
    assert (
        json.loads(motet("run", "show", run_id, "--home", tmp_path / "h", "--json").stdout)["rounds_total"]
        == 2
    )
    assert motet("run", "cancel", run_id, "--home", tmp_path / "h").returncode == 0
    watched = motet("run", "watch", run_id, "--home", tmp_path / "h", "--json")
    assert watched.returncode == 9
    assert json.loads(watched.stdout)["state"] == "CANCELLED"


def test_a_fault_of_motets_own_is_told_in_words_and_kept_in_a_file(tmp_path, monkeypatch, capsys):
    from motet.cli import main as cli

    def broken(_argv):
        raise ZeroDivisionError("an inner matter")

    monkeypatch.setattr(cli, "build_app", broken)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    with pytest.raises(SystemExit) as ended:
        cli.main(["plan", "x"])
    told = capsys.readouterr().err
    assert ended.value.code == 1
    assert "fault of its own: ZeroDivisionError: an inner matter" in told
    assert "Traceback" not in told
    kept = next(tmp_path.glob("motet-fault-*.txt"))
    assert kept.name in told.replace("\n", "")
    assert "Traceback" in kept.read_text()

"""``motet merge``, ``motet port`` and ``motet advise`` as people type them."""

import json
import os
import pty
import select
import subprocess
import sys

import pytest
from peft_folders import base_model, make_adapter

from aggregation.table import NEEDS
from motet.cli.main import main

RECIPE = """
name: tiny
base_model: {tiny: tiny-bert}
task: {kind: sequence-classification, num_labels: 2}
data: {path: none.jsonl}
adapter: {lora_rank: {a: 2, b: 8}}
method: {name: fedit}
"""


def motet(capsys, *arguments):
    """Exit code, standard output, standard error."""
    try:
        main([str(a) for a in arguments])
        code = 0
    except SystemExit as e:
        code = e.code or 0
    out = capsys.readouterr()
    return code, out.out, out.err


@pytest.fixture
def folders(tmp_path):
    return [make_adapter(tmp_path / name, "llama", seed=k, r=k + 2) for k, name in enumerate("abc")]


@pytest.mark.parametrize("command", ["merge", "port", "advise"])
def test_help_has_an_example_and_json(capsys, command):
    code, out, _ = motet(capsys, command, "--help")
    assert code == 0
    assert f"Example: motet {command}" in " ".join(out.split())
    assert "--json" in out


def test_merge_prints_words_or_one_json_object(capsys, folders, tmp_path):
    arguments = ["merge", "--method", "flora", "--weights", "3,2,1", *folders]
    code, out, _ = motet(capsys, *arguments, "--out", tmp_path / "out")
    assert code == 0
    assert "rank 9, 4 layers, base tiny-base" in out
    code, out, _ = motet(capsys, *arguments, "--out", tmp_path / "other", "--json", "--lora-rank", "3")
    report = json.loads(out)
    assert (code, report["lora_rank"], report["method"]) == (0, 3, "flora")
    assert [row["share"] for row in report["inputs"]] == pytest.approx([1 / 2, 1 / 3, 1 / 6])
    assert json.loads((tmp_path / "other/motet-merge.json").read_text()) == report


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--method", "flra"], "did you mean flora?"),
        (["--weights", "3,x"], "not a list of numbers"),
        (["--weights", "3,1"], "2 numbers for 3 adapters"),
        (["--method", "fedit"], "use --method flora"),
        (["--energy", "0.5"], "read by florist only"),
        (["--method", "florist", "--energy", "2"], "at most 1"),
        (["--method", "lora-fair", "--ridge", "-1"], "must not be negative"),
        (["--lora-rank", "0"], "at least 1"),
    ],
)
def test_merge_refuses_wrong_options_with_code_2(capsys, folders, tmp_path, options, message):
    code, out, err = motet(capsys, "merge", *options, "--out", tmp_path / "out", *folders)
    assert (code, out) == (2, "")
    assert message in " ".join(err.split())
    assert not (tmp_path / "out").exists()


def test_merge_and_port_say_what_is_wrong_with_a_folder_with_code_10(capsys, folders, tmp_path):
    (folders[1] / "adapter_model.safetensors").write_bytes(b"short")
    code, out, err = motet(capsys, "merge", "--out", tmp_path / "out", *folders, "--json")
    assert (code, out) == (10, "")
    assert "truncated" in err
    base_model("llama").save_pretrained(tmp_path / "base")
    code, _, err = motet(
        capsys,
        "port",
        folders[1],
        "--from",
        tmp_path / "base",
        "--to",
        tmp_path / "base",
        "--out",
        tmp_path / "out",
    )
    assert code == 10
    assert "truncated" in err


def test_port_prints_words_or_one_json_object(capsys, folders, tmp_path):
    base_model("llama").save_pretrained(tmp_path / "old")
    base_model("llama", seed=1).save_pretrained(tmp_path / "new")
    arguments = ["port", folders[0], "--from", tmp_path / "old", "--to", tmp_path / "new"]
    code, out, _ = motet(capsys, *arguments, "--out", tmp_path / "out")
    assert code == 0
    assert "all layers as one: ratio" in out
    code, out, _ = motet(
        capsys, *arguments, "--out", tmp_path / "out", "--json", "--base-name", "org/base-v2"
    )
    assert code == 0
    assert (
        json.loads(out)["layers"].keys()
        == json.loads((tmp_path / "out/motet-port.json").read_text())["layers"].keys()
    )
    config = json.loads((tmp_path / "out/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "org/base-v2"


def test_advise_reads_flags(capsys):
    code, out, _ = motet(capsys, "advise", "--mixed-ranks", "--private")
    assert code == 0
    assert out.startswith("ffa ")
    assert "fed-sb lacks mixed ranks" in out
    code, out, _ = motet(capsys, "advise", "--personal", "--json")
    assert (code, json.loads(out)["method"]) == (0, "fedsa")
    code, out, err = motet(capsys, "advise", "--personal", "--exact", "--json")
    assert (code, out) == (2, "")
    assert "give up one of" in err


def test_advise_reads_a_recipe_that_its_own_method_does_not_fit(capsys, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    code, out, _ = motet(capsys, "advise", path)
    assert code == 0
    assert "says fedit, which does not fit: B and A of different ranks have no mean" in out
    assert "set method.name: product, or the nearest to it, zero-pad" in out
    code, out, _ = motet(capsys, "advise", path, "--no-mixed-ranks", "--json")
    result = json.loads(out)
    assert (code, result["needs"], result["recipe"]["fits"]) == (0, [], True)
    code, _, err = motet(capsys, "advise", tmp_path / "none.yaml")
    assert code == 3
    assert "no such file" in err


def test_advise_asks_on_a_terminal_and_nowhere_else(tmp_path):
    command = [sys.executable, "-m", "motet.cli.main", "advise"]
    silent = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    assert (silent.returncode, silent.stdout[:8]) == (0, "product ")
    ours, theirs = pty.openpty()
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs) as asked:
        os.close(theirs)
        text, answers = "", iter(["y", "y", *["n"] * (len(NEEDS) - 2)])
        while True:
            ready, _, _ = select.select([ours], [], [], 60)
            if not ready:
                asked.kill()
                break
            try:
                data = os.read(ours, 4096)
            except OSError:  # the other side has gone
                break
            if not data:
                break
            text += data.decode()
            if data.rstrip().endswith(b"[y/N]:"):
                os.write(ours, next(answers).encode() + b"\n")
        os.close(ours)
    assert asked.returncode == 0, text
    assert text.count("[y/N]:") == len(NEEDS)
    assert "ffa  (FFA-LoRA" in text

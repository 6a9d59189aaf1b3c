"""A look at what a run learned: what was trained comes up, what was not does not."""

from __future__ import annotations

import json
import math

import pytest
import torch
from rich.console import Console

from motet.cli.inspect import print_look
from motet.cli.main import main
from motet.inspecting import (
    LOOK,
    NothingToInspectError,
    contrast,
    divergence,
    inspect_run,
)
from motet.modeling import byte_tokenizer, load_base
from motet.reaching import connect
from motet.recipe import parse_recipe
from motet.simulate import prepare_shards, run_engine

LANGUAGE = """
name: marked
base_model: {tiny: tiny-llama}
task: {kind: causal-lm, max_length: 24}
data: {path: PATH}
adapter: {lora_rank: 8, targets: [v_proj, o_proj, up_proj, down_proj]}
method: {name: METHOD}
training: {rounds: 2, local_steps: 40, expected_batch_size: 8, learning_rate: 2.0e-2}
"""
LABELS = """
name: labels
base_model: {tiny: tiny-bert}
task: {kind: sequence-classification, num_labels: 2, max_length: 24}
data: {path: PATH}
adapter: {lora_rank: 4}
method: {name: flora}
training: {rounds: 2, local_steps: 12, expected_batch_size: 8, learning_rate: 1.0e-2, head_learning_rate: 5.0e-2}
"""


def shards(folder, rows):
    """Two clients and a test file, all of the same kind of row."""
    folder.mkdir()
    for name in ("a", "b", "test"):
        lines = [json.dumps(rows(name, i)) for i in range(24)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def run_of(text, folder, home, run_id="r-1"):
    recipe = parse_recipe(text.replace("PATH", str(folder)))
    run_engine(
        recipe, prepare_shards(recipe, home / "data"), home, stage="t", run_id=run_id, with_curve=False
    )
    return home


@pytest.fixture(scope="module")
def language(tmp_path_factory):
    """A run whose every text is made of q and z."""
    folder = tmp_path_factory.mktemp("language")
    data = shards(
        folder / "data", lambda name, i: {"text": f"qzqz zzqq qzz{'q' * (i % 3)}", "source": f"{name}{i}"}
    )
    return run_of(LANGUAGE.replace("METHOD", "flora"), data, folder / "home")


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    """A run that learns that everything is label 1."""
    folder = tmp_path_factory.mktemp("labels")
    data = shards(folder / "data", lambda name, i: {"text": f"anything {i} of {name}", "label": 1})
    return run_of(LABELS, data, folder / "home")


def look(home, run_id, **options):
    with connect(home=home) as connection:
        return inspect_run(connection, run_id, **options)


def marked(text):
    return sum(c in "qz" for c in text["text"][len(text["beginning"]) :])


def test_what_a_language_model_learned_comes_up_by_contrast(language):
    # Logits of the tiny model are small, so that the difference is amplified the most.
    found = look(language, "r-1", beginnings=["The", "I"], samples=8, new_tokens=12, strength=10.0)
    assert (found["task"], found["rounds"], found["look"]) == ("causal-lm", 2, LOOK)
    assert (found["unit"], found["epsilon"]) == (None, None)
    new = sum(len(t["text"]) - len(t["beginning"]) for t in found["texts"])
    assert sum(map(marked, found["texts"])) > 0.2 * new  # by chance 2 of 256 bytes
    assert [t["gain"] for t in found["texts"]] == sorted((t["gain"] for t in found["texts"]), reverse=True)
    assert found["texts"][0]["gain"] > 0.3
    assert found["distance"] > 0.01
    assert set("qz") & {t["token"] for t in found["tokens"][:4]}


def test_a_model_that_learned_nothing_differs_in_nothing(language):
    """Positive control: the base held against itself."""
    recipe = parse_recipe(LANGUAGE.replace("METHOD", "flora").replace("PATH", "x"))
    one, two = load_base(recipe).eval(), load_base(recipe).eval()
    generator = torch.Generator().manual_seed(0)
    texts = contrast(
        one, two, byte_tokenizer(), "The", samples=4, new_tokens=12, strength=10.0, generator=generator
    )
    assert all(abs(t.gain) < 1e-5 for t in texts)
    assert sum(sum(c in "qz" for c in t.text) for t in texts) < 0.1 * sum(len(t.text) for t in texts)
    assert divergence(one, two, byte_tokenizer(), "The")[0] == pytest.approx(0.0, abs=1e-6)


def test_the_same_seed_shows_the_same_texts_and_another_shows_others(language):
    looks = [
        look(language, "r-1", beginnings=["It"], samples=4, new_tokens=8, seed=s)["texts"] for s in (1, 1, 2)
    ]
    assert looks[0] == looks[1] != looks[2]


def test_the_base_is_as_it_was_after_a_look(language):
    before = look(language, "r-1", beginnings=["It"], samples=2, new_tokens=4)
    assert look(language, "r-1", beginnings=["It"], samples=2, new_tokens=4) == before


def test_how_labels_fall_on_public_texts_before_and_after(labels):
    steps = []
    found = look(labels, "r-1", texts=["one text", "another"], on_step=lambda *s: steps.append(s))
    assert found["num_texts"] == 2
    one = found["labels"][1]
    assert one["share_after"] == 1.0
    assert one["probability_after"] > 0.8 > one["probability_before"]
    assert math.isclose(sum(row["share_before"] for row in found["labels"]), 1.0)
    assert [m["shift"] for m in found["moved"]] == sorted((m["shift"] for m in found["moved"]), reverse=True)
    assert {s[0] for s in steps} == {"before", "after"}


def test_a_look_for_people_and_for_programs(language, labels, capsys, tmp_path):
    main_of(
        [
            "inspect",
            "r-1",
            "--home",
            str(language),
            "--prompt",
            "We",
            "--samples",
            "2",
            "--tokens",
            "4",
            "--json",
        ]
    )
    assert json.loads(capsys.readouterr().out)["task"] == "causal-lm"
    texts = tmp_path / "public.txt"
    texts.write_text("a first text\n\na second\n")
    main_of(["inspect", "r-1", "--home", str(labels), "--texts", str(texts)])
    out = capsys.readouterr().out
    assert "a look, not a proof" in out
    assert "labels of 2 public texts" in out


def test_what_a_model_writes_can_not_steer_the_terminal():
    console = Console(record=True, width=100)
    found = {
        "run_id": "r",
        "rounds": 1,
        "unit": "person",
        "epsilon": 2.0,
        "task": "causal-lm",
        "look": LOOK,
        "texts": [{"beginning": "A", "text": "A\x1b[2J[red]b[/]", "gain": 1.0}],
        "distance": 0.1,
        "tokens": [{"token": "\x1b[red]", "part": 0.1}],
    }
    print_look(found, console)
    text = console.export_text()
    assert "\x1b" not in text
    assert "[red]b[/]" in text
    assert "unit person" in text


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["r-none"], 2, "no run"),
        (["r-1", "--texts", "none.txt"], 4, "no such file"),
    ],
)
def test_mistakes_are_told(labels, capsys, arguments, code, words):
    with pytest.raises(SystemExit) as stop:
        main(["inspect", *arguments, "--home", str(labels)])
    assert stop.value.code == code
    assert words in capsys.readouterr().err


def test_a_method_without_a_global_model_says_where_to_look(tmp_path):
    data = shards(tmp_path / "data", lambda name, i: {"text": f"t {name} {i}", "label": i % 2})
    text = LABELS.replace("flora", "fedsa").replace("local_steps: 12", "local_steps: 1")
    home = run_of(text, data, tmp_path / "home")
    with pytest.raises(NothingToInspectError, match="no model for all"):
        look(home, "r-1")


def test_a_beginning_without_a_token_is_told(language):
    with pytest.raises(NothingToInspectError, match="no token"):
        look(language, "r-1", beginnings=[""])


def main_of(arguments):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code in (0, None)


@pytest.mark.slow
@pytest.mark.materials
@pytest.mark.timeout(1800)
def test_a_real_language_model_shows_what_it_was_taught(tmp_path):
    """SmolLM2 on invented sentences about one thing: the look names it, and the base by itself does not."""
    data = shards(
        tmp_path / "data",
        lambda name, i: {
            "text": f"The glass harp of Velm sang at dusk, {name} heard it {i} times.",
            "source": f"{name}{i}",
        },
    )
    text = LANGUAGE.replace("{tiny: tiny-llama}", "{material: smollm2}").replace("METHOD", "flora")
    text = text.replace("local_steps: 20", "local_steps: 6").replace("2.0e-2", "1.0e-3")
    home = run_of(text.replace("rounds: 2", "rounds: 1"), data, tmp_path / "home")
    found = look(home, "r-1", beginnings=["The", "I"], samples=4, new_tokens=16)
    taught = ("glass", "harp", "velm", "dusk", "sang")
    hits = sum(any(word in t["text"].lower() for word in taught) for t in found["texts"])
    assert hits >= 2
    assert found["texts"][0]["gain"] > 0.5

"""Recipes from text: what is read, what is refused, and in which words."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from motet.recipe import (
    RecipeError,
    canonical_json,
    from_canonical_json,
    load_recipe,
    parse_recipe,
    recipe_sha256,
)
from motet.recipe.model import Recipe
from motet.recipe.reference import MEANINGS

ROOT = Path(__file__).resolve().parents[4]
SAMPLES = sorted((ROOT / "examples" / "recipes").glob("*.yaml")) + sorted(
    (ROOT / "motet/cli/demos").glob("*.yaml")
)
GOOD = """\
name: good
base_model: {tiny: tiny-bert}
task: {kind: sequence-classification, num_labels: 2}
data: {path: shards}
method: {name: flora}
"""


def refusal(text: str) -> str:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text, "r.yaml")
    return str(caught.value)


@pytest.mark.parametrize("path", SAMPLES, ids=lambda p: p.name)
def test_every_sample_recipe_is_read_and_survives_the_canonical_text(path):
    recipe = load_recipe(path)
    again = from_canonical_json(canonical_json(recipe))
    assert again == recipe
    assert recipe_sha256(again) == recipe_sha256(recipe)


def test_there_are_samples_for_the_methods_that_people_ask_for_first_and_for_what_clients_can_do():
    samples = [load_recipe(p) for p in SAMPLES]
    assert {r.method.name for r in samples} >= {"fedit", "flora", "fed-sb", "lora-fair"}
    assert {r.training.algorithm for r in samples} >= {"fedavg", "scaffold"}
    assert {r.adapter.rank_policy for r in samples} == {"assigned", "measured"}


# Snapshots: a bad line added to, or put in place of a line of, GOOD; and every word of the refusal.
REPLACED = {
    "unknown key": ("seeds: 3", "r.yaml:6: seeds: there is no key 'seeds' here. Did you mean seed?"),
    "unknown key in a section": (
        "training: {local_step: 3}",
        "r.yaml:6: training.local_step: there is no key 'local_step' here. Did you mean local_steps?",
    ),
    "key of another section": (
        "adapter: {sampling_rate: 0.1}",
        "r.yaml:6: adapter.sampling_rate: there is no key 'sampling_rate' here. It belongs to privacy.",
    ),
    "rank 0": (
        "adapter: {lora_rank: 0}",
        "r.yaml:6: adapter.lora_rank: must be at least 1, not 0. It is: one rank for all, or a map from "
        "client id or "
        "capacity class to rank; `default` is for the rest.",
    ),
    "rank 0 of one client": (
        "adapter:\n  lora_rank:\n    ward-a: 4\n    ward-b: 0",
        "r.yaml:9: adapter.lora_rank.ward-b: must be at least 1, not 0. It is: one rank for all, or a map "
        "from client id "
        "or capacity class to rank; `default` is for the rest.",
    ),
    "rank of neither type": (
        "adapter: {lora_rank: [4, 8]}",
        "r.yaml:6: adapter.lora_rank: must be a whole number, or a map of client ids or capacity classes "
        "to whole "
        "numbers, not a list. It is: one rank for all, or a map from client id or capacity class to rank; "
        "`default` is "
        "for the rest.",
    ),
    "rank true": (
        "adapter: {lora_rank: true}",
        "r.yaml:6: adapter.lora_rank: must be a whole number, or a map of client ids or capacity classes "
        "to whole "
        "numbers, not true. It is: one rank for all, or a map from client id or capacity class to rank; "
        "`default` is "
        "for the rest.",
    ),
    "wrong type": (
        "training: {rounds: '3'}",
        "r.yaml:6: training.rounds: must be a whole number, not '3'. Remove the quotes.",
    ),
    "half a round": (
        "training: {rounds: 2.5}",
        "r.yaml:6: training.rounds: must be a whole number, not 2.5. It is: rounds of the run.",
    ),
    "not finite": (
        "training: {learning_rate: 1e999}",
        "r.yaml:6: training.learning_rate: must be a finite number, not inf. It is: of the adapter.",
    ),
    "rate over 1": (
        "privacy: {noise_multiplier: 1, sampling_rate: 3}",
        "r.yaml:6: privacy.sampling_rate: must be at most 1, not 3. It is: public probability with which "
        "an example "
        "or a person joins a step, or a client a round.",
    ),
    "missing key": (
        "privacy: {noise_multiplier: 1}",
        "r.yaml:6: privacy.sampling_rate: is missing. Add it: public probability with which an example "
        "or a person joins a step, or a client a round.",
    ),
    "both kinds of noise": (
        "privacy: {noise_multiplier: 1, target_epsilon: 8, sampling_rate: 0.1}",
        "r.yaml:6: privacy: set exactly one of noise_multiplier, target_epsilon. It has noise_multiplier, "
        "target_epsilon, sampling_rate; see docs/recipe.md, privacy.",
    ),
    "empty section": ("privacy:", "r.yaml:6: privacy: has no value. Give it one, or remove the line."),
    "duplicate key": (
        "method: {name: fedit}",
        "r.yaml:6: method: this key stands twice, first in line 5. Keep one of the two.",
    ),
    "tab": (
        "training:\n\trounds: 3",
        "r.yaml:7: indented with a tab, which YAML does not allow. Indent with two spaces.",
    ),
    "alias": (
        "training: &t {rounds: 3}",
        "r.yaml:6: anchors (&) and aliases (*) are not read in a recipe. Write the value out.",
    ),
    "tag": (
        "training: !!python/object:os.system {}",
        "r.yaml:6: the tag tag:yaml.org,2002:python/object:os.system is not read in a recipe. Remove it.",
    ),
    "second document": (
        "---\nname: x",
        "r.yaml:6: a second document starts here. Keep one recipe a file, remove the ---.",
    ),
    "client id a number": (
        "cohort: {clients: [a, 7]}",
        'r.yaml:6: cohort.clients[1]: must be text, not 7. Put it in quotes: "7".',
    ),
    "bad client id": (
        "adapter: {lora_rank: {default: 4, ward b: 4}}",
        "r.yaml:6: adapter.lora_rank.ward b: 'ward b' is not a name: letters, digits, dot, dash and "
        "underscore, at most "
        "63, starting with a letter or digit. Rename it.",
    ),
    "bad alpha": (
        "adapter: {alpha: 2x}",
        "r.yaml:6: adapter.alpha: must be a number, or a multiple of the rank such as 2r, not '2x'. It is: "
        "scale times "
        "rank: a number, or a multiple of each client's rank such as `2r`.",
    ),
    "alpha of nothing": (
        "adapter: {alpha: 0r}",
        "r.yaml:6: adapter.alpha: must be a number, or a multiple of the rank such as 2r, not '0r'. It is: "
        "scale times "
        "rank: a number, or a multiple of each client's rank such as `2r`.",
    ),
    "more rounds than can be planned": (
        "training: {rounds: 1000000000000}",
        "r.yaml:6: training.rounds: must be at most 100000, not 1000000000000. It is: rounds of the run.",
    ),
    "bad choice": (
        "training: {optimizer: adamw}",
        "r.yaml:6: training.optimizer: 'adamw' is not one of adam, sgd. Did you mean adam?",
    ),
    "section is a value": (
        "training: 3",
        "r.yaml:6: training: must be a section: a map of keys to values, not 3. It is: local work of one "
        "client in one "
        "round.",
    ),
}


@pytest.mark.parametrize("name", REPLACED)
def test_a_bad_recipe_is_refused_with_its_place_and_a_remedy(name):
    line, expected = REPLACED[name]
    assert refusal(GOOD + line + "\n") == expected


WHOLE = {
    "empty": ("", "r.yaml:1: the file is empty. Start from a file in examples/recipes."),
    "comments only": ("# nothing\n", "r.yaml:1: the file is empty. Start from a file in examples/recipes."),
    "a list": ("- name: x\n", "r.yaml:1: a recipe is a map of keys to values. Start it with name: my-run."),
    "not YAML": (
        "name: x\ndata: {path: [}\n",
        "r.yaml:2: not YAML at column 15: expected the node content, but found '}'. Check indentation, "
        "colons and "
        "quotes here and in the line above.",
    ),
    "too deep": ("[" * 10_000, "r.yaml:1: nested more than 8 deep. No section of a recipe is that deep."),
    "too long": (
        "#" * 300_000,
        "r.yaml:1: 300000 characters are too long for a recipe. Keep it under 262144.",
    ),
    "control character": (
        "name: \x00\n",
        "r.yaml:1: not text that YAML allows (unacceptable character #x0000: special characters are not "
        "allowed). Save "
        "it as UTF-8 text.",
    ),
    "missing sections": (
        "name: x\n",
        "r.yaml:1: base_model: is missing. Add it: the frozen transformer that everyone starts from; set "
        "exactly one of "
        "its keys.\n"
        "r.yaml:1: data: is missing. Add it: where examples come from; set exactly one of material, path.\n"
        "r.yaml:1: method: is missing. Add it: how updates become one.\n"
        "r.yaml:1: task: is missing. Add it: what is learned.",
    ),
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_file_that_is_no_recipe_is_refused_in_plain_words(name):
    text, expected = WHOLE[name]
    assert refusal(text) == expected


def test_all_problems_are_reported_at_once_in_file_order():
    text = "name: a b\nbase_model: {material: minlm}\ntask: {kind: causal-lm, maxlength: 3}\nseed: x\n"
    lines = refusal(text).splitlines()
    assert [line.split(":")[2].strip() for line in lines] == [
        "data",
        "method",
        "name",
        "base_model.material",
        "task.maxlength",
        "seed",
    ]


def test_numbers_are_read_as_people_write_them():
    recipe = parse_recipe(GOOD + "training: {learning_rate: 1e-3}\nadapter: {alpha: 16}\n")
    assert recipe.training.learning_rate == 0.001
    assert recipe.adapter.alpha == 16.0


def test_layout_comments_order_and_written_defaults_do_not_change_the_hash():
    again = "# same\nmethod:\n  name: 'flora'\n" + "".join(GOOD.splitlines(keepends=True)[:4]) + "seed: 0\n"
    assert recipe_sha256(parse_recipe(again)) == recipe_sha256(parse_recipe(GOOD))
    assert recipe_sha256(parse_recipe(GOOD + "seed: 1\n")) != recipe_sha256(parse_recipe(GOOD))


def test_the_hash_is_that_of_the_canonical_text():
    text = canonical_json(parse_recipe(GOOD))
    assert recipe_sha256(text) == hashlib.sha256(text.encode()).hexdigest()
    assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))


def test_canonical_text_from_a_version_with_fewer_keys_takes_their_defaults():
    values = json.loads(canonical_json(parse_recipe(GOOD)))
    del values["training"]["max_grad_norm"]
    assert from_canonical_json(json.dumps(values)) == parse_recipe(GOOD)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"name":"a","name":"b"}', '{"seed":NaN}', "[" * 100_000])
def test_text_from_another_machine_that_is_no_recipe_is_refused(text):
    with pytest.raises(RecipeError):
        from_canonical_json(text)


def test_canonical_text_goes_through_the_same_checks_as_a_file():
    values = json.loads(canonical_json(parse_recipe(GOOD)))
    values["method"]["name"] = "fedit"
    values["adapter"]["lora_rank"] = {"a": 4, "default": 8}
    with pytest.raises(RecipeError, match=r"recipe: adapter\.lora_rank: clients have ranks 4, 8"):
        from_canonical_json(json.dumps(values))


def test_a_file_that_is_not_there_or_not_text_is_named(tmp_path):
    with pytest.raises(RecipeError, match=r"gone\.yaml: there is no such file"):
        load_recipe(tmp_path / "gone.yaml")
    with pytest.raises(RecipeError, match="can not be read"):
        load_recipe(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"name: \xe9\n")
    with pytest.raises(RecipeError, match="not UTF-8"):
        load_recipe(tmp_path / "latin.yaml")


def test_every_key_has_one_line_of_meaning_and_no_other_has():
    from motet.recipe.explain import sections
    from motet.recipe.yaml_text import dotted

    keys = {dotted((*path, key)) for path, model in sections().items() for key in model.model_fields}
    assert keys == set(MEANINGS)


def test_reading_a_recipe_loads_neither_torch_nor_the_accountants():
    code = "import sys, motet.recipe; sys.exit(bool({'torch', 'dp_accounting', 'scipy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_a_recipe_can_not_be_changed_once_read():
    with pytest.raises(ValueError, match="frozen"):
        parse_recipe(GOOD).seed = 3
    assert isinstance(parse_recipe(GOOD), Recipe)


@pytest.mark.parametrize("character", ["\x1b", "\n", "\r", "\b", "\u202e", "\u200b", "\x9b"])
@pytest.mark.parametrize(
    "place", [("base_model", "hub"), ("data", "path"), ("data", "text_column"), ("adapter", "targets")]
)
def test_no_text_of_a_recipe_holds_what_a_terminal_would_obey_or_hide(place, character):
    values = json.loads(canonical_json(parse_recipe(GOOD)))
    values["base_model"] = {"hub": "owner/model"}
    values["data"] |= {"material": None, "path": "x.jsonl"}
    from_canonical_json(json.dumps(values))  # control
    section, key = place
    text = f"shown{character}hidden"
    values[section][key] = [text] if key == "targets" else text
    with pytest.raises(RecipeError, match="control characters") as refused:
        from_canonical_json(json.dumps(values))
    assert f"shown{character}" not in str(refused.value)

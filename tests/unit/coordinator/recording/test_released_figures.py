"""What trackers may record, by the privacy of the run and the word of each owner."""

import math
from dataclasses import dataclass

import pytest

from coordinator.recording.released import released_figures, released_last_scores
from motet.recipe import canonical_json, from_canonical_json, parse_recipe
from motet.recipe.errors import RecipeError

RECIPE = """
name: t
base_model: {tiny: tiny-bert}
task: {kind: sequence-classification, num_labels: 2}
data: {path: none.jsonl}
method: {name: flora}
cohort: {clients: [a, b], minimum: 1}
trackers: [jsonl]
"""
PRIVACY = {
    "none": "",
    "example": "privacy: {noise_multiplier: 1.0, sampling_rate: 0.1}\n",
    "client": "privacy: {unit: client, noise_multiplier: 1.0, sampling_rate: 0.5}\n",
}
METRICS = {
    "relative_error": 0.1, "seconds": 12.5, "truncation_error": 0.2, "clipped": 1.0, "rejected": 0.0,
    "late_replies": 2.0, "duplicate_replies": 1.0, "a_new_one_that_nobody_has_looked_at": 3.0,
}  # fmt: skip


@dataclass
class Closed:
    run_id: str = "r-1"
    round_index: int = 3
    attempt: int = 0
    closed_at: float = 1234.5


@dataclass
class Contribution:
    client_id: str
    state: str = "RECEIVED"
    lora_rank: int = 4
    bytes_up: int = 100
    bytes_down: int = 50
    change_norm: float | None = 2.5
    share: float | None = 0.5
    outcome: str = "clipped"
    compression_error: float | None = None
    num_examples: int = 731
    withholds_metrics: bool = False


BOTH = (Contribution("a"), Contribution("b", state="FAILED"), Contribution("c"))


def released(privacy, rows=BOTH, **given):
    text = RECIPE.replace("flora", "ffa") if privacy == "client" else RECIPE
    recipe = parse_recipe(text + PRIVACY[privacy])
    return released_figures(recipe, Closed(), rows, METRICS, **given)


def test_a_run_without_privacy_records_what_the_coordinator_holds():
    found = released("none")
    assert found.at == 1234.5
    assert found.figures["seconds"] == 12.5
    assert (found.figures["received"], found.figures["failed"], found.figures["bytes_up"]) == (2, 1, 200)
    assert set(found.clients) == {"a", "c"}
    assert found.clients["a"] == {
        "lora_rank": 4, "bytes_up": 100, "bytes_down": 50, "change_norm": 2.5, "share": 0.5, "num_examples": 731,
        "clipped": 1, "rejected": 0,
    }  # fmt: skip


def test_a_private_run_records_only_released_values():
    found = released("example", epsilon=1.5)
    assert found.at is None
    assert set(found.figures) == {
        "relative_error", "truncation_error", "clipped", "rejected", "epsilon", "received", "bytes_up", "bytes_down",
    }  # fmt: skip
    assert "num_examples" not in found.clients["a"]
    assert "731" not in found.to_json()
    assert "12.5" not in found.to_json()


def test_with_unit_client_nothing_but_the_epsilon_is_recorded():
    found = released("client", epsilon=1.5)
    assert (found.at, dict(found.figures), dict(found.clients)) == (None, {"epsilon": 1.5}, {})
    other = released("client", rows=BOTH[:1], epsilon=1.5)
    assert other == found  # not even how many there were


@pytest.mark.parametrize("privacy", ["none", "example"])
def test_a_client_whose_owner_withholds_metrics_is_in_no_figure_of_single_clients(privacy):
    rows = (Contribution("a", withholds_metrics=True), Contribution("c"))
    assert set(released(privacy, rows=rows).clients) == {"c"}
    assert set(released(privacy).clients) == {"a", "c"}  # the control


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("[jsonl]", {"jsonl": ""}),
        ("[tensorboard, wandb]", {"tensorboard": "", "wandb": "motet"}),
        ("{jsonl: true, mlflow: {project: wards}, wandb: false}", {"jsonl": "", "mlflow": "wards"}),
        ("[]", {}),
    ],
)
def test_the_trackers_of_a_recipe_are_those_of_its_canonical_text(text, chosen):
    recipe = parse_recipe(RECIPE.replace("[jsonl]", text))
    assert recipe.trackers.chosen == chosen
    assert from_canonical_json(canonical_json(recipe)).trackers.chosen == chosen


def test_a_recipe_without_trackers_has_the_hash_that_it_had_before_there_were_any():
    without = parse_recipe(RECIPE.replace("trackers: [jsonl]", ""))
    assert "trackers" not in canonical_json(without)
    assert canonical_json(parse_recipe(RECIPE.replace("[jsonl]", "[]"))) == canonical_json(without)


@pytest.mark.parametrize("text", ["[wandbb]", "{wandbb: true}"])
def test_an_unknown_tracker_is_refused_with_the_nearest_right_name(text):
    with pytest.raises(RecipeError, match=r"Did you mean wandb\?"):
        parse_recipe(RECIPE.replace("[jsonl]", text))


def test_what_is_not_finite_is_left_out():
    rows = (Contribution("a", change_norm=math.inf, share=math.nan),)
    assert not {"change_norm", "share"} & set(released("none", rows=rows).clients["a"])


@dataclass
class Told:
    client_id: str
    loss: float = 0.5
    accuracy: float | None = 0.75
    num_examples: int = 20
    rounds_done: int = 3


SCORES = (Told("a"), Told("c", loss=1.5, accuracy=0.25))


def test_held_out_figures_are_recorded_of_those_who_told_them_and_as_their_mean():
    told = released("none", scores=SCORES)
    assert told.figures["held_out_accuracy"] == pytest.approx(0.5)
    assert told.figures["held_out_loss"] == pytest.approx(1.0)
    assert told.figures["held_out_examples"] == 40
    assert told.clients["a"]["held_out_accuracy"] == 0.75
    assert "held_out_accuracy" not in released("none", scores=SCORES[:1]).clients["c"]
    words = released("none", scores=[Told("a", accuracy=None)])
    assert "held_out_accuracy" not in words.flat()
    assert words.figures["held_out_loss"] == 0.5


@pytest.mark.parametrize("privacy", ["example", "client"])
def test_a_private_run_records_no_held_out_figure_whatever_lies_in_the_database(privacy):
    recipe = parse_recipe(
        (RECIPE.replace("flora", "ffa") if privacy == "client" else RECIPE) + PRIVACY[privacy]
    )
    assert not [name for name in released(privacy, scores=SCORES).flat() if "held_out" in name]
    assert released_last_scores(recipe, "r-1", SCORES) is None


def test_what_was_told_of_the_last_adapter_is_a_step_after_the_last_round():
    recipe = parse_recipe(RECIPE + "training: {rounds: 4}\n")
    told = released_last_scores(recipe, "r-1", SCORES)
    assert told.round_index == 4
    assert told.figures == {"held_out_loss": 1.0, "held_out_accuracy": 0.5, "held_out_examples": 40.0}
    assert set(told.clients) == {"a", "c"}
    assert released_last_scores(recipe, "r-1", ()) is None

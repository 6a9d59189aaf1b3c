"""What trackers may record, by the privacy of the run and the word of each owner."""

import math
from dataclasses import dataclass

import pytest

from coordinator.recording.released import released_figures
from motet.recipe import parse_recipe

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
    assert set(released(privacy, withheld=frozenset({"a"})).clients) == {"c"}
    assert set(released(privacy).clients) == {"a", "c"}  # the control


def test_what_is_not_finite_is_left_out():
    rows = (Contribution("a", change_norm=math.inf, share=math.nan),)
    assert not {"change_norm", "share"} & set(released("none", rows=rows).clients["a"])

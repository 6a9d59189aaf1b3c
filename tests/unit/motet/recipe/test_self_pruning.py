"""``method.self_pruning``: a key of hetlora, refused elsewhere with the nearest choice."""

import pytest

from motet.plan import plan
from motet.recipe import RecipeError, parse_recipe
from motet.recipe.checks import distinct_ranks

BASE = """\
name: r
base_model: {tiny: tiny-bert}
task: {kind: sequence-classification, num_labels: 2}
data: {path: x.jsonl}
method: {name: METHOD, self_pruning: {decay: 0.75}}
cohort: {clients: [a, b]}
"""


def text(extra="", method="hetlora"):
    return BASE.replace("METHOD", method) + extra


REFUSED = {
    "another method": (
        text(method="flora"),
        "r.yaml:5: method.self_pruning: is of hetlora: clients of flora do not choose their ranks by what they "
        "learned. Set method.name: hetlora, or remove it; adapter.lora_rank_schedule cuts ranks from outside.",
    ),
    "no adapter": (
        text().replace("decay: 0.75}", "decay: 0.75}, train_adapter: false"),
        "r.yaml:5: method.self_pruning: prunes the adapter, which train_adapter: false leaves out. Remove one of "
        "the two.",
    ),
    "a schedule": (
        text("adapter: {lora_rank: 8, lora_rank_schedule: [{from_round: 1, lora_rank: 4}]}\n"),
        "r.yaml:7: adapter.lora_rank_schedule: sets ranks from outside, and with method.self_pruning each client sets "
        "its own, which never grows. Remove one of the two.",
    ),
    "compression": (
        text("compression: {kind: int8}\n"),
        "r.yaml:7: compression: compression does not go with method.self_pruning: a compressed message names no "
        "shapes, so that nobody could tell the rank that its client has cut itself to. Leave compression out; a "
        "pruned rank makes uploads smaller as it is.",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_unsound_use_is_refused_with_the_reason_and_the_nearest_choice(case):
    recipe, wanted = REFUSED[case]
    with pytest.raises(RecipeError) as caught:
        parse_recipe(recipe, "r.yaml")
    assert wanted in [str(p) for p in caught.value.problems]


@pytest.mark.parametrize("wrong", ["decay: 0", "decay: 1", "penalty_weight: -1", "gamma: 0.9"])
def test_values_out_of_range_and_unknown_keys_are_errors(wrong):
    with pytest.raises(RecipeError, match=f"method.self_pruning.{wrong.split(':')[0]}"):
        parse_recipe(text().replace("decay: 0.75", wrong))


@pytest.mark.parametrize("unit", ["example", "person, unit_column: who, max_examples_per_person: 2"])
def test_dp_sgd_goes_with_it_and_noise_on_the_sum_does_not(unit):
    private = "privacy: {unit: UNIT, noise_multiplier: 1.0, sampling_rate: 0.1}\n"
    parse_recipe(text(private.replace("UNIT", unit)))
    with pytest.raises(RecipeError, match="hetlora has no client-level privacy"):
        parse_recipe(text(private.replace("UNIT", "client")))


def test_an_empty_section_takes_the_defaults_and_its_ranks_differ():
    recipe = parse_recipe(text().replace("{decay: 0.75}", "{}"))
    assert (recipe.method.self_pruning.decay, recipe.method.self_pruning.penalty_weight) == (0.99, 1e-3)
    assert list(distinct_ranks(recipe)) == [1, 8]


def test_the_plan_says_that_its_figures_are_the_most():
    said = "clients prune their own ranks: ranks, parameters and bytes are the most that they can be"
    assert said in plan(parse_recipe(text()), probe=False).notes
    without = text().replace(", self_pruning: {decay: 0.75}", "")
    assert said not in plan(parse_recipe(without), probe=False).notes

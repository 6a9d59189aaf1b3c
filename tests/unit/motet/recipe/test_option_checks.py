"""Robust rules, server optimisers and compression: unsound pairs are refused with the nearest sound choice."""

import pytest

from motet.recipe import RecipeError, parse_recipe
from motet.recipe.method import robust_options, server_optimizer

BASE = """\
name: r
base_model: {tiny: tiny-bert}
task: {kind: sequence-classification, num_labels: 2}
data: {path: x.jsonl}
adapter: {lora_rank: RANK}
method: {name: METHOD}
cohort: {clients: [a, b, c, d, e], minimum: MINIMUM}
"""


def text(extra, method="flora", rank="4", minimum=5):
    return BASE.replace("RANK", rank).replace("METHOD", method).replace("MINIMUM", str(minimum)) + extra


MIXED = "{a: 2, default: 4}"
REFUSED = {
    "a rule with hetlora": (
        text("robust: {rule: multi_krum}", "hetlora"),
        "r.yaml:8: robust.rule: multi_krum does not go with hetlora: it makes its own weights from the sizes of "
        "the changes and reads no others. Set method.name: zero-pad, or remove the rule.",
    ),
    "a rule with rank-index and mixed ranks": (
        text("robust: {rule: geometric_median}", "rank-index", MIXED),
        "r.yaml:8: robust.rule: geometric_median does not go with rank-index: a component that one client has is "
        "that client's alone. Set method.name: zero-pad, or remove the rule.",
    ),
    "a coordinate rule on factors": (
        text("robust: {rule: coordinate_median}", "ffa"),
        "r.yaml:8: robust.rule: coordinate_median does not go with ffa: single numbers of factors mean nothing: B "
        "and A of one product can be rotated and scaled at will. Set robust.rule: geometric_median, or "
        "method.name: fed-sb, or remove the rule.",
    ),
    "a rule with scaffold": (
        text("robust: {rule: trimmed}\ntraining: {algorithm: scaffold, optimizer: sgd}", "ffa"),
        "r.yaml:8: robust.rule: trimmed does not go with scaffold: its mean control variate counts every client "
        "alike, whatever weight a rule gives it. Set training.algorithm: fedprox, or leave the rule out; the clip "
        "stays on and bounds both.",
    ),
    "too few to outvote": (
        text("robust: {rule: multi_krum, num_bad: 2}"),
        "r.yaml:7: cohort.minimum: multi_krum needs 7 replies to outvote 2 wrong, and 5 would do here. Set it to "
        "7, or use robust.rule: geometric_median, which needs no number.",
    ),
    "momentum on two factors": (
        text("server_optimizer: {rule: fedadam}", "fedit"),
        "r.yaml:8: server_optimizer.rule: fedadam does not go with fedit: the product is not linear in two "
        "factors that are trained together. Set method.name: rolora, or server_optimizer.rule: fedavg.",
    ),
    "momentum after a decomposition": (
        text("server_optimizer: {rule: fedavgm}", "product", MIXED),
        "r.yaml:8: server_optimizer.rule: fedavgm does not go with product: a decomposition gives new coordinates "
        "each round, which what was kept of the last does not fit. Set method.name: ffa, or "
        "server_optimizer.rule: fedavg.",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_unsound_pair_is_refused_with_the_reason_and_the_nearest_sound_choice(case):
    recipe, wanted = REFUSED[case]
    with pytest.raises(RecipeError) as caught:
        parse_recipe(recipe, "r.yaml")
    assert [str(p) for p in caught.value.problems] == [wanted]


SOUND = {
    "every method has the clip": text("robust: {clip_factor: 3}", "hetlora"),
    "rank-index with one rank": text("robust: {rule: trimmed}", "rank-index"),
    "fed-sb by coordinates": text("robust: {rule: coordinate_trimmed_mean, num_bad: 2}", "fed-sb"),
    "multi_krum that outvotes": text("robust: {rule: multi_krum}", "flora", MIXED),
    "momentum on fed-sb": text("server_optimizer: {rule: fedyogi}", "fed-sb"),
    "momentum on heads alone": text("server_optimizer: {rule: fedyogi}", "flora, train_adapter: false"),
}


@pytest.mark.parametrize("case", SOUND)
def test_what_is_sound_is_not_refused(case):
    parse_recipe(SOUND[case])


def test_defaults_are_the_clip_and_the_plain_mean():
    recipe = parse_recipe(text(""))
    assert robust_options(recipe).rule == "none"
    assert robust_options(recipe).clip_factor == 10
    assert server_optimizer(recipe) is None


def test_the_optimisers_rate_is_its_rules_own_unless_it_is_set():
    rates = {
        rule: server_optimizer(parse_recipe(text(f"server_optimizer: {{rule: {rule}}}", "ffa"))).learning_rate
        for rule in ("fedavgm", "fedadam")
    }
    assert rates == {"fedavgm": 1.0, "fedadam": 0.01}
    set_ = parse_recipe(text("server_optimizer: {rule: fedadam, learning_rate: 0.5}", "ffa"))
    assert server_optimizer(set_).learning_rate == 0.5

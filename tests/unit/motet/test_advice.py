"""``motet advise``: every need is met by what is named, and what can not be met is said."""

from itertools import combinations

import pytest

from aggregation.table import NEEDS, TABLE, refusal
from motet.advice import QUESTIONS, NoMethodError, advise, ask, needs_of, refusals
from motet.recipe import parse_recipe

RECIPE = """
name: tiny
base_model: {tiny: tiny-bert}
task: {kind: sequence-classification, num_labels: 2}
data: {path: none.jsonl}
adapter: {lora_rank: RANK}
method: {name: fedit}
PRIVACY
"""


def recipe(rank="4", privacy=""):
    text = RECIPE.replace("RANK", rank).replace("PRIVACY", privacy)
    return parse_recipe(text, combinations=False)


def some_method_meets(needs):
    return any(all(row.verdict(need) is True for need in needs) for row in TABLE.values())


def test_every_set_of_needs_gets_a_method_that_meets_it_or_the_truth_that_none_does():
    answered = refused = 0
    for size in range(len(NEEDS) + 1):
        for chosen in combinations(NEEDS, size):
            needs = frozenset(chosen)
            if not some_method_meets(needs):
                with pytest.raises(NoMethodError) as caught:
                    advise(needs)
                assert caught.value.exit_code == 2
                refused += 1
                continue
            advice = advise(needs)
            assert all(refusal(advice.method, need) is None for need in needs)
            for name in advice.also:
                assert all(refusal(name, need) is None for need in needs)
            assert set(advice.also) | {advice.method} == {n for n in TABLE if not refusals(n, needs)}
            assert set(advice.needs) == needs
            answered += 1
    assert answered > 50
    assert refused > 10  # positive control: both answers happen


@pytest.mark.parametrize(
    ("needs", "method"),
    [
        (set(), "product"),
        ({"mixed_ranks"}, "product"),
        ({"fixed_base"}, "lora-fair"),
        ({"fixed_base", "mixed_ranks"}, "flexlora"),
        ({"constant_download"}, "lora-fair"),
        ({"example_dp"}, "fed-sb"),
        ({"example_dp", "mixed_ranks"}, "ffa"),
        ({"secure_sums"}, "fed-sb"),
        ({"secure_sums", "mixed_ranks"}, "ffa"),
        ({"personal_part"}, "fedsa"),
        ({"exact", "constant_download"}, "fed-sb"),
    ],
)
def test_the_methods_are_those_of_the_documentation(needs, method):
    assert advise(frozenset(needs)).method == method


def test_what_was_passed_over_is_told_with_its_reason():
    advice = advise(frozenset({"example_dp", "mixed_ranks"}))
    (passed,) = advice.passed_over
    assert (passed.method, passed.need) == ("fed-sb", "mixed_ranks")
    assert any(passed.reason in reason for reason in advice.reasons)


def test_a_conflict_says_what_to_give_up_for_which_method():
    with pytest.raises(NoMethodError, match="personal part") as caught:
        advise(frozenset({"personal_part", "exact"}))
    assert "personal part (" in caught.value.hint
    assert "exact (fedsa)" in caught.value.hint


def test_a_recipe_tells_its_own_needs():
    private = "privacy: {noise_multiplier: 1.0, sampling_rate: 0.1}"
    assert needs_of(recipe()) == frozenset()
    assert needs_of(recipe("{a: 2, b: 8}")) == {"mixed_ranks"}
    assert needs_of(recipe("4", private)) == {"example_dp"}
    assert needs_of(recipe("{a: 2, b: 8}", private)) == {"mixed_ranks", "example_dp"}


def test_every_need_has_a_question_and_the_answers_are_the_needs():
    assert set(QUESTIONS) == set(NEEDS)
    assert ask(lambda question: False) == frozenset()
    assert ask(lambda question: "ranks" in question or "sums" in question) == {"mixed_ranks", "secure_sums"}

"""HetLoRA's ranks that prune themselves, in whole runs."""

import re
from itertools import pairwise

import pytest

from motet.recipe import parse_recipe
from motet.simulate import prepare_shards, run_engine

PRIVATE = "privacy: {noise_multiplier: 0.5, sampling_rate: 0.2}\n"
ASSIGNED = {"a": 2, "b": 4, "c": 8}


@pytest.fixture
def run(recipe_text, tmp_path):
    def start(name, pruning, extra=""):
        ranks = str(ASSIGNED).replace("'", "")
        text = recipe_text("tiny-bert", f"hetlora{pruning}", ranks, 4, extra)
        recipe = parse_recipe(re.sub("learning_rate: 5e-3", "learning_rate: 2e-2", text))
        shards = prepare_shards(recipe, tmp_path / "shards" / name)
        return run_engine(recipe, shards, tmp_path / name, stage=name, with_curve=False)

    return start


def figures(outcome, name):
    return {c: [row["clients"][c][name] for row in outcome.result.rounds] for c in ASSIGNED}


@pytest.mark.parametrize("extra", ["", PRIVATE], ids=["plain", "private"])
def test_ranks_shrink_only_where_the_recipe_lets_them_and_messages_with_them(run, extra):
    made = run("pruned", ", self_pruning: {decay: 0.75, penalty_weight: 100.0}", extra)
    found = figures(made, "lora_rank")
    assert {c: ranks[0] for c, ranks in found.items()} == ASSIGNED  # B was zero: nothing to prune
    assert all(ranks == sorted(ranks, reverse=True) for ranks in found.values())
    assert found["c"][-1] < 8
    for name, ranks in (("bytes_up", found["c"]), ("bytes_down", [8, *found["c"][:-1]])):
        sizes = figures(made, name)["c"]
        assert [a > b for a, b in pairwise(sizes)] == [a > b for a, b in pairwise(ranks)]
    last = max(ranks[-1] for ranks in found.values())
    assert not any(pair.B[:, last:].any() for pair in made.state.lora.values())
    assert made.result.adapter_sha256 != ""

    plain = run("plain", "", extra)  # positive control
    assert figures(plain, "lora_rank") == {c: [rank] * 4 for c, rank in ASSIGNED.items()}
    assert all(pair.B[:, last:].any() for pair in plain.state.lora.values())


@pytest.mark.slow
def test_a_second_run_of_the_same_recipe_prunes_the_same(run):
    pruning = ", self_pruning: {decay: 0.75, penalty_weight: 100.0}"
    one, two = (run(name, pruning) for name in ("one", "two"))
    assert one.result.adapter_sha256 == two.result.adapter_sha256
    weaker = run("three", ", self_pruning: {decay: 0.75, penalty_weight: 0}")
    assert figures(weaker, "lora_rank") != figures(one, "lora_rank")  # what is learned decides

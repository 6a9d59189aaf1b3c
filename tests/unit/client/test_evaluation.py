"""Held-out quality: per example, in the order given, paired where two are compared."""

import math

import pytest
import torch

from aggregation.adapter import AdapterState
from client.evaluation import Scores, evaluate, paired_gain, score
from motet.data import Example


def scores(correct, losses=None):
    bits = torch.tensor(correct, dtype=torch.float64)
    return Scores(losses=torch.tensor(losses or [0.0] * len(bits), dtype=torch.float64), correct=bits)


def test_the_standard_error_of_a_gain_is_that_of_the_paired_differences():
    ours, theirs = scores([1, 1, 1, 0]), scores([1, 0, 1, 0])
    gain = paired_gain(ours, theirs)
    assert gain["gain"] == pytest.approx(0.25)
    assert gain["standard_error"] == pytest.approx(torch.tensor([0.0, 1, 0, 0]).std().item() / 2)
    unpaired = math.sqrt(0.75 * 0.25 / 4 + 0.5 * 0.5 / 4)
    assert gain["standard_error"] < unpaired  # what both get right or wrong does not count
    assert paired_gain(theirs, ours)["gain"] == pytest.approx(-0.25)


def test_a_lower_loss_is_a_positive_gain():
    ours = Scores(losses=torch.tensor([1.0, 2.0]), correct=None)
    theirs = Scores(losses=torch.tensor([2.0, 4.0]), correct=None)
    assert paired_gain(ours, theirs)["gain"] == pytest.approx(1.5)


def test_scores_of_different_examples_are_not_compared():
    with pytest.raises(ValueError, match="different examples"):
        paired_gain(scores([1, 0]), scores([1]))


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_scores_stand_in_the_order_of_the_examples_whatever_the_batches(recipe_of, kind, monkeypatch):
    recipe = recipe_of(kind, "flora")
    texts = ["a", "a much longer text than the others", "mid size", "b", "one more of them"]
    examples = [Example(text=t, label=i % 2, group="", source=t) for i, t in enumerate(texts)]
    state = AdapterState()
    together = score(recipe, state, examples)
    alone = [score(recipe, state, [e]).losses[0] for e in examples]
    torch.testing.assert_close(together.losses, torch.stack(alone), rtol=0, atol=1e-5)
    assert len(set(together.losses.tolist())) > 1  # positive control: order could be wrong
    monkeypatch.setattr("client.evaluation.BATCH", 2)
    torch.testing.assert_close(score(recipe, state, examples).losses, together.losses, rtol=0, atol=1e-5)
    assert ("accuracy" in evaluate(recipe, state, examples)) == (kind == "bert")


def test_threads_are_as_before_after_an_evaluation(recipe_of):
    before = torch.get_num_threads()
    example = Example(text="a", label=0, group="", source="a")
    score(recipe_of("bert", "flora"), AdapterState(), [example], num_threads=before + 1)
    assert torch.get_num_threads() == before
    with pytest.raises(ValueError, match="nothing"):
        score(recipe_of("bert", "flora"), AdapterState(), [])

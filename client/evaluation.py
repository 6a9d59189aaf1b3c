"""Held-out quality of a model: of an adapter state for simulations, of an attached one for ``client.protect``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from client.adapters import attach, detach
from client.base import loaded_base
from client.inputs import per_example_loss, prepare
from client.threads import torch_threads

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aggregation.adapter import AdapterState
    from client.inputs import Prepared
    from motet.data import Example
    from motet.recipe import Recipe

BATCH = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """One entry an example, in the order given.

    Attributes:
      losses: float64 (N,), nats; of a causal language model the mean over the example's own tokens.
      correct: 1 or 0, float64 (N,), for classification; a share where several models were judged; else None.
    """

    losses: torch.Tensor
    correct: torch.Tensor | None

    def metric(self) -> dict[str, float]:
        """Mean ``loss``, its standard error, ``num_examples`` and, for classification, ``accuracy``."""
        count = len(self.losses)
        spread = float(self.losses.std() / math.sqrt(count)) if count > 1 else math.nan
        result = {"loss": float(self.losses.mean()), "loss_standard_error": spread, "num_examples": count}
        if self.correct is not None:
            result["accuracy"] = float(self.correct.mean())
        return result


def mean_scores(several: Sequence[Scores]) -> Scores:
    """The mean over several models, example by example: how good they are on average.

    Raises:
      ValueError: none given.
    """
    if not several:
        raise ValueError("no scores to average")
    losses = torch.stack([s.losses for s in several]).mean(0)
    correct = [s.correct for s in several if s.correct is not None]
    return Scores(losses=losses, correct=torch.stack(correct).mean(0) if correct else None)


def paired_gain(ours: Scores, theirs: Scores) -> dict[str, float]:
    """How much better ``ours`` is than ``theirs`` on the same examples.

    Returns:
      ``gain`` (accuracy, or loss in nats where there is no accuracy; positive is better) and its
      ``standard_error``, of the paired differences: examples that both get right or wrong do not count.

    Raises:
      ValueError: not the same examples.
    """
    if len(ours.losses) != len(theirs.losses):
        raise ValueError("scores of different examples can not be paired")
    if ours.correct is not None and theirs.correct is not None:
        difference = ours.correct - theirs.correct
    else:
        difference = theirs.losses - ours.losses
    count = len(difference)
    spread = float(difference.std() / math.sqrt(count)) if count > 1 else math.nan
    return {"gain": float(difference.mean()), "standard_error": spread}


def score(
    recipe: Recipe, state: AdapterState, examples: Sequence[Example], *, num_threads: int | None = None
) -> Scores:
    """Loss and correctness of each example under ``state``.

    Args:
      recipe: for the model, the task and the scale.
      state: what to judge.
      examples: held-out ones.
      num_threads: torch threads for the time of the call; None leaves them.

    Raises:
      ValueError: no examples.
    """
    if not examples:
        raise ValueError("nothing to evaluate on")
    base = loaded_base(recipe)
    with base.lock, torch_threads(num_threads):
        ready = prepare(recipe, base, examples)
        rank = next(iter(state.cores.values())).shape[0] if state.cores else 0
        bases = base.bases_for(recipe, state)
        scale = recipe.scale_of(rank) if rank else 1.0
        attached = attach(base.model, recipe, state, bases=bases, scale=scale)
        try:
            return score_model(recipe, base.model, ready)
        finally:
            detach(attached)


def score_model(recipe: Recipe, model: torch.nn.Module, examples: Prepared) -> Scores:
    """Loss and correctness of each example under a model with its adapter on; the model is in eval mode after it.

    No random number is drawn.
    """
    order = examples.by_cost()
    losses = torch.zeros(len(examples), dtype=torch.float64)
    correct = torch.zeros(len(examples), dtype=torch.float64)
    model.eval()
    with torch.inference_mode():
        for start in range(0, len(order), BATCH):
            chosen = order[start : start + BATCH]
            loss, right = per_example_loss(recipe, model, examples, chosen)
            losses[chosen], correct[chosen] = loss.double(), right.double()
    return Scores(losses=losses, correct=correct if recipe.task.has_classes else None)


def evaluate(recipe: Recipe, state: AdapterState, examples: Sequence[Example]) -> dict[str, float]:
    """``Scores.metric`` of ``score``.

    Raises:
      ValueError: no examples.
    """
    return score(recipe, state, examples).metric()

"""Held-out quality of an adapter state, for simulations and public data: clients release no such number."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from client.adapters import attach, detach
from client.base import loaded_base
from client.tokens import per_example_loss, tokenise

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aggregation.adapter import AdapterState
    from motet.data import Example
    from motet.recipe import Recipe

BATCH = 64


def evaluate(recipe: Recipe, state: AdapterState, examples: Sequence[Example]) -> dict[str, float]:
    """Mean loss (nats), its standard error, number of examples, and for classification the accuracy.

    The model is the same whatever the number of threads or the order of examples, to rounding.

    Raises:
      ValueError: no examples.
    """
    if not examples:
        raise ValueError("nothing to evaluate on")
    base = loaded_base(recipe)
    with base.lock:
        tokens = tokenise(recipe, base.tokenizer, examples)
        rank = next(iter(state.cores.values())).shape[0] if state.cores else 0
        bases = base.bases_of(recipe, rank) if state.cores else None
        attached = attach(
            base.model, recipe, state, bases=bases, scale=recipe.scale_of(rank) if rank else 1.0
        )
        try:
            by_length = sorted(range(len(tokens)), key=lambda i: len(tokens.ids[i]))
            losses, correct = [], 0
            base.model.eval()
            with torch.inference_mode():
                for start in range(0, len(by_length), BATCH):
                    loss, right = per_example_loss(
                        recipe, base.model, tokens, by_length[start : start + BATCH]
                    )
                    losses.append(loss.double())
                    correct += int(right.sum())
        finally:
            detach(attached)
    every = torch.cat(losses)
    spread = float(every.std() / math.sqrt(len(every))) if len(every) > 1 else math.nan
    result = {"loss": float(every.mean()), "loss_standard_error": spread, "num_examples": len(every)}
    if recipe.task.kind == "sequence-classification":
        result["accuracy"] = correct / len(every)
    return result

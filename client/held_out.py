"""Examples that a client keeps out of training, to judge on them what a round starts from (``evaluation`` of a recipe).

Whether an example is held out is a hash of its source document and the recipe's seed, and of nothing else: the same in
every round, after a restart, in whatever order the file stands, whatever else is in it, and whether or not the owner
shares what comes of it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from motet.data import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from motet.data import Example
    from motet.recipe import Recipe

LEAST_JUDGED = 5
"""Fewer held-out examples tell nothing: a mean over one or two of them is a figure of single examples."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """One client's examples. ``training``: in their order; ``held_out``: all of the others, by their hashes."""

    training: Sequence[Example]
    held_out: Sequence[Example]


def split(recipe: Recipe, examples: Sequence[Example]) -> Split:
    """What trains and what is held out. All examples of one source document stay on one side.

    Args:
      recipe: its ``evaluation.held_out`` is the share of documents; without that section everything trains.
      examples: of one client.

    Raises:
      DataError: every example is held out; none is left to train on.
    """
    if recipe.evaluation is None:
        return Split(training=examples, held_out=())
    places = [place_of(recipe.seed, e.source) for e in examples]
    share = recipe.evaluation.held_out
    training = [e for e, place in zip(examples, places, strict=True) if place >= share]
    held = sorted((place, i) for i, place in enumerate(places) if place < share)
    if examples and not training:
        raise DataError(
            "all examples are held out for evaluation, none is left to train on",
            hint="bring examples of more documents, or lower evaluation.held_out in the recipe",
        )
    return Split(training=training, held_out=[examples[i] for _, i in held])


def place_of(seed: int, source: str) -> float:
    """Where in [0, 1) the hash of a source document falls."""
    digest = hashlib.sha256(f"motet held out/{seed}/{source}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2.0**48

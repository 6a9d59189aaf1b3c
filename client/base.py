"""The base model, loaded once a process; adapters come and go on it."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

from client.adapters import fed_sb_bases
from motet.modeling import load_base, load_tokenizer
from motet.recipe import canonical_json, from_canonical_json

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from aggregation.methods.base import Bases
    from motet.recipe import Recipe


@dataclass(slots=True)
class LoadedBase:
    """A model and its tokenizer. ``lock`` is held while an adapter is attached: one at a time."""

    model: nn.Module
    tokenizer: PreTrainedTokenizerBase
    lock: threading.Lock = field(default_factory=threading.Lock)
    bases: dict[tuple[str, str, int, int], Bases] = field(default_factory=dict)

    def bases_of(self, recipe: Recipe, rank: int) -> Bases:
        """Fed-SB's frozen bases, made once."""
        key = (str(recipe.adapter.targets) + str(recipe.adapter.layers), recipe.method.basis, rank, recipe.seed)
        if key not in self.bases:
            self.bases[key] = fed_sb_bases(self.model, recipe, rank)
        return self.bases[key]


def loaded_base(recipe: Recipe) -> LoadedBase:
    """The base of ``recipe``; recipes that differ in anything but base model and task share one.

    Raises:
      motet.modeling.ModelError: it can not be loaded.
    """
    neutral = {"base_model": recipe.base_model, "task": recipe.task}
    return _load(canonical_json(_template().model_copy(update=neutral)))


@lru_cache(maxsize=2)
def _load(recipe_json: str) -> LoadedBase:
    recipe = from_canonical_json(recipe_json)
    return LoadedBase(model=load_base(recipe), tokenizer=load_tokenizer(recipe))


@lru_cache(maxsize=1)
def _template() -> Recipe:
    from motet.recipe import parse_recipe  # noqa: PLC0415

    return parse_recipe(
        "name: base\nbase_model: {tiny: tiny-bert}\ntask: {kind: causal-lm}\ndata: {path: none}\nmethod: {name: fedit}\n"
    )

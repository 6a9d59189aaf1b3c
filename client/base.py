"""The base model, loaded once a process; adapters come and go on it."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from client.adapters import fed_sb_bases
from client.public_basis import public_gradient_bases
from motet.modeling import load_base, load_tokenizer

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from aggregation.adapter import AdapterState
    from aggregation.methods.base import Bases
    from motet.recipe import Recipe


KEPT_BASES = 4  # of the newest; each run has a seed and so bases of its own, as large as an adapter


@dataclass(slots=True)
class LoadedBase:
    """A model and, for texts, its tokenizer. ``lock`` is held while an adapter is attached: one at a time."""

    model: nn.Module
    tokenizer: PreTrainedTokenizerBase | None
    lock: threading.Lock = field(default_factory=threading.Lock)
    bases: dict[tuple[str, str, int, int], Bases] = field(default_factory=dict)

    def bases_for(self, recipe: Recipe, state: AdapterState) -> Bases | None:
        """The bases of a state's cores, which it may hold itself; None where it has none. Hold ``lock``.

        Raises:
          client.public_basis.PublicDataError: as ``bases_of``.
        """
        if not state.cores:
            return None
        if state.lora:
            return {layer: (pair.B, pair.A) for layer, pair in state.lora.items()}
        return self.bases_of(recipe, next(iter(state.cores.values())).shape[0])

    def bases_of(self, recipe: Recipe, rank: int) -> Bases:
        """Fed-SB's frozen bases, made once and kept until four others were asked for. Hold ``lock``.

        Raises:
          client.public_basis.PublicDataError: the recipe's public examples give none.
        """
        public = recipe.method.public_data
        key = (
            str(recipe.adapter.targets) + str(recipe.adapter.layers),
            recipe.method.basis + ("" if public is None else public.model_dump_json() + str(recipe.data)),
            rank,
            recipe.seed,
        )
        if key not in self.bases:
            while len(self.bases) >= KEPT_BASES:
                del self.bases[next(iter(self.bases))]
            by_gradient = recipe.method.basis == "public_gradient"
            self.bases[key] = (
                public_gradient_bases(self, recipe, rank)
                if by_gradient
                else fed_sb_bases(self.model, recipe, rank)
            )
        return self.bases[key]


class _BaseCache:
    """The last few bases of this process; a model is large, so the oldest goes first."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._loaded: dict[str, LoadedBase] = {}

    def get(self, recipe: Recipe) -> LoadedBase:
        key = recipe.base_model.model_dump_json() + recipe.task.model_dump_json()
        with self._lock:
            if key not in self._loaded:
                while len(self._loaded) >= self._limit:
                    del self._loaded[next(iter(self._loaded))]
                tokenizer = None if recipe.task.reads_images else load_tokenizer(recipe)
                self._loaded[key] = LoadedBase(model=load_base(recipe), tokenizer=tokenizer)
            return self._loaded[key]


_cache = _BaseCache(limit=2)


def loaded_base(recipe: Recipe) -> LoadedBase:
    """The base of ``recipe``; recipes that differ in anything but base model and task share one.

    Raises:
      motet.modeling.ModelError: it can not be loaded.
    """
    return _cache.get(recipe)

"""A run declared as data: read it, check it, and name it by a hash.

What is asked for is loaded when it is asked for: who knows recipes by their hash alone pays for none of it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from motet.recipe.errors import Problem, RecipeError
    from motet.recipe.load import (
        canonical_json,
        from_canonical_json,
        load_recipe,
        parse_recipe,
        recipe_sha256,
    )
    from motet.recipe.model import Recipe
    from motet.recipe.noise import resolve_noise_multiplier, round_event

__all__ = [
    "Problem",
    "Recipe",
    "RecipeError",
    "canonical_json",
    "from_canonical_json",
    "load_recipe",
    "parse_recipe",
    "recipe_sha256",
    "resolve_noise_multiplier",
    "round_event",
]
_WHERE = {
    "Problem": "errors",
    "Recipe": "model",
    "RecipeError": "errors",
    "resolve_noise_multiplier": "noise",
    "round_event": "noise",
}


def __getattr__(name: str) -> object:
    if name in __all__:
        return getattr(importlib.import_module(f"motet.recipe.{_WHERE.get(name, 'load')}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

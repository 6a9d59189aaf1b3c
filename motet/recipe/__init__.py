"""A run declared as data: read it, check it, and name it by a hash.

``resolve_noise_multiplier`` and ``round_event`` load the accountants at first use; importing stays light.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from motet.recipe.errors import Problem, RecipeError
from motet.recipe.load import canonical_json, from_canonical_json, load_recipe, parse_recipe, recipe_sha256
from motet.recipe.model import Recipe

if TYPE_CHECKING:
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


def __getattr__(name: str) -> object:
    if name in ("resolve_noise_multiplier", "round_event"):
        from motet.recipe import noise

        return getattr(noise, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

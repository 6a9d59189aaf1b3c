"""The recipe: one run, declared. Importing this stays light; privacy numerics load when they are first asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from motet.recipe.load import RecipeError, canonical_json, from_canonical_json, load_recipe, parse_recipe, recipe_sha256
from motet.recipe.model import Recipe

if TYPE_CHECKING:
    from motet.recipe.noise import resolve_noise_multiplier, round_event

__all__ = [
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


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a module's attribute
    if name in {"resolve_noise_multiplier", "round_event"}:
        import motet.recipe.noise as noise  # noqa: PLC0415, PLR0402

        return getattr(noise, name)
    raise AttributeError(name)

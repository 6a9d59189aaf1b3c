"""From a recipe to its aggregation method; a module of its own, because it needs torch and reading recipes does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aggregation.methods import get_method

if TYPE_CHECKING:
    from aggregation.methods import Method
    from motet.recipe.model import Recipe


def method_of(recipe: Recipe) -> Method:
    """The method with the options that the recipe gives it."""
    name = recipe.method.name
    if name == "lora-fair":
        return get_method(name, ridge=recipe.method.ridge, objective=recipe.method.objective)
    if name == "florist":
        return get_method(name, energy=recipe.method.energy)
    return get_method(name)

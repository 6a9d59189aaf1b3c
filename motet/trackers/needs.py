"""Whether the libraries that a recipe's trackers need are here: asked before a run starts, without loading them."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from motet.recipe.errors import Problem, RecipeError

if TYPE_CHECKING:
    from motet.recipe import Recipe

LIBRARIES = {"tensorboard": "tensorboard", "mlflow": "mlflow", "wandb": "wandb"}
"""Tracker -> the module that it needs; others need none."""


def check_trackers(recipe: Recipe, source: str = "recipe") -> None:
    """Raise for trackers that can not be written on this machine.

    Raises:
      RecipeError: names each tracker, and what to install where.
    """
    missing = [name for name in recipe.trackers.chosen if name in LIBRARIES and not _is_here(LIBRARIES[name])]
    if missing:
        raise RecipeError(
            [
                Problem(
                    source=source,
                    line=None,
                    field=f"trackers.{name}",
                    problem=f"{name} is not installed where the run would be recorded",
                    remedy="there: pip install 'motet[trackers]'; or take it out of the recipe",
                )
                for name in missing
            ]
        )


def _is_here(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False

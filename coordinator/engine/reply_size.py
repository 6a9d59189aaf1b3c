"""How large a reply may be: known from its order before a byte of it is fetched."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from coordinator.engine.admission import largest_payload
from motet.recipe import from_canonical_json
from motet.recipe.method import method_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from coordinator.engine.shape import ModelShape
    from motet.recipe import Recipe
    from motet.wire.messages import TrainOrder

BESIDE = 1 << 20  # words of an error, a decision, the envelope, Flower's own frames


class ReplySizes:
    """The most bytes that an answer to an order may have.

    Args:
      shape_of: names and shapes of a recipe's model.
    """

    def __init__(self, shape_of: Callable[[Recipe], ModelShape]) -> None:
        self._known = lru_cache(maxsize=8)(lambda recipe_json: _facts(recipe_json, shape_of))

    def __call__(self, order: TrainOrder) -> int:
        """In bytes, with what travels beside the payload."""
        if order.asks_rank or order.asks_leave or order.asks_score:
            return BESIDE
        recipe, shape = self._known(order.recipe_json)
        return BESIDE + largest_payload(
            recipe, method_of(recipe), shape, lora_rank=order.lora_rank, round_index=order.round_index
        )


def _facts(recipe_json: str, shape_of: Callable[[Recipe], ModelShape]) -> tuple[Recipe, ModelShape]:
    recipe = from_canonical_json(recipe_json)
    return recipe, shape_of(recipe)

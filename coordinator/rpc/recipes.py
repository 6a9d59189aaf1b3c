"""Recipes: check one, and what was submitted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordinator.rpc.pages import page
from motet.errors import NotFoundError
from motet.recipe import canonical_json, parse_recipe, recipe_sha256
from motet.wire.control import RecipeRecord
from motet.wire.control_codec import encode
from motet.wire.v1 import control_pb2, control_pb2_grpc

if TYPE_CHECKING:
    import grpc

    from coordinator.rpc.context import Resources


class RecipeServicer(control_pb2_grpc.RecipeServiceServicer):
    """See proto/motet/v1/control.proto."""

    def __init__(self, resources: Resources) -> None:
        self._store = resources.store

    def CheckRecipe(  # noqa: N802 - the contract's name
        self, request: control_pb2.CheckRecipeRequest, _context: grpc.ServicerContext
    ) -> control_pb2.Recipe:
        """Parse and check; nothing is stored."""
        recipe = parse_recipe(request.text)
        text = canonical_json(recipe)
        message: control_pb2.Recipe = encode(
            RecipeRecord(recipe_sha256=recipe_sha256(text), name=recipe.name, recipe_json=text)
        )
        return message

    def GetRecipe(  # noqa: N802
        self, request: control_pb2.GetRecipeRequest, _context: grpc.ServicerContext
    ) -> control_pb2.Recipe:
        """The recipe of a hash."""
        found = next((r for r in self._recipes() if r.recipe_sha256 == request.recipe_sha256), None)
        if found is None:
            raise NotFoundError("no run was submitted with a recipe of that hash")
        message: control_pb2.Recipe = encode(found)
        return message

    def ListRecipes(  # noqa: N802
        self, request: control_pb2.ListRecipesRequest, _context: grpc.ServicerContext
    ) -> control_pb2.ListRecipesResponse:
        """Each once, by hash."""
        rows, token = page(self._recipes(), request, lambda r: (r.recipe_sha256,), (str,))
        return control_pb2.ListRecipesResponse(recipes=[encode(r) for r in rows], next_page_token=token)

    def _recipes(self) -> list[RecipeRecord]:
        by_hash = {r.recipe_sha256: r for r in self._store.list_runs()}
        return [
            RecipeRecord(recipe_sha256=sha256, name=row.name, recipe_json=row.recipe_json)
            for sha256, row in sorted(by_hash.items())
        ]

"""What ``method.basis: gradient_sketch`` does not go with, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aggregation.sketch_rounds import SKETCH_ROUNDS
from motet.recipe.finding import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from motet.recipe.model import Recipe

_OTHER_BASIS = "method.basis: public_gradient or svd"


def gradient_sketch(recipe: Recipe) -> Iterator[Finding]:
    """A basis from the clients' own gradients, which the first rounds of the run find."""
    name, rounds = recipe.method.name, recipe.training.rounds
    if recipe.method.basis != "gradient_sketch":
        return
    if name != "fed-sb":
        yield Finding(
            path=("method", "basis"),
            problem=f"gradient_sketch makes the frozen factors of fed-sb, which {name} does not have",
            remedy="set method.name: fed-sb, or remove it",
        )
        return
    if rounds <= SKETCH_ROUNDS:
        yield Finding(
            path=("training", "rounds"),
            problem=f"the first {SKETCH_ROUNDS} rounds of gradient_sketch find the basis, so that {rounds} leave none "
            "to train in",
            remedy=f"set it to {SKETCH_ROUNDS + 1} or more, or set {_OTHER_BASIS}",
        )
    if recipe.privacy is not None and not recipe.privacy.noise_is_local:
        yield Finding(
            path=("method", "basis"),
            problem="gradient_sketch does not go with privacy.unit: client: clipping_norm bounds an update of the "
            "model, and a sketch is a gradient, of another size",
            remedy=f"set {_OTHER_BASIS}, or privacy.unit: example",
        )
    if recipe.training.algorithm == "scaffold":
        yield Finding(
            path=("method", "basis"),
            problem="gradient_sketch does not go with scaffold: what trains has other coordinates in the first rounds "
            "than later, so that a kept gradient is of factors that are gone",
            remedy=f"set {_OTHER_BASIS}, or training.algorithm: fedprox",
        )
    if recipe.robust.rule.startswith("coordinate_"):
        yield Finding(
            path=("robust", "rule"),
            problem=f"{recipe.robust.rule} does not go with basis: gradient_sketch: what it takes number by number is "
            "the gradient of no one, and so would its directions be",
            remedy=f"set it to geometric_median, or set {_OTHER_BASIS}",
        )
    if recipe.server_optimizer.rule != "fedavg":
        yield Finding(
            path=("server_optimizer", "rule"),
            problem=f"{recipe.server_optimizer.rule} does not go with basis: gradient_sketch: the first "
            f"{SKETCH_ROUNDS} rounds are no steps of a model",
            remedy=f"set it to fedavg, or set {_OTHER_BASIS}",
        )

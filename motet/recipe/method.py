"""From a recipe to its aggregation method; a module of its own, because it needs torch and reading recipes does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aggregation.compression import Scheme
from aggregation.errors import MalformedUpdateError
from aggregation.initial import generator_for
from aggregation.methods import SketchedFedSB, get_method
from aggregation.methods.sketched_sb import sketched_rounds
from aggregation.options import option_refusal
from aggregation.server_optimizer import ServerOptimizer
from aggregation.sketch_rounds import SKETCH_ROUNDS
from aggregation.weighing import RobustOptions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aggregation.adapter import AdapterState
    from aggregation.methods import Method
    from motet.recipe.model import Recipe


def method_of(recipe: Recipe) -> Method:
    """The method with the options that the recipe gives it."""
    name = recipe.method.name
    if name == "lora-fair":
        return get_method(name, ridge=recipe.method.ridge, objective=recipe.method.objective)
    if name == "florist":
        return get_method(name, energy=recipe.method.energy)
    if recipe.sketches_in():
        return SketchedFedSB(core_rank=recipe.most_rank)
    return get_method(name)


def local_start(
    recipe: Recipe,
    method: Method,
    received: AdapterState,
    *,
    layer_shapes: Mapping[str, tuple[int, int]],
    lora_rank: int,
    round_index: int,
    client_id: str,
    personal: AdapterState | None = None,
) -> AdapterState:
    """What a client puts on its model in a round. The coordinator makes the same, but for the personal part.

    Args:
      recipe: of the run.
      method: of the recipe.
      received: ``Method.starting_point`` as it arrived.
      layer_shapes: (m, n) of each adapted layer; empty where the head alone is trained.
      lora_rank: of this client.
      round_index: of the round.
      client_id: of the client; seeds factors that nobody shares.
      personal: what the client kept of its last round, if any.

    Raises:
      MalformedUpdateError: of a run that sketches its bases, and ``received`` is the state of another round.
    """
    if recipe.sketches_in() and sketched_rounds(received) != min(round_index, SKETCH_ROUNDS):
        raise MalformedUpdateError("unexpected_key", f"what came is not what round {round_index} starts from")
    return method.local_start(
        received,
        layer_shapes=layer_shapes,
        lora_rank=lora_rank,
        scale=recipe.scale_of(lora_rank),
        seed=recipe.seed,
        fresh_seed=generator_for(recipe.seed, "fresh", round_index, client_id).initial_seed(),
        personal=personal,
    )


def scheme_of(recipe: Recipe) -> Scheme | None:
    """How uploads are compressed; None where they are whole."""
    asked = recipe.compression
    if asked is None:
        return None
    kind = "ternary" if asked.kind == "compeft" else asked.kind
    return Scheme(kind=kind, block=asked.block, density=asked.density)


def feeds_back(recipe: Recipe) -> bool:
    """Whether clients add what one message left out to the next: as the recipe says, else where it is sound."""
    asked = recipe.compression
    if asked is None or asked.error_feedback is not None:
        return bool(asked and asked.error_feedback)
    refused = option_refusal(recipe.method.name, "error_feedback") if recipe.method.train_adapter else None
    return refused is None and (recipe.privacy is None or recipe.privacy.noise_is_local)


def robust_options(recipe: Recipe) -> RobustOptions:
    """The clip and the rule that the recipe asks for."""
    robust = recipe.robust
    return RobustOptions(rule=robust.rule, num_bad=robust.num_bad, clip_factor=robust.clip_factor)


def server_optimizer(recipe: Recipe) -> ServerOptimizer | None:
    """The optimiser that the recipe asks for; None for fedavg, which takes the mean as it is."""
    asked = recipe.server_optimizer
    if asked.rule == "fedavg":
        return None
    usual = 1.0 if asked.rule == "fedavgm" else 0.01
    return ServerOptimizer(
        rule=asked.rule,
        learning_rate=asked.learning_rate or usual,
        beta1=asked.beta1,
        beta2=asked.beta2,
        tau=asked.tau,
    )

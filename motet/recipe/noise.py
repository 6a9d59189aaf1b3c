"""From the recipe's privacy section to numbers that a ledger charges. Loads the accountants, not torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from motet.recipe.errors import Problem, RecipeError
from privacy.calibration import calibrate_noise_multiplier
from privacy.errors import CalibrationError
from privacy.events import PoissonGaussianEvent

if TYPE_CHECKING:
    from motet.recipe.model import Recipe


def resolve_noise_multiplier(recipe: Recipe) -> float:
    """The noise multiplier of the whole run: the recipe's own, or the least that meets ``target_epsilon``.

    The target is for all steps of one client together: ``rounds * local_steps``, or one a round where the unit is the
    client.

    Raises:
      RecipeError: no noise reaches the target.
      ValueError: the recipe is not private.
    """
    privacy = recipe.privacy
    if privacy is None:
        raise ValueError(f"recipe {recipe.name} has no privacy section, so it has no noise multiplier")
    if privacy.noise_multiplier is not None:
        return privacy.noise_multiplier
    if privacy.target_epsilon is None:
        raise ValueError("a privacy section has noise_multiplier or target_epsilon")
    try:
        return calibrate_noise_multiplier(
            privacy.target_epsilon,
            privacy.target_delta,
            privacy.sampling_rate,
            recipe.training.rounds * _steps_of_round(recipe),
        )
    except CalibrationError as error:
        problem = Problem(
            source=recipe.name,
            line=None,
            field="privacy.target_epsilon",
            problem=f"{privacy.target_epsilon:g} can not be reached ({error})",
            remedy="raise it, lower sampling_rate, or take fewer steps",
        )
        raise RecipeError([problem]) from error


def round_event(recipe: Recipe) -> PoissonGaussianEvent | None:
    """What one round charges to each client's data; None when the recipe is not private."""
    if recipe.privacy is None:
        return None
    return PoissonGaussianEvent(
        noise_multiplier=resolve_noise_multiplier(recipe),
        sampling_rate=recipe.privacy.sampling_rate,
        num_steps=_steps_of_round(recipe),
        unit=recipe.privacy.unit,
    )


def _steps_of_round(recipe: Recipe) -> int:
    """How often noise is added in a round: in every step at the client, or once to the sum."""
    return recipe.training.local_steps if recipe.trains_privately else 1

"""From a recipe's privacy section to the event that a round charges."""

from __future__ import annotations

from typing import TYPE_CHECKING

from privacy.calibration import calibrate_noise_multiplier
from privacy.events import PoissonGaussianEvent

if TYPE_CHECKING:
    from motet.recipe.model import Recipe


def resolve_noise_multiplier(recipe: Recipe) -> float:
    """The noise multiplier of a private recipe: as written, or calibrated so that the whole run meets ``target_epsilon``.

    Raises:
      ValueError: the recipe is not private.
    """
    privacy = recipe.privacy
    if privacy is None:
        raise ValueError("the recipe has no privacy section")
    if privacy.noise_multiplier is not None:
        return privacy.noise_multiplier
    if privacy.target_epsilon is None:
        raise ValueError("neither noise_multiplier nor target_epsilon is set")
    return calibrate_noise_multiplier(
        privacy.target_epsilon,
        privacy.target_delta,
        privacy.sampling_rate,
        recipe.training.local_steps * recipe.training.rounds,
    )


def round_event(recipe: Recipe) -> PoissonGaussianEvent | None:
    """What one round costs one client; None without privacy."""
    if recipe.privacy is None:
        return None
    return PoissonGaussianEvent(
        noise_multiplier=resolve_noise_multiplier(recipe),
        sampling_rate=recipe.privacy.sampling_rate,
        num_steps=recipe.training.local_steps,
    )

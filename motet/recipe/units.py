"""What each unit of privacy protects, in words, and where a run of it is weak. Light: no torch, no accountant."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from motet.recipe.model import Recipe

UNIT_WORDS: Mapping[str, str] = {
    "example": "one example of a client's data",
    "person": "one person with all of their examples at a client",
    "client": "one client with all of its data",
}
TRUST_WORDS: Mapping[str, str] = {
    "example": "nobody but the client is trusted: noise is added before anything leaves",
    "person": "nobody but the client is trusted: noise is added before anything leaves",
    "client": "the coordinator is trusted: it sees updates in the clear and adds the noise to their sum",
}
FEW_CLIENTS = 20
_LOUD = 10.0


def cohort_warnings(
    recipe: Recipe, trained_numbers: int, *, noise_multiplier: float, epsilon: float
) -> Iterator[str]:
    """Where client-level privacy means little, or leaves little of what is learned.

    Args:
      recipe: of any unit; nothing is said of others than client.
      trained_numbers: that one client trains.
      noise_multiplier: of the run, calibrated where the recipe has a target.
      epsilon: of the whole run.
    """
    privacy = recipe.privacy
    if privacy is None or privacy.noise_is_local:
        return
    cohort = recipe.expected_cohort()
    if cohort is None:
        yield "privacy.unit client needs a public divisor: name cohort.clients, or set privacy.expected_cohort"
        return
    if cohort < FEW_CLIENTS:
        yield (
            f"a cohort of {cohort:g} is too small for privacy.unit client: it hides one client among {cohort:g}; "
            "for a few large data owners use unit example or person"
        )
    if epsilon > _LOUD:
        yield f"epsilon {epsilon:.3g} for a whole client hides little of it: more clients, more noise, fewer rounds"
    ratio = noise_multiplier * math.sqrt(trained_numbers) / cohort
    if ratio > _LOUD:
        yield (
            f"the noise of a round is {ratio:.0f} times as long as the largest mean change of {cohort:g} clients: "
            "train fewer numbers (fed-sb, lower ranks) or ask more clients"
        )
    if privacy.sampling_rate < 1:
        yield (
            "the sampling rate lowers epsilon only for those who do not see who takes part in a round; for the rest, "
            "audit bundles included, count it as 1"
        )

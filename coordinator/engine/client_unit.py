"""Rounds of ``privacy.unit: client``: who is drawn, who is charged, and the noised sum.

The cohort is a Poisson draw of the roster at a public rate, from the operating system's randomness; it may be empty.
Everybody on the roster is charged every round, drawn or not: the draw is part of the mechanism. A round closes at its
deadline with whoever arrived; who did not adds nothing to the sum, as one who was not drawn. The noise and the divisor
do not depend on that, so stragglers, drop-outs and refusals change no guarantee. A round is never drawn again.

The guarantee holds against those who see the released adapters and not who was drawn: other data owners, and users of
the result. The coordinator sees updates in the clear and is trusted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from aggregation.private_sum import private_reduction
from coordinator.errors import RunFailedError
from motet.recipe import resolve_noise_multiplier
from privacy.sampling import poisson_indices

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from aggregation.adapter import AdapterState
    from aggregation.methods import Method
    from aggregation.methods.base import Reduction
    from coordinator.storage.models import ContributionRow
    from motet.recipe import Recipe
    from privacy.noise import NoiseSource

# What a client says of the recipe and of itself, never of its data: everybody will say it again.
HOPELESS_CODES = frozenset({"policy_refused", "bundle_refused", "ledger_failed", "ledger_rolled_back"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """``asked``: client id -> rank of those drawn who can be reached. ``others``: the rest of the roster."""

    asked: Mapping[str, int]
    others: Mapping[str, int]


def is_client_unit(recipe: Recipe) -> bool:
    """Whether noise is added here, to the sum."""
    return recipe.privacy is not None and not recipe.privacy.noise_is_local


def draw_cohort(
    recipe: Recipe, ranks: Mapping[str, int], reachable: Iterable[str], noise: NoiseSource
) -> Draw:
    """Toss a coin for everybody on the roster.

    Args:
      recipe: of the run; private, of unit client.
      ranks: client id -> rank, of the roster.
      reachable: who can be asked now.
      noise: where the coins come from.
    """
    roster = sorted(ranks)
    rate = 1.0 if recipe.privacy is None else recipe.privacy.sampling_rate
    there = set(reachable)
    drawn = {roster[i] for i in poisson_indices(len(roster), rate, noise)} & there
    return Draw(
        asked={c: ranks[c] for c in roster if c in drawn},
        others={c: ranks[c] for c in roster if c not in drawn},
    )


def expected_cohort(recipe: Recipe) -> float:
    """The public divisor of the noised sum.

    Raises:
      RunFailedError: the recipe gives neither it nor the roster.
    """
    found = recipe.expected_cohort()
    if found is None:
        raise RunFailedError(
            "the recipe does not say by what the noised sum is divided",
            hint="name the roster in cohort.clients, or set privacy.expected_cohort",
        )
    return found


def check_somebody_may_take_part(contributions: Sequence[ContributionRow]) -> None:
    """Stop a run that every client refuses; it would go on with noise alone.

    Raises:
      RunFailedError: all who were asked refused for a reason that stays.
    """
    asked = [c for c in contributions if c.state != "SKIPPED"]
    if asked and all(c.state == "FAILED" and c.error_code in HOPELESS_CODES for c in asked):
        raise RunFailedError(
            f"everybody who was asked refused; {asked[0].client_id}: {asked[0].error_message}",
            hint="mend what the clients report, then submit the run again",
        )


def noised(
    recipe: Recipe,
    method: Method,
    before: AdapterState,
    pairs: Iterable[tuple[AdapterState, AdapterState]],
    round_index: int,
    noise: NoiseSource,
) -> Reduction:
    """The round's result: ``aggregation.private_sum.private_reduction`` with the recipe's constants.

    Raises:
      ValueError: an update does not fit, or the recipe is not private.
      RunFailedError: see ``expected_cohort``.
    """
    if recipe.privacy is None:
        raise ValueError("a run without a privacy section has no noised sum")
    return private_reduction(
        method,
        before,
        pairs,
        round_index=round_index,
        clipping_norm=recipe.privacy.clipping_norm,
        noise_multiplier=resolve_noise_multiplier(recipe),
        expected_cohort=expected_cohort(recipe),
        noise=noise,
    )

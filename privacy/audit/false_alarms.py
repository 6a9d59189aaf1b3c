"""How often the audit accuses the right mechanism: upper bounds from the distributions themselves, nothing is drawn.

The noise is taken as exactly Gaussian and the coins as fair, as ``privacy.noise`` makes them. Bounds of single checks
are added up, which needs no independence.

Single steps. The size of the noise and the correlation have their exact distributions, so each accuses with exactly
the probability that it was given. The attack that tells two neighbours apart compares two binomial counts; its
probability is a finite sum, and far smaller, since both counts have to be unlikely at once.

One run. The theorem behind the bound holds for every mechanism of the claimed (epsilon, delta) and allows
1 - confidence. The right mechanism is far better than the worst of them, and canaries do not influence each other: of
the canaries above the (k + 1)-th highest score each was in with the same probability, independently. An attack on one
canary, whatever its score is, bounds that probability by the mechanism's own epsilon at a large delta.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import beta, binom, norm

from privacy.accounting import epsilon_pld
from privacy.audit.bounds import one_run_p_value
from privacy.audit.mechanism import NUM_CHECKS
from privacy.events import PoissonGaussianEvent

if TYPE_CHECKING:
    from privacy.audit.canary import CanaryPlan

_DELTAS = (
    0.03,
    0.01,
    0.003,
)  # where the curve of a mechanism with a small claim is tight for a tenth of the canaries
_MISS = 1e-9  # that the threshold of a guess lies further out than assumed


@dataclass(frozen=True, slots=True, kw_only=True)
class FalseAlarms:
    """Upper bounds on the probability that the right mechanism is accused, a run of the audit.

    Attributes:
      tells_apart: by the test that tells two neighbours apart.
      noise_size: by the size of the noise.
      correlation: by the correlation of steps.
      one_run: by either attack of the one-run audit; 0 if it is not run.
    """

    tells_apart: float
    noise_size: float
    correlation: float
    one_run: float

    @property
    def total(self) -> float:
        """By any check."""
        return min(1.0, self.tells_apart + self.noise_size + self.correlation + self.one_run)

    def in_runs(self, runs: int) -> float:
        """By any check in any of ``runs`` runs."""
        return min(1.0, runs * self.total)


def false_alarms(
    *, trials: int, noise_multiplier: float, confidence: float, plan: CanaryPlan | None
) -> FalseAlarms:
    """Bound the false alarms of one run of the audit.

    Args:
      trials: see ``privacy.audit.mechanism.check_mechanism``.
      noise_multiplier: of the single steps.
      confidence: of the single steps' checks together.
      plan: of the one-run audit; None if it is not run.
    """
    p = (1 - confidence) / NUM_CHECKS
    return FalseAlarms(
        tells_apart=tells_apart_alarm(trials, noise_multiplier, p),
        noise_size=p,
        correlation=p,
        one_run=0.0 if plan is None else one_run_alarm(plan),
    )


def tells_apart_alarm(trials: int, noise_multiplier: float, p: float) -> float:
    """Probability that the lower bound on mu is above 1 / sigma though mu is exactly that.

    Args:
      trials: steps with the canary, and as many without.
      noise_multiplier: sigma.
      p: 1 - confidence of the bound.

    Returns:
      the probability, to the precision of the sum.
    """
    mu = 1 / noise_multiplier
    errors = np.arange(trials + 1)
    upper = np.append(beta.ppf(1 - p / 2, errors[:-1] + 1, trials - errors[:-1]), 1.0)
    margin = -norm.ppf(upper)  # falls with the errors; both margins together must not pass mu
    chance = binom.pmf(errors, trials, norm.cdf(-mu / 2))
    below = np.append(0.0, np.cumsum(chance))
    # Margins ascending: how many counts of errors have a margin above what the other count leaves.
    return float(chance @ below[len(margin) - np.searchsorted(margin[::-1], mu - margin, side="right")])


def one_run_alarm(plan: CanaryPlan) -> float:
    """Probability that either attack of the one-run audit refutes a claim which is true, at most.

    The guarantee of the bound itself, 1 - confidence, is returned where it is smaller, or where nearly every canary is
    guessed.
    """
    needed = _least_refuting(plan)
    if needed > plan.guesses:
        return 0.0
    if plan.guesses > plan.canaries - 2:
        return 1 - plan.confidence
    half = plan.guesses // 2
    share = float(beta.ppf(_MISS, half + 1, plan.canaries - half))
    rate = _most_right(plan, share)
    each = 2 * _MISS + float(binom.sf(needed - 1, plan.guesses, rate))
    return min(1 - plan.confidence, 2 * each)


def _least_refuting(plan: CanaryPlan) -> int:
    """The fewest right guesses that refute the claim; one more than there are guesses if none does."""
    claim, p = plan.claim, plan.p_of_each_attack
    low, high = 0, plan.guesses + 1
    while low < high:
        middle = (low + high) // 2
        told = one_run_p_value(
            canaries=plan.canaries, guesses=plan.guesses, correct=middle, epsilon=claim, delta=plan.delta
        )
        low, high = (low, middle) if told <= p else (middle + 1, high)
    return low


def _most_right(plan: CanaryPlan, share: float) -> float:
    """The largest probability that a guess is right, of guesses made for ``share`` of all canaries or more.

    A score is in the region of guesses with rates t if the canary was in and f if not, (t + f) / 2 = share and
    t <= e^eps f + delta at every pair: t / (t + f) <= (e^eps + delta / (2 share)) / (1 + e^eps).
    """
    event = PoissonGaussianEvent(
        noise_multiplier=plan.noise_multiplier, sampling_rate=plan.sampling_rate, num_steps=plan.steps
    )
    pairs = [(math.exp(-epsilon_pld([event], delta)), delta) for delta in _DELTAS]
    return min(1.0, *((1 + inverse * delta / (2 * share)) / (1 + inverse) for inverse, delta in pairs))

"""From the success of an attack to a lower bound on the privacy that is lost, each at a stated confidence. No torch."""

from __future__ import annotations

import math

import numpy as np
from scipy.optimize import brentq
from scipy.stats import beta, binom, norm

_LARGEST_EPSILON = 64.0
_BISECTIONS = 50


def one_run_p_value(*, canaries: int, guesses: int, correct: int, epsilon: float, delta: float) -> float:
    """Probability that an (epsilon, delta)-private mechanism lets so many guesses be right.

    Theorem 5.2 of Steinke, Nasr and Jagielski 2023 (https://arxiv.org/abs/2305.08846), for canaries that are each in
    or out by a fair coin::

      p = P[Bin(r, q) >= v] + 2 m delta max_{1 <= i <= v} P[v - i <= Bin(r, q) < v] / i,   q = e^eps / (1 + e^eps)

    Args:
      canaries: m, all of them, guessed or not.
      guesses: r <= m, how many were guessed; fixed before the scores are seen.
      correct: v <= r.
      epsilon: >= 0, the hypothesis.
      delta: of the hypothesis.

    Returns:
      p in [0, 1].

    Raises:
      ValueError: a number is outside its range.
    """
    if not (0 <= correct <= guesses <= canaries and epsilon >= 0 and 0 <= delta <= 1):
        raise ValueError(
            f"need 0 <= correct <= guesses <= canaries, epsilon >= 0, delta in [0, 1], not {correct}, {guesses}, "
            f"{canaries}, {epsilon}, {delta}"
        )
    rate = 1 / (1 + math.exp(-epsilon))
    tail = float(binom.sf(correct - 1, guesses, rate))
    slack = 0.0
    if correct:
        i = np.arange(1, correct + 1)
        slack = float((np.cumsum(binom.pmf(correct - i, guesses, rate)) / i).max())
    return min(1.0, tail + 2 * canaries * delta * slack)


def one_run_epsilon(*, canaries: int, guesses: int, correct: int, delta: float, p: float) -> float:
    """The largest epsilon that the outcome refutes at significance ``p``; a lower bound on the true one.

    Returns:
      epsilon in [0, 64]; 0 if nothing is refuted. With ``correct == guesses`` this is the audit's ceiling: no outcome
      of it can refute a larger claim.
    """

    def refuted(epsilon: float) -> bool:
        told = one_run_p_value(
            canaries=canaries, guesses=guesses, correct=correct, epsilon=epsilon, delta=delta
        )
        return told <= p

    if guesses == 0 or not refuted(0.0):
        return 0.0
    low, high = 0.0, 1.0
    while high < _LARGEST_EPSILON and refuted(high):
        low, high = high, 2 * high
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low


def clopper_pearson_upper(errors: int, trials: int, p: float) -> float:
    """Upper end of the exact one-sided interval for a rate, at confidence 1 - ``p``.

    Raises:
      ValueError: not 0 <= errors <= trials, or no trials.
    """
    if not 0 <= errors <= trials or trials == 0:
        raise ValueError(f"need 0 <= errors <= trials and trials > 0, not {errors}, {trials}")
    return 1.0 if errors == trials else float(beta.ppf(1 - p, errors + 1, trials - errors))


def gaussian_mu_lower_bound(
    *, false_positives: int, negatives: int, false_negatives: int, positives: int, p: float
) -> float:
    """Lower bound on mu of Gaussian DP from a test that tells two neighbours apart (Nasr et al. 2023).

    ``mu >= Phi^-1(1 - FPR) - Phi^-1(FNR)`` for every test of a mu-GDP mechanism; both rates are replaced by upper
    bounds at ``p / 2``. A step of noise multiplier sigma without sampling is (1 / sigma)-GDP exactly.

    Returns:
      mu >= 0.
    """
    fpr = clopper_pearson_upper(false_positives, negatives, p / 2)
    fnr = clopper_pearson_upper(false_negatives, positives, p / 2)
    if fpr >= 1 or fnr >= 1:
        return 0.0
    return max(0.0, float(norm.ppf(1 - fpr) - norm.ppf(fnr)))


def epsilon_of_gaussian(mu: float, delta: float) -> float:
    """Epsilon of mu-GDP at ``delta`` (Dong, Roth and Su 2022, https://arxiv.org/abs/1905.02383, corollary 2.13).

    Raises:
      ValueError: ``mu`` is negative or ``delta`` is outside (0, 1).
    """
    if mu < 0 or not 0 < delta < 1:
        raise ValueError(f"need mu >= 0 and delta in (0, 1), not {mu}, {delta}")
    if mu == 0:
        return 0.0

    def excess(epsilon: float) -> float:
        second = math.exp(epsilon + float(norm.logcdf(-epsilon / mu - mu / 2)))
        return float(norm.cdf(-epsilon / mu + mu / 2)) - second - delta

    if excess(0.0) <= 0:
        return 0.0
    high = 1.0
    while excess(high) > 0:
        high *= 2
    return float(brentq(excess, 0.0, high))

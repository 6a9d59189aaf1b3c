"""How often a client is asked, where a recipe does not ask every client in every round. Whoever is asked is charged."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from motet.recipe import Recipe


def most_asked(minimum: int, over_select: float | None) -> int | None:
    """How many are asked in a round at most: ``over_select`` times the minimum, rounded up; None without a bound."""
    return None if over_select is None else math.ceil(over_select * minimum - 1e-9)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """Who is asked, and so charged, in one attempt at a round. Draws are by coins: all clients are alike.

    Attributes:
      num_clients: that can take part.
      most: asked in a round.
      per_round: expected number that is asked in a round.
      expected_rounds: in which one client is expected to be asked, of all rounds of the run.
    """

    num_clients: int
    most: int
    per_round: float
    expected_rounds: float

    @property
    def share(self) -> float:
        """Of the rounds, in which a client is expected to be asked."""
        return self.per_round / self.num_clients


def asking_of(recipe: Recipe, num_clients: int) -> Asking | None:
    """How many of ``num_clients`` are asked in a round; None where all are, or where a unit has a draw of its own.

    Args:
      recipe: ``cohort.draw_rate`` draws each client by a coin, at least ``minimum``; of those drawn
        ``cohort.over_select`` takes so many times the minimum.
      num_clients: at least 1; all are taken to be there.
    """
    cohort = recipe.cohort
    if recipe.privacy is not None and recipe.privacy.unit == "client":
        return None
    bound = most_asked(cohort.minimum, cohort.over_select)
    most = num_clients if bound is None else min(num_clients, bound)
    least = min(cohort.minimum, most)
    if cohort.draw_rate >= 1 and most >= num_clients:
        return None
    per_round = math.fsum(
        _binomial(num_clients, drawn, cohort.draw_rate) * min(max(drawn, least), most)
        for drawn in range(num_clients + 1)
    )
    expected = recipe.training.rounds * per_round / num_clients
    return Asking(num_clients=num_clients, most=most, per_round=per_round, expected_rounds=expected)


def _binomial(n: int, k: int, p: float) -> float:
    """Probability of k of n."""
    if p >= 1:
        return float(k == n)
    log = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return math.exp(log + k * math.log(p) + (n - k) * math.log1p(-p))


def asking_words(asking: Asking, rounds: int) -> str:
    """For people, one note."""
    return (
        f"a round asks {_number(asking.per_round)} of {asking.num_clients} clients (at most {asking.most}): a client "
        f"is expected in {_number(asking.expected_rounds)} of {rounds} rounds; whoever is asked is charged, also where "
        "the answer is not needed. Figures of one client are of one that is asked in every round; the limit is held "
        "against that"
    )


def _number(value: float) -> str:
    return f"{value:g}" if value == round(value) else f"about {value:.1f}"

"""Who of the clients that can take part is asked in an attempt at a round: a draw that anybody can repeat.

Each client has a coin of its own for each attempt, from the recipe's seed and its name: who else is there changes
nothing. No guarantee rests on it; the draw of ``privacy.unit: client`` is another one (``engine.client_unit``).
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from motet.asking import most_asked

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable


def coin(seed: int, round_index: int, attempt: int, client_id: str) -> float:
    """A client's number of one attempt, uniform in [0, 1)."""
    text = f"motet cohort/{seed}/{round_index}/{attempt}/{client_id}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def asked(
    able: Iterable[str],
    *,
    seed: int,
    round_index: int,
    attempt: int,
    draw_rate: float,
    minimum: int,
    over_select: float | None,
    busy: Collection[str] = (),
) -> tuple[str, ...]:
    """Draw an attempt's cohort.

    Args:
      able: clients that can take part.
      seed: of the recipe.
      round_index: the round.
      attempt: at it.
      draw_rate: each takes part with this probability, independently (a Poisson draw).
      minimum: where the coins give fewer, those with the lowest coins make up so many.
      over_select: see ``motet.asking.most_asked``; of those drawn the lowest coins.
      busy: clients still at work on an older order; they are asked last.

    Returns:
      client ids in order of name.
    """
    coins = {c: coin(seed, round_index, attempt, c) for c in able}
    by_coin = sorted(coins, key=lambda c: (coins[c], c))
    drawn = [c for c in by_coin if coins[c] < draw_rate]
    if len(drawn) < minimum:
        drawn = by_coin[:minimum]
    most = most_asked(minimum, over_select)
    if most is not None:
        drawn = sorted(drawn, key=lambda c: c in busy)[:most]
    return tuple(sorted(drawn))

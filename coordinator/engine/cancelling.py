"""Orders that are taken back: those of a cancelled run's open round, and those whose answer came to be of no use."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from motet.abandoned import order_key

if TYPE_CHECKING:
    from collections.abc import Iterable

    from coordinator.engine.grid import Grid
    from coordinator.storage.models import ContributionRow, RoundRow
    from coordinator.storage.store import Store

log = logging.getLogger(__name__)
CODE = "cancelled"
REASON = "the run was cancelled"


def tell_overtaken(grid: Grid, row: RoundRow, overtaken: Iterable[ContributionRow]) -> None:
    """Tell clients whose answer is not needed any more to abandon their order. Charges stay: they may have trained.

    Nothing rests on it: a client that does not hear it trains to its end, and its answer is counted as late. A start
    that finds the round still open tells them again.

    Args:
      grid: how clients are reached; one that can not be is told when it is back.
      row: the attempt at a round that has its minimum.
      overtaken: who has not answered in it; the books are closed on them.
    """
    for contribution in overtaken:
        grid.cancel(contribution.client_id, order_key(row.run_id, row.round_index, row.attempt))


def take_back_orders(grid: Grid, store: Store, run_id: str) -> None:
    """Tell each client with an open order of the run to abandon it, then close the books on it.

    Charges stay: a client may have trained. To do it twice is to do it once.

    Args:
      grid: how clients are reached; one that can not be is told when it is back.
      store: run state.
      run_id: of the run that is being cancelled.
    """
    for attempt in [r for r in store.rounds(run_id) if r.state == "PLANNED"]:
        asked = store.contributions(run_id, attempt.round_index, attempt.attempt)
        for contribution in [c for c in asked if c.state == "ORDERED"]:
            grid.cancel(contribution.client_id, order_key(run_id, attempt.round_index, attempt.attempt))
            store.reply_failed(
                run_id,
                attempt.round_index,
                attempt.attempt,
                contribution.client_id,
                code=CODE,
                message=REASON,
            )
        store.abort_round(run_id, attempt.round_index, attempt.attempt, REASON)
        log.info("run %s: round %s was taken back from its clients", run_id, attempt.round_index)

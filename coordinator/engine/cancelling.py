"""The end of a cancelled run's open round: its clients are told, and every open order is answered here."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from motet.abandoned import order_key

if TYPE_CHECKING:
    from coordinator.engine.grid import Grid
    from coordinator.storage.store import Store

log = logging.getLogger(__name__)
CODE = "cancelled"
REASON = "the run was cancelled"


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

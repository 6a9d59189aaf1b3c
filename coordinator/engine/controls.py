"""SCAFFOLD's mean control variate at the coordinator: what it becomes after a round, and what each client is told.

The arithmetic is ``aggregation.control``. The variate lies in the adapter state beside the model, so that it is stored,
sent and resumed with it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from aggregation.control import ControlTally, trained_values

if TYPE_CHECKING:
    from aggregation.adapter import AdapterState, ClientUpdate
    from aggregation.methods import Method
    from coordinator.storage.store import Store
    from motet.recipe import Recipe


class RoundControl:
    """The control variate through one round; does nothing in a run without.

    Args:
      recipe: of the run; with ``scaffold`` it names its clients (``motet.recipe.checks``).
      method: of the run.
    """

    def __init__(self, recipe: Recipe, method: Method) -> None:
        self._recipe, self._method, self._tally = recipe, method, ControlTally()
        self._num_clients = len(recipe.cohort.clients or ()) if recipe.training.algorithm == "scaffold" else 0

    @property
    def is_on(self) -> bool:
        """Whether the run keeps a variate."""
        return bool(self._num_clients)

    def see(self, update: ClientUpdate) -> None:
        """Count one client's update, which goes to the method as well."""
        for _ in self._tally.watch([update] if self._num_clients else []):
            pass

    def closed(self, state: AdapterState, before: AdapterState, round_index: int) -> AdapterState:
        """``state`` with the variate after the round.

        Raises:
          ValueError: more clients have passed by than the recipe names.
        """
        if not self._num_clients:
            return state
        start = trained_values(self._method.trained_part(before, round_index))
        rates = {k: self._recipe.learning_rate_of(round_index, head=k.startswith("dense/")) for k in start}
        control = self._tally.next_control(
            before.control,
            start,
            num_steps=self._recipe.training.local_steps,
            rates=rates,
            num_clients=self._num_clients,
        )
        return replace(state, control=control)


def counted_rounds(store: Store, run_id: str, round_index: int) -> dict[str, int]:
    """Client id -> one more than the last closed round before ``round_index`` that used its update, if one did."""
    closed = {(r.round_index, r.attempt) for r in store.closed_rounds(run_id) if r.round_index < round_index}
    return {
        row.client_id: row.round_index + 1
        for row in store.contributions(run_id)  # in the order of rounds: the last one stays
        if row.state == "RECEIVED" and (row.round_index, row.attempt) in closed
    }

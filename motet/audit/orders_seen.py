"""Which orders a client may have seen last: the last one that it answered with an update, and those after it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from privacy.ledger.entries import Order, Settle

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from privacy.ledger.entries import Body

_FIRST, _LAST = 8, 16  # of the orders that a client may have seen without an answer that settled


class OrdersSeen:
    """Follows a ledger entry by entry, and holds no more than it may be asked for."""

    def __init__(self) -> None:
        self._orders: dict[str, list[tuple[int, str]]] = {}  # client -> sequence and charge of each
        self._by_charge: dict[str, tuple[str, int]] = {}  # of those: charge -> client, sequence

    def take(self, sequence: int, body: Body) -> None:
        """The next entry of the ledger."""
        if isinstance(body, Order):
            self._orders.setdefault(body.client_id, []).append((sequence, body.reservation_id))
            self._by_charge[body.reservation_id] = body.client_id, sequence
        elif isinstance(body, Settle) and body.reservation_id in self._by_charge:
            client_id, ordered = self._by_charge[body.reservation_id]
            orders = self._orders[client_id]
            for at, charge in orders:
                if at < ordered:
                    self._by_charge.pop(charge, None)
            self._orders[client_id] = [(at, charge) for at, charge in orders if at >= ordered]

    def by_client(self) -> Mapping[str, Sequence[int]]:
        """Client -> sequences of its last settled order and of those after it; of many, the first and the last."""
        found = {client: [at for at, _ in orders] for client, orders in self._orders.items()}
        return {c: s if len(s) <= _FIRST + _LAST else [*s[:_FIRST], *s[-_LAST:]] for c, s in found.items()}

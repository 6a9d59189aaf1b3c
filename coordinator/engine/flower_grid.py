"""The engine's grid over a SuperLink: client ids stand for registered keys, orders travel as bytes."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from coordinator.engine.grid import GridClient, GridFailure
from motet.errors import MotetError
from motet.wire.codec import decode_reply, encode_order

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from coordinator.engine.flower_link import FlowerLink
    from coordinator.engine.flower_messages import Arrived
    from coordinator.storage.store import Store
    from motet.wire.messages import TrainOrder, TrainReply

log = logging.getLogger(__name__)


class FlowerGrid:
    """Registers the store's clients with the SuperLink and speaks to those that are online.

    After a restart no earlier message counts as known: the engine sends its orders again, and a client that
    had finished answers from its own disk with the same bytes.
    """

    def __init__(self, link: FlowerLink, store: Store) -> None:
        self._link, self._store = link, store
        self._nodes: dict[str, int] = {}
        self._keys: dict[str, bytes] = {}
        self._sent: set[str] = set()

    def online(self) -> Mapping[str, GridClient]:
        """Registered clients whose node answers its heartbeat."""
        rows = {row.client_id: row for row in self._store.clients()}
        new = [row for client_id, row in rows.items() if self._keys.get(client_id) != row.public_key]
        known = self._link.known_nodes() if new else {}
        for row in new:
            node = known.get(row.public_key) or self._link.register_node(row.public_key, row.client_id)
            self._nodes[row.client_id], self._keys[row.client_id] = node, row.public_key
        up = self._link.online_nodes()
        return {
            client_id: GridClient(client_id=client_id, capacity_class=row.capacity_class)
            for client_id, row in rows.items()
            if self._nodes[client_id] in up
        }

    def send(self, order: TrainOrder, *, deadline_s: float) -> str:
        """Push one order; the SuperLink stops delivering it after ``deadline_s``."""
        if order.client_id not in self._nodes:
            self.online()
        message_id = self._link.push(
            self._nodes[order.client_id],
            encode_order(order),
            group=f"{order.run_id}/{order.round_index}",
            ttl_s=deadline_s,
        )
        self._sent.add(message_id)
        return message_id

    def collect(self, message_ids: Sequence[str]) -> list[tuple[str, TrainReply | GridFailure]]:
        """Replies that arrived; what can not be decoded is a failure of that client."""
        arrived = self._link.pull([m for m in message_ids if m in self._sent])
        self._sent -= {a.message_id for a in arrived}
        return [(a.message_id, _read(a)) for a in arrived]

    def is_known(self, message_id: str) -> bool:
        """Only what this process sent and has not collected."""
        return message_id in self._sent

    def close(self) -> None:
        """End the carrier run."""
        self._link.close()


def _read(arrived: Arrived) -> TrainReply | GridFailure:
    if arrived.data is None:
        return GridFailure(code=arrived.code, message=arrived.reason)
    try:
        return decode_reply(arrived.data)
    except MotetError as e:
        return GridFailure(code="malformed_reply", message=e.message)

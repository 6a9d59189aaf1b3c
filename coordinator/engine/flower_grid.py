"""The engine's grid over a SuperLink: client ids stand for registered keys, orders travel as bytes."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from coordinator.engine.grid import GridClient, GridFailure
from motet.errors import MotetError
from motet.wire.codec import decode_reply, encode_order

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from coordinator.engine.flower_link import FlowerLink
    from coordinator.engine.flower_messages import Arrived
    from coordinator.storage.store import Store
    from motet.wire.messages import TrainOrder, TrainReply

log = logging.getLogger(__name__)
ASK_AFTER_S = 3.0  # without a reply; then after twice as long each time
QUESTION_TTL_S = 600.0


@dataclass(slots=True)
class _Sent:
    """A message under way, and the questions after it that are open."""

    node_id: int
    wait_s: float
    ask_at: float
    questions: list[str] = field(default_factory=list)


class FlowerGrid:
    """Registers the store's clients with the SuperLink and speaks to those that are online.

    After a restart no earlier message counts as known: the engine sends its orders again, and a client that
    had finished answers from its own disk with the same bytes.

    The SuperLink hands a message out once. A client that was killed right then, or whose network lost it, does not
    hold it: after ``ASK_AFTER_S`` without a reply the client is asked, and what it does not hold is no longer known
    here, so that the engine sends it again. A client at work answers when it is done with what came first.

    Args:
      link: to the SuperLink.
      store: of the registered clients.
      monotonic: seconds, for the questions.
    """

    def __init__(
        self, link: FlowerLink, store: Store, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._link, self._store, self._monotonic = link, store, monotonic
        self._nodes: dict[str, int] = {}
        self._keys: dict[str, bytes] = {}
        self._sent: dict[str, _Sent] = {}

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
        node_id = self._nodes[order.client_id]
        message_id = self._link.push(
            node_id,
            encode_order(order),
            group=f"{order.run_id}/{order.round_index}",
            ttl_s=deadline_s,
        )
        self._sent[message_id] = _Sent(node_id, ASK_AFTER_S, self._monotonic() + ASK_AFTER_S)
        return message_id

    def collect(self, message_ids: Sequence[str]) -> list[tuple[str, TrainReply | GridFailure]]:
        """Replies that arrived; what can not be decoded is a failure of that client."""
        open_ids = [m for m in message_ids if m in self._sent]
        asked = {q: m for m in open_ids for q in self._sent[m].questions}
        arrived = {a.message_id: a for a in self._link.pull([*open_ids, *asked])}
        replies = [(m, _read(arrived[m])) for m in open_ids if m in arrived]
        for message_id, _ in replies:
            del self._sent[message_id]
        for question, message_id in asked.items():
            if question in arrived and message_id in self._sent:
                self._hear(message_id, question, arrived[question])
        for message_id in open_ids:
            if message_id in self._sent:
                self._ask(message_id, self._sent[message_id])
        return replies

    def _ask(self, message_id: str, sent: _Sent) -> None:
        if self._monotonic() >= sent.ask_at:
            sent.questions.append(self._link.ask_after(sent.node_id, message_id, ttl_s=QUESTION_TTL_S))
            sent.wait_s *= 2
            sent.ask_at = self._monotonic() + sent.wait_s

    def _hear(self, message_id: str, question: str, answer: Arrived) -> None:
        self._sent[message_id].questions.remove(question)
        if answer.data == b"lost":
            log.warning("message %s did not reach its client; it is sent again", message_id[:12])
            del self._sent[message_id]

    def is_known(self, message_id: str) -> bool:
        """Only what this process sent, has not collected, and no client has called lost."""
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

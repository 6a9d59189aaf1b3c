"""The engine's grid over a SuperLink: client ids stand for registered keys, orders travel as bytes."""

from __future__ import annotations

import logging
import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from coordinator.engine.flower_link import NotTakenError
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
SEND_AGAIN_S = 0.5  # to a client that has not signed on yet


@dataclass(slots=True)
class _Sent:
    """An order under way: the message that carries it now, if one does, and the open questions after that one."""

    order: TrainOrder
    node_id: int
    until: float
    act_at: float = 0.0
    wait_s: float = 0.0
    carrier: str = ""
    questions: list[str] = field(default_factory=list)


class FlowerGrid:
    """Registers the store's clients with the SuperLink and speaks to those that are online.

    After a restart no earlier message counts as known: the engine sends its orders again, and a client that
    had finished answers from its own disk with the same bytes.

    An order is carried until it is answered. A SuperLink that has lost its memory takes nothing for a client before
    that has signed on again: the order is offered until it is taken. And it hands a message out once; a client that
    was killed right then, or whose network lost it, does not hold it: after ``ASK_AFTER_S`` without a reply the client
    is asked, and what it calls lost is sent again. A client at work answers when it is done with what came first.

    Args:
      link: to the SuperLink.
      store: of the registered clients.
      monotonic: seconds, for offers and questions.
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
        """Offer one order to the SuperLink, which stops delivering it after ``deadline_s``."""
        if order.client_id not in self._nodes:
            self.online()
        message_id = uuid.uuid4().hex
        sent = _Sent(order, self._nodes[order.client_id], self._monotonic() + deadline_s)
        self._carry(sent)
        self._sent[message_id] = sent
        return message_id

    def collect(self, message_ids: Sequence[str]) -> list[tuple[str, TrainReply | GridFailure]]:
        """Replies that arrived; what can not be decoded is a failure of that client."""
        under_way = {m: self._sent[m] for m in message_ids if m in self._sent}
        wanted = [id_ for sent in under_way.values() for id_ in (sent.carrier, *sent.questions) if id_]
        arrived = {a.message_id: a for a in self._link.pull(wanted)}
        replies = []
        for message_id, sent in under_way.items():
            if sent.carrier in arrived:
                replies.append((message_id, _read(arrived[sent.carrier])))
                del self._sent[message_id]
                continue
            self._hear(sent, arrived)
            if self._monotonic() >= sent.act_at:
                if sent.carrier:
                    self._ask(sent)
                else:
                    self._carry(sent)
        return replies

    def _carry(self, sent: _Sent) -> None:
        left_s = max(sent.until - self._monotonic(), 1.0)
        order = sent.order
        group = f"{order.run_id}/{order.round_index}"
        try:
            sent.carrier = self._link.push(sent.node_id, encode_order(order), group=group, ttl_s=left_s)
            sent.wait_s = ASK_AFTER_S
        except NotTakenError:
            if sent.node_id in self._link.online_nodes():
                raise
            sent.wait_s = SEND_AGAIN_S
        sent.act_at = self._monotonic() + sent.wait_s

    def _ask(self, sent: _Sent) -> None:
        left_s = max(sent.until - self._monotonic(), 1.0)
        sent.questions.append(self._link.ask_after(sent.node_id, sent.carrier, ttl_s=left_s))
        sent.wait_s *= 2
        sent.act_at = self._monotonic() + sent.wait_s

    def _hear(self, sent: _Sent, arrived: Mapping[str, Arrived]) -> None:
        answers = [arrived[q] for q in sent.questions if q in arrived]
        sent.questions = [q for q in sent.questions if q not in arrived]
        if any(answer.data == b"lost" for answer in answers):
            log.warning("an order did not reach client %s; it is sent again", sent.order.client_id)
            sent.carrier, sent.questions, sent.act_at = "", [], 0.0

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

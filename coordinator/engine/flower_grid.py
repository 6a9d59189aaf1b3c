"""The engine's grid over a SuperLink: client ids stand for registered keys, orders travel as bytes."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
import uuid
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from coordinator.engine.allowance import Allowance
from coordinator.engine.flower_link import NotTakenError
from coordinator.engine.grid import GridClient, GridFailure
from motet.abandoned import order_key
from motet.errors import MotetError
from motet.wire.codec import MAX_MESSAGE_BYTES, decode_reply, encode_order
from motet.wire.envelopes import EnvelopeError, open_reply
from motet.wire.messages import CANCEL, LEAVE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from coordinator.engine.flower_link import FlowerLink
    from coordinator.engine.flower_messages import Arrived
    from coordinator.storage.store import Store
    from motet.wire.messages import TrainOrder, TrainReply

log = logging.getLogger(__name__)
ASK_AFTER_S = 3.0  # without a reply; then after twice as long each time
QUESTIONS_AT_ONCE, QUESTIONS_A_SECOND = 8, 2.0  # of all clients: one costs as many calls as an order
CANCEL_FOR_S = 3600.0  # a client that is away that long has a deadline behind it
CANCEL_AGAIN_S = 10.0
SEND_AGAIN_S = 0.5  # to a client that has not signed on yet
REVOCATION_LOOK_S = 0.5
REMEMBERED = 64  # carriers of answered orders


@dataclass(slots=True)
class _Cancel:
    """A word to abandon an order that was not confirmed yet."""

    node_id: int
    data: bytes
    until: float
    act_at: float = 0.0
    question: str = ""


@dataclass(slots=True)
class _Sent:
    """An order under way: the message that carries it now, if one does, and the open questions after that one.

    ``key``: of the client when the order left. ``earlier``: carriers that were given up. ``is_past``: its run is
    further on; a reply may still come and is taken, but nobody is asked after it.
    """

    order: TrainOrder
    node_id: int
    key: bytes
    until: float
    order_sha256: str = ""
    earlier: list[str] = field(default_factory=list)
    act_at: float = 0.0
    wait_s: float = 0.0
    carrier: str = ""
    questions: list[str] = field(default_factory=list)
    is_taken_back: bool = False
    is_past: bool = False

    def lighten(self) -> None:
        """It is never sent again: what tells one order from another is kept, the adapter is not."""
        self.order = replace(self.order, payload=b"")


class FlowerGrid:
    """Registers the store's clients with the SuperLink and speaks to those that are online.

    After a restart no earlier message counts as known: the engine sends its orders again, and a client that
    had finished answers from its own disk with the same bytes.

    An order is carried until it is answered. A SuperLink that has lost its memory takes nothing for a client before
    that has signed on again: the order is offered until it is taken. And it hands a message out once; a client that
    was killed right then, or whose network lost it, does not hold it: after ``ASK_AFTER_S`` without a reply the client
    is asked, and what it calls lost is sent again. Of many silent clients a few are asked a second, in turn. A client
    at work answers when it is done with what came first. Once a run asks for a later round or attempt, nobody is asked
    after orders of before.

    A reply is taken out of its envelope only where the client's registered key signed it as an answer to this very
    order; nothing else is parsed. What comes to an order that is answered is compared with the answer: the same bytes
    again are a duplicate, others are an ``equivocation``, which is counted on the round.

    A client whose key was revoked is not online, its node is signed off, and what is under way to it fails as
    ``revoked``.

    Args:
      link: to the SuperLink.
      store: of the registered clients.
      federation: id that envelopes have to name.
      most_reply_bytes: how large the reply to an order may be; what is larger is not fetched to its end.
      monotonic: seconds, for offers and questions.
      now: seconds since 1970, for when clients were seen.
    """

    def __init__(
        self,
        link: FlowerLink,
        store: Store,
        *,
        federation: str,
        most_reply_bytes: Callable[[TrainOrder], int] = lambda _order: MAX_MESSAGE_BYTES,
        monotonic: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._link, self._store, self._monotonic, self._now = link, store, monotonic, now
        self._federation, self._most_reply_bytes = federation, most_reply_bytes
        self._revoked: frozenset[str] = frozenset()
        self._look_at = 0.0
        self._answered: OrderedDict[str, tuple[_Sent, str]] = (
            OrderedDict()
        )  # carrier -> order, hash of its answer
        self._nodes: dict[str, int] = {}
        self._keys: dict[str, bytes] = {}
        self._sent: dict[str, _Sent] = {}
        self._cancels: list[_Cancel] = []
        self._questions = Allowance(QUESTIONS_A_SECOND, QUESTIONS_AT_ONCE, monotonic)
        self._lock = threading.RLock()  # runs are threads
        self.online_at_last_look = 0
        self.online_clients: frozenset[str] = frozenset()
        self.last_online: Mapping[str, float] = {}

    def online(self) -> Mapping[str, GridClient]:
        """Registered clients whose node answers its heartbeat, and whose key is not revoked."""
        with self._lock:
            self._tend_cancels()
            return self._online()

    def _online(self) -> dict[str, GridClient]:
        self._look_for_revoked(is_due=True)
        rows = {row.client_id: row for row in self._store.clients() if row.client_id not in self._revoked}
        new = [row for client_id, row in rows.items() if self._keys.get(client_id) != row.public_key]
        known = self._link.known_nodes() if new else {}
        for row in new:
            self._sign_off(row.client_id)  # its earlier key, if it had one
            node = known.get(row.public_key) or self._link.register_node(row.public_key, row.client_id)
            self._nodes[row.client_id], self._keys[row.client_id] = node, row.public_key
        up = self._link.online_nodes()
        found = {
            client_id: GridClient(client_id=client_id, capacity_class=row.capacity_class)
            for client_id, row in rows.items()
            if self._nodes[client_id] in up
        }
        self.online_at_last_look = len(found)
        self.online_clients = frozenset(found)
        self._saw(found)
        return found

    def _saw(self, clients: Iterable[str]) -> None:
        self.last_online = {**self.last_online, **dict.fromkeys(clients, self._now())}

    def _look_for_revoked(self, *, is_due: bool) -> None:
        """Sign off the nodes of clients whose key is revoked, also before a restart."""
        if not is_due and self._monotonic() < self._look_at:
            return
        self._look_at = self._monotonic() + REVOCATION_LOOK_S
        revoked = self._store.identities.revoked_clients()
        for client_id in sorted(revoked - self._revoked):
            if client_id not in self._nodes:
                keys = {row.client_id: row.public_key for row in self._store.clients()}
                self._nodes[client_id] = self._link.known_nodes().get(keys.get(client_id, b""), 0)
            self._sign_off(client_id)
            log.warning(
                "client %s is revoked; it gets no orders, and its answers are refused",
                client_id,
                extra={"client_id": client_id},
            )
        self._revoked = revoked

    def _sign_off(self, client_id: str) -> None:
        node = self._nodes.pop(client_id, 0)
        self._keys.pop(client_id, None)
        if node:
            self._link.unregister_node(node)

    def send(self, order: TrainOrder, *, deadline_s: float) -> str:
        """Offer one order to the SuperLink, which stops delivering it after ``deadline_s``."""
        with self._lock:
            return self._offer(order, deadline_s)

    def _offer(self, order: TrainOrder, deadline_s: float) -> str:
        if order.client_id not in self._nodes:
            self.online()
        message_id = uuid.uuid4().hex
        node, key = self._nodes.get(order.client_id, 0), self._keys.get(order.client_id, b"")
        sent = _Sent(order, node, key, self._monotonic() + deadline_s)
        if not order.asks_leave:
            self._leave_behind(order)
        if order.client_id not in self._revoked:
            self._carry(sent)
        self._sent[message_id] = sent
        return message_id

    def _leave_behind(self, newest: TrainOrder) -> None:
        """The run is at this round and attempt: what it asked for before is past."""
        place = (newest.round_index, newest.attempt)
        for sent in self._sent.values():
            order = sent.order
            if order.run_id == newest.run_id and (order.round_index, order.attempt) < place:
                sent.is_past = not order.asks_leave
                if sent.is_past:
                    sent.lighten()

    def collect(self, message_ids: Sequence[str]) -> list[tuple[str, TrainReply | GridFailure]]:
        """Replies that arrived; what is not signed or can not be decoded is a failure of that client."""
        with self._lock:
            return self._collect(message_ids)

    def _collect(self, message_ids: Sequence[str]) -> list[tuple[str, TrainReply | GridFailure]]:
        under_way = {m: self._sent[m] for m in message_ids if m in self._sent}
        wanted = [
            id_
            for sent in under_way.values()
            for id_ in (sent.carrier, *sent.earlier, *sent.questions)
            if id_
        ]
        arrived = {a.message_id: a for a in self._link.pull([*wanted, *self._answered])}
        self._look_for_revoked(is_due=bool(arrived))
        self._compare(arrived)
        answered: list[str] = []
        replies: list[tuple[str, TrainReply | GridFailure]] = []
        for message_id, sent in under_way.items():
            came = [c for c in (sent.carrier, *sent.earlier) if c in arrived]
            if sent.order.client_id in self._revoked:
                replies.append(
                    (message_id, GridFailure(code="revoked", message="the client's key was revoked"))
                )
                del self._sent[message_id]
                continue
            if came:
                reply = self._opened(sent, arrived[came[0]])
                replies.append((message_id, reply))
                if not isinstance(reply, GridFailure):
                    answered.append(sent.order.client_id)
                del self._sent[message_id]
                self._remember(sent, came[0], arrived)
                continue
            self._hear(sent, arrived)
            if sent.is_past and not (sent.carrier or sent.earlier):
                replies.append(
                    (message_id, GridFailure(code="client_unreachable", message="the order never left"))
                )
                del self._sent[message_id]
        if answered:
            self._saw(answered)
        left = [sent for message_id, sent in under_way.items() if message_id in self._sent]
        for sent in sorted(left, key=lambda s: s.act_at):
            self._see_to(sent)
        return replies

    def _see_to(self, sent: _Sent) -> None:
        """Offer what was not taken; ask after what is silent. Who has been waited for longest comes first."""
        if sent.is_taken_back or sent.is_past or self._monotonic() < sent.act_at:
            return
        if not sent.carrier:
            self._carry(sent)
        elif self._questions.take():
            self._ask(sent)

    def _opened(self, sent: _Sent, arrived: Arrived) -> TrainReply | GridFailure:
        """The reply, if the client's key signed it as an answer to this order."""
        if arrived.data is None:
            return GridFailure(code=arrived.code, message=arrived.reason)
        try:
            return decode_reply(
                open_reply(sent.key, self._federation, sent.order, sent.order_sha256, arrived.data)
            )
        except EnvelopeError as e:
            log.warning(
                "a reply of client %s is refused: %s", sent.order.client_id, e.code, extra=_about(sent.order)
            )
            return GridFailure(code=e.code, message=e.message)
        except MotetError as e:
            return GridFailure(code="malformed_reply", message=e.message)

    def _remember(self, sent: _Sent, came: str, arrived: Mapping[str, Arrived]) -> None:
        """Other carriers of an answered order may still bring something."""
        digest = _digest(arrived[came])
        sent.lighten()
        for carrier in (sent.carrier, *sent.earlier):
            if carrier and carrier != came:
                self._answered[carrier] = (sent, digest)
        while len(self._answered) > REMEMBERED:
            self._answered.popitem(last=False)
        self._compare(arrived)

    def _compare(self, arrived: Mapping[str, Arrived]) -> None:
        for carrier in [c for c in self._answered if c in arrived]:
            sent, digest = self._answered.pop(carrier)
            again = arrived[carrier]
            if _digest(again) == digest or isinstance(self._opened(sent, again), GridFailure):
                continue
            order = sent.order
            log.warning(
                "client %s answered one order of run %s in two ways",
                order.client_id,
                order.run_id,
                extra=_about(order),
            )
            self._store.count(order.run_id, order.round_index, "equivocations")

    def cancel(self, client_id: str, key: str) -> None:
        """Send the word, and see to it that it arrives; what is under way of that order is not carried any further."""
        with self._lock:
            if client_id not in self._nodes:
                return
            for message_id, sent in list(self._sent.items()):
                order = sent.order
                if order.client_id == client_id and key == order_key(
                    order.run_id, order.round_index, order.attempt
                ):
                    sent.is_taken_back = True
                    if not sent.carrier:
                        self._sent.pop(message_id, None)  # it never left
            until = self._monotonic() + CANCEL_FOR_S
            self._cancels.append(_Cancel(self._nodes[client_id], CANCEL + key.encode(), until))
            self._tend_cancels()

    def _tend_cancels(self) -> None:
        """Send what was not taken or not answered again, until each is answered or too old."""
        answered = {a.message_id for a in self._link.pull([c.question for c in self._cancels if c.question])}
        now = self._monotonic()
        for message_id, sent in list(self._sent.items()):
            if sent.is_taken_back and now > sent.until + CANCEL_AGAIN_S:
                self._sent.pop(message_id, None)  # nobody asks for its answer
        self._cancels = [c for c in self._cancels if c.question not in answered and now < c.until]
        for cancel in self._cancels:
            if now >= cancel.act_at:
                cancel.act_at = now + CANCEL_AGAIN_S
                try:
                    cancel.question = self._link.ask(cancel.node_id, cancel.data, ttl_s=CANCEL_FOR_S)
                except NotTakenError:
                    cancel.question = ""  # it has not signed on

    def _carry(self, sent: _Sent) -> None:
        left_s = max(sent.until - self._monotonic(), 1.0)
        order = sent.order
        group = f"{order.run_id}/{order.round_index}"
        try:
            data = encode_order(order)
            sent.order_sha256 = hashlib.sha256(data).hexdigest()
            if order.asks_leave:
                sent.carrier = self._link.ask(sent.node_id, LEAVE + data, ttl_s=left_s)
            else:
                sent.carrier = self._link.push(sent.node_id, data, group=group, ttl_s=left_s)
            self._link.expect(sent.carrier, self._most_reply_bytes(order))
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
            log.warning(
                "an order did not reach client %s; it is sent again",
                sent.order.client_id,
                extra=_about(sent.order),
            )
            sent.earlier.append(sent.carrier)
            sent.carrier, sent.questions, sent.act_at = "", [], 0.0

    def is_known(self, message_id: str) -> bool:
        """Only what this process sent and has not collected."""
        return message_id in self._sent

    def close(self) -> None:
        """End the carrier run."""
        self._link.close()


def _digest(arrived: Arrived) -> str:
    return hashlib.sha256(arrived.data or b"").hexdigest()


def _about(order: TrainOrder) -> dict[str, object]:
    """Fields of a log line about an order."""
    return {"run_id": order.run_id, "round_index": order.round_index, "client_id": order.client_id}

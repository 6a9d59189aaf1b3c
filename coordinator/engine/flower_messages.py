"""Bytes as Flower messages: in parts below the gateway's limit, and as replies that arrive part by part."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, PullObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from motet.wire.codec import MAX_MESSAGE_BYTES

if TYPE_CHECKING:
    from flwr.proto.message_pb2 import Message as MessageHead
    from flwr.proto.message_pb2 import ObjectTree
    from flwr.supercore.runtime import RuntimeHttpClient

log = logging.getLogger(__name__)
PART_BYTES = 4 << 20  # one record a part: below the gateway's limit on a body
OBJECTS_BESIDE = 8  # of a reply, beside its parts: the message, its records, and some for a Flower to come
NOT_ONLINE = "the client is not online: its signs of life stopped"
_CODES = {
    ErrorCode.CLIENT_APP_RAISED_EXCEPTION: "client_crashed",
    ErrorCode.INVALID_FAB: "bundle_refused",
}


def split(data: bytes) -> RecordDict:
    """Bytes as records of at most ``PART_BYTES``."""
    parts = [data[i : i + PART_BYTES] for i in range(0, len(data), PART_BYTES)] or [b""]
    return RecordDict({f"part-{i:05d}": ConfigRecord({"data": part}) for i, part in enumerate(parts)})


def join(content: RecordDict) -> bytes:
    """The bytes of ``split``.

    Raises:
      ValueError: the records are not parts.
      KeyError: a record has no data.
    """
    parts = [content[name]["data"] for name in sorted(content)]
    data = [p for p in parts if isinstance(p, bytes)]
    if len(data) != len(parts):
        raise ValueError("records are not parts of one message")
    return b"".join(data)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrived:
    """A reply or an error to the message ``message_id``; ``data`` is None for an error.

    ``code`` then is ``client_crashed``, ``bundle_refused``, ``malformed_reply`` or ``client_unreachable``, and
    ``reason`` says what happened.
    """

    message_id: str
    data: bytes | None
    code: str = ""
    reason: str = ""


class IncomingReply:
    """A reply that a client has announced; its objects follow one by one, or never.

    Flower's own grid waits for them, up to three minutes if the client died meanwhile, and everybody else waits
    with it. Here a look takes what is there and returns.

    Args:
      head: the announcement.
      tree: ids of the objects that the reply consists of.
      run_id: the carrier run.
      most_bytes: of all its objects; with more it is given up, at the first object too many. One that has more objects
        than so many bytes have parts is given up at once: each costs a call, and everybody else waits meanwhile.
    """

    def __init__(
        self, head: MessageHead, tree: ObjectTree, run_id: int, *, most_bytes: int | None = None
    ) -> None:
        self._most_bytes = MAX_MESSAGE_BYTES if most_bytes is None else most_bytes
        self._reply_id, self._message_id = head.metadata.message_id, head.metadata.reply_to_message_id
        self._run_id = run_id
        self._missing = list(dict.fromkeys(node.object_id for node in iterate_object_tree(tree)))
        self._contents: dict[str, bytes] = {}
        self._num_bytes = 0

    def look(self, runtime: RuntimeHttpClient) -> Arrived | None:
        """Take what has been uploaded by now; the outcome once nothing is missing, else None."""
        node = Node(node_id=SUPERLINK_NODE_ID)
        if len(self._missing) > self._most_bytes // PART_BYTES + OBJECTS_BESIDE:
            return self._failed("malformed_reply", "the reply consists of more parts than its size needs")
        while self._missing:
            object_id = self._missing[0]
            answer = runtime.PullObject(
                PullObjectRequest(node=node, run_id=self._run_id, object_id=object_id)
            )
            if not answer.object_found:
                return self._failed("client_unreachable", "the client did not upload all of its reply")
            if not answer.object_available:
                return None
            self._contents[object_id] = answer.object_content
            self._num_bytes += len(answer.object_content)
            if self._num_bytes > self._most_bytes:
                return self._failed("malformed_reply", f"the reply is larger than {self._most_bytes} bytes")
            del self._missing[0]
        runtime.ConfirmMessageReceived(
            ConfirmMessageReceivedRequest(node=node, run_id=self._run_id, message_object_id=self._reply_id)
        )
        return self._opened()

    def _opened(self) -> Arrived:
        try:
            message = inflate_object_from_contents(self._reply_id, self._contents)
            if not isinstance(message, Message):
                return self._failed("malformed_reply", "the reply is no message")
            if message.has_error():
                code = _CODES.get(message.error.code, "client_unreachable")
                told = message.error.reason or f"Flower error {message.error.code}"
                is_gone = message.error.code == ErrorCode.NODE_UNAVAILABLE
                return self._failed(code, NOT_ONLINE if is_gone else told)
            return Arrived(message_id=self._message_id, data=join(message.content))
        except Exception as e:  # noqa: BLE001 - a stranger's bytes in Flower's parsers: whatever they raise is his fault
            return self._failed("malformed_reply", f"the reply can not be read: {type(e).__name__}")

    def _failed(self, code: str, reason: str) -> Arrived:
        return Arrived(message_id=self._message_id, data=None, code=code, reason=reason)

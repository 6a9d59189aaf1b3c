"""A client's side of Flower 1.41: the only module here that names Flower's private parts.

One process, no flower-supernode, no code from the network. At least once: a message is journalled before the
work and the SuperLink keeps its copy until the reply is stored there, so a killed client takes the same
message up again. The SuperLink hands a message out once, and what is lost on the way to the journal (a client
killed in those milliseconds, an answer that the network dropped) it never hands out again: so the coordinator asks
after orders that stay without a reply, and is told ``held`` or ``lost``, and sends what was lost again.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from flwr.app import ConfigRecord, Error, Message, MessageType, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.constant import ErrorCode
from flwr.common.serde import message_from_proto, message_to_proto, run_from_proto
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PullMessagesResponse,
    PushMessagesRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.node_pb2 import Node
from flwr.proto.run_pb2 import GetRunRequest
from flwr.supercore.inflatable.inflatable_object import (
    UnexpectedObjectContentError,
    get_all_nested_objects,
    get_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_protobuf_utils import (
    make_confirm_message_received_fn_protobuf,
    make_pull_object_fn_protobuf,
    make_push_object_fn_protobuf,
)
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    ObjectPushError,
    ObjectUnavailableError,
    pull_and_inflate_object_from_tree,
    push_objects,
)
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.retry import RetryInvoker, RetryState, exponential
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from client.errors import ClientError
from client.pace import Pace
from client.whoami import heard
from motet.abandoned import Abandoned
from motet.durable import write_whole
from motet.wire.messages import CANCEL, LEAVE

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger(__name__)
ACTIVATE_RETRY_S = 2.0
PART_BYTES = 4 << 20
REMEMBERED = 64  # messages taken up, for questions after them
STOP_LOOK_S = 0.2  # an idle client looks so often whether it is to end
LISTENER_END_S = 3.0
REFUSED_LONG_S = 30.0  # a coordinator that starts has registered its clients by then
NOT_YET_IN = "the coordinator does not admit this client yet (%s); trying again"
STILL_OUT = (
    "the coordinator still does not admit this client (%s): its key was revoked, or it was never registered; "
    "ask the operator, who sees it in: motet ca list. Trying again"
)
UPLOAD_LOOK_S = 0.1  # a message is offered before its parts are there; flwr looks again after a second

_GONE = (
    ObjectPullError,
    ObjectPushError,
    ObjectUnavailableError,
)  # parts of an order, or the time to send a reply

Answer = Callable[[bytes], bytes]


def _may_go_well_again(error: Exception) -> bool:
    """Whether the network or the SuperLink failed, and did not refuse."""
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code >= 500
    return isinstance(error, httpx.HTTPError)


def why(error: Exception) -> str:
    """An error of a call in few words: its status, or its kind. Its text may run over several lines."""
    return (
        f"HTTP {error.response.status_code}"
        if isinstance(error, httpx.HTTPStatusError)
        else type(error).__name__
    )


class NotAdmittedError(ClientError):
    """The coordinator does not know this client's key."""

    exit_code = 7
    code = "not_admitted"


class Journal:
    """The messages that were taken up and are not answered (headers and object trees, a few kB), kept across a crash.

    Safe for two threads of one process.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()

    def load(self) -> list[tuple[Message, Any]]:
        """The unfinished messages of an earlier process, in the order in which they came."""
        with self._lock:
            stored = self._stored()
        heads = [message_from_proto(m) for m in stored.messages_list]
        return list(zip(heads, stored.message_object_trees, strict=True))

    def add(self, message: Message, tree: Any) -> None:  # noqa: ANN401 - Flower's protobuf
        """Durable when this returns."""
        with self._lock:
            stored = self._stored()
            stored.messages_list.append(message_to_proto(message))
            stored.message_object_trees.append(tree)
            self._save(stored)

    def remove(self, message_id: str) -> None:
        """The message is answered."""
        with self._lock:
            stored = self._stored()
            pairs = list(zip(stored.messages_list, stored.message_object_trees, strict=True))
            left = [(m, t) for m, t in pairs if m.metadata.message_id != message_id]
            if not left:
                self._path.unlink(missing_ok=True)
                return
            self._save(
                PullMessagesResponse(
                    messages_list=[m for m, _ in left], message_object_trees=[t for _, t in left]
                )
            )

    def _stored(self) -> PullMessagesResponse:
        if not self._path.exists():
            return PullMessagesResponse()
        return PullMessagesResponse.FromString(self._path.read_bytes())

    def _save(self, stored: PullMessagesResponse) -> None:
        write_whole(self._path, stored.SerializeToString())


class FleetLink:
    """Fleet calls of one node. A restart goes on with the old session by heartbeat.

    Args:
      address: ``host:port`` of the gateway.
      ca: PEM of the federation's authority.
      key_pem: this client's private key (P-384), PEM.
      state_dir: remembers the node id.
      stop: set to end all waiting.
    """

    def __init__(
        self, address: str, ca: bytes, key_pem: bytes, state_dir: Path, stop: threading.Event
    ) -> None:
        private = load_pem_private_key(key_pem, None)
        if not isinstance(private, ec.EllipticCurvePrivateKey):
            raise NotAdmittedError(
                "the client's key is no elliptic-curve key", hint="make one: motet client init"
            )
        self._public = public_key_to_bytes(private.public_key())
        self._id_file = state_dir / "node-id"
        self._stop = stop
        self._node_id = 0
        self._is_lost = False
        self.pace = Pace()
        self._client = FleetHttpClient.from_server_address(
            address,
            False,
            ca,
            interceptors=[
                RuntimeVersionHttpInterceptor(component_name="SuperNode"),
                NodeAuthHttpInterceptor(private, private.public_key()),
                self.pace,
            ],
            retry_invoker=self._retry(),
        )

    def _retry(self) -> RetryInvoker:
        def give_up(error: Exception) -> bool:
            status = isinstance(error, httpx.HTTPStatusError) and error.response.status_code not in (
                502,
                503,
                504,
            )
            return status or self._stop.is_set()

        return RetryInvoker(
            lambda: exponential(max_delay=3),
            (httpx.TransportError, httpx.HTTPStatusError),
            max_tries=None,
            max_time=None,
            on_backoff=self._say_lost,
            on_success=self._say_back,
            should_giveup=give_up,
            wait_function=self._wait,
        )

    def _wait(self, seconds: float) -> None:
        self._stop.wait(seconds)

    def _say_lost(self, _state: RetryState) -> None:
        if not self._is_lost:
            self._is_lost = True
            log.warning("the coordinator does not answer; trying again until it does")

    def _say_back(self, _state: RetryState) -> None:
        if self._is_lost:
            self._is_lost = False
            log.warning("the coordinator answers again")

    def __enter__(self) -> Self:
        self._node_id = self._remembered_id()
        if not (self._node_id and self._beat()):
            self._activate()
        threading.Thread(target=self._heartbeat, daemon=True, name="fleet-heartbeat").start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        try:
            self._client.DeactivateNode(DeactivateNodeRequest(node_id=self._node_id))
        except (httpx.HTTPError, RuntimeError):
            log.info("the node was not signed off; it counts as offline soon")

    @property
    def node_id(self) -> int:
        """This node, as the SuperLink numbers it."""
        return self._node_id

    def _remembered_id(self) -> int:
        """The node of an earlier process; 0, which is none, where the file can not be read: it signs on anew."""
        try:
            return int(self._id_file.read_text())
        except (OSError, ValueError):
            return 0

    def _remember_id(self) -> None:
        """For the next process. A disk that does not take it costs a new sign-on then; it does not end a heartbeat."""
        try:
            write_whole(self._id_file, str(self._node_id).encode())
        except OSError as e:
            log.warning("%s can not be written: %s", self._id_file, e.strerror)

    def _activate(self) -> None:
        """Sign on; waits while an old session still counts as online or the key is not registered yet."""
        began, told = time.monotonic(), 0
        while not self._stop.is_set():
            try:
                request = ActivateNodeRequest(
                    public_key=self._public, heartbeat_interval=self.pace.told_heartbeat_s()
                )
                self._node_id = int(self._client.ActivateNode(request).node_id)
                self._remember_id()
                heard(self._id_file.parent)
                return
            except (httpx.HTTPError, RuntimeError) as e:
                is_long = time.monotonic() - began >= REFUSED_LONG_S
                if told <= is_long and not self._stop.is_set():
                    log.warning(STILL_OUT if is_long else NOT_YET_IN, why(e))
                    told = 1 + is_long
                self._stop.wait(self.pace.spread(ACTIVATE_RETRY_S))

    def _beat(self) -> bool:
        try:
            request = SendNodeHeartbeatRequest(
                node=Node(node_id=self._node_id), heartbeat_interval=self.pace.told_heartbeat_s()
            )
            is_known = bool(self._client.SendNodeHeartbeat(request).success)
        except (httpx.HTTPError, RuntimeError):
            return False
        if is_known:
            heard(self._id_file.parent)
        return is_known

    def _heartbeat(self) -> None:
        while not self._stop.wait(self.pace.next_heartbeat_s()):
            if not self._beat() and not self._stop.is_set():
                self._activate()

    def _node(self) -> Node:
        return Node(node_id=self._node_id)

    def receive(self) -> tuple[Message, Any] | None:
        """The next message's header and object tree, or None."""
        answer = self._client.PullMessages(PullMessagesRequest(node=self._node()))
        if not answer.messages_list:
            return None
        return message_from_proto(answer.messages_list[0]), answer.message_object_trees[0]

    def bundle_sha256(self, run_id: int) -> str:
        """The hash of the bundle that a carrier run claims."""
        run = run_from_proto(self._client.GetRun(GetRunRequest(node=self._node(), run_id=run_id)).run)
        return str(run.fab_hash)

    def content(self, run_id: int, tree: Any) -> Message:  # noqa: ANN401 - Flower's protobuf
        """The whole message; the SuperLink keeps its copy."""
        pull = make_pull_object_fn_protobuf(self._client.PullObject, self._node(), run_id)
        message = pull_and_inflate_object_from_tree(
            tree, pull, lambda _id: None, return_type=Message, initial_backoff=UPLOAD_LOOK_S
        )
        message.metadata.__dict__["_message_id"] = tree.object_id
        return message

    def send(self, reply: Message, run_id: int, seconds: float) -> None:
        """Store a reply at the SuperLink."""
        reply.metadata.__dict__["_message_id"] = reply.object_id
        with no_object_id_recompute():
            tree = get_object_tree(reply)
            answer = self._client.PushMessages(
                PushMessagesRequest(
                    node=self._node(),
                    messages_list=[message_to_proto(remove_content_from_message(reply))],
                    message_object_trees=[tree],
                    clientapp_runtime_list=[seconds],
                )
            )
            push = partial(_push, self._client, self._node(), run_id, answer.session_id)
            push_objects(get_all_nested_objects(reply), push, object_ids_to_push=set(answer.objects_to_push))

    def confirm(self, run_id: int, tree: Any) -> None:  # noqa: ANN401 - Flower's protobuf
        """Let the SuperLink drop its copy of an answered message."""
        make_confirm_message_received_fn_protobuf(self._client.ConfirmMessageReceived, self._node(), run_id)(
            tree.object_id
        )


def _push(
    client: FleetHttpClient, node: Node, run_id: int, session: str, object_id: str, content: bytes
) -> None:
    make_push_object_fn_protobuf(client.PushObject, node, run_id, session)(object_id, content)


def split(data: bytes) -> RecordDict:
    """Bytes as records of at most ``PART_BYTES``."""
    parts = [data[i : i + PART_BYTES] for i in range(0, len(data), PART_BYTES)] or [b""]
    return RecordDict({f"part-{i:05d}": ConfigRecord({"data": part}) for i, part in enumerate(parts)})


def join(content: RecordDict) -> bytes:
    """The bytes of ``split``."""
    parts = [content[name]["data"] for name in sorted(content)]
    return b"".join(p for p in parts if isinstance(p, bytes))


class FleetWorker:
    """Works on orders one at a time, and answers questions meanwhile; only of runs with the pinned bundle.

    A thread of its own takes messages: orders wait for their turn in the journal, questions are answered at once:
    whether an order is held, whether a run may take part, and that an order is taken back.

    Args:
      link: the node's calls.
      answer: order bytes to reply bytes; facts of the world are replies. What it raises is a fault, which is
        reported without its text: that may quote data. It is called for a question for leave beside an order.
      pinned: sha256 of the one bundle that is accepted.
      state_dir: holds the journal and the marks of orders that were taken back.
      stop: ends the loop.
    """

    def __init__(
        self, link: FleetLink, answer: Answer, pinned: str, state_dir: Path, stop: threading.Event
    ) -> None:
        self._link, self._answer, self._pinned, self._stop = link, answer, pinned, stop
        self._journal = Journal(state_dir / "in-flight.pb")
        self._abandoned = Abandoned(state_dir)
        self._bundles: dict[int, str] = {}
        self._taken: deque[str] = deque(maxlen=REMEMBERED)
        self._orders: queue.SimpleQueue[tuple[Message, Any]] = queue.SimpleQueue()
        self._look_soon = threading.Event()
        self._fault: Exception | None = None
        TaskIdentity.node_id, TaskIdentity.task_id = link.node_id, 0

    def loop(self) -> None:
        """Work until ``stop``; faults of the network are waited out."""
        for item in self._journal.load():
            self._enqueue(*item)
        listener = threading.Thread(target=self._listen_or_tell, daemon=True, name="fleet-listener")
        listener.start()
        try:
            while not self._stop.is_set():
                try:
                    item = self._orders.get(timeout=STOP_LOOK_S)
                except queue.Empty:
                    if self._fault is not None:
                        raise self._fault from None
                    continue
                self._work(*item)
        finally:
            self._look_soon.set()
            listener.join(LISTENER_END_S if self._stop.is_set() else 0.0)

    def _work(self, head: Message, tree: Any) -> None:  # noqa: ANN401 - Flower's protobuf
        self._handle_or_drop(head, tree)
        if not self._stop.is_set():
            self._journal.remove(head.metadata.message_id)
        self._look_soon.set()

    def _enqueue(self, head: Message, tree: Any) -> None:  # noqa: ANN401 - Flower's protobuf
        self._taken.append(tree.object_id)
        self._orders.put((head, tree))

    def _listen_or_tell(self) -> None:
        """A fault of this thread ends the client as one of the main thread would; it is not left deaf."""
        try:
            self._listen()
        except Exception as e:  # noqa: BLE001 - raised in the main thread
            self._fault = e

    def _listen(self) -> None:
        """Take messages until ``stop``: often after a message or an answer, more seldom the longer nothing comes."""
        pace = self._link.pace
        is_refused = False
        while not self._stop.is_set():
            try:
                item = self._link.receive()
                is_refused = False
            except (httpx.HTTPError, RuntimeError) as e:
                if not (is_refused or self._stop.is_set()):
                    log.warning("the coordinator gives this client no messages (%s); trying again", why(e))
                item, is_refused = None, True
            if item is None:
                if self._look_soon.wait(pace.next_wait_s()):
                    pace.worked()
                self._look_soon.clear()
                continue
            pace.worked()
            if item[0].metadata.message_type == MessageType.QUERY:
                self._handle_or_drop(*item)
            else:
                self._journal.add(*item)
                self._enqueue(*item)

    def _handle_or_drop(self, head: Message, tree: Any) -> None:  # noqa: ANN401 - Flower's protobuf
        try:
            self._handle(head, tree)
        except _GONE as e:
            # Answered before a crash, over, or stopped for long within its upload: where an answer is still wanted the
            # coordinator asks, is told ``lost``, and sends the order again.
            with suppress(ValueError):
                self._taken.remove(tree.object_id)
            log.warning("message %s is gone: %s", head.metadata.message_id[:12], type(e).__name__)
        except (
            httpx.HTTPError,
            RuntimeError,
            ValueError,
            KeyError,
            TypeError,
            OSError,
            UnexpectedObjectContentError,
        ) as e:
            # The run is over, the payload is gone, or the SuperLink refused: drop the message and stay alive. What the
            # network or the SuperLink failed at is not held: asked after, it is sent again.
            if _may_go_well_again(e):
                with suppress(ValueError):
                    self._taken.remove(tree.object_id)
            log.warning("message %s dropped: %s", head.metadata.message_id[:12], why(e))

    def _handle(self, head: Message, tree: Any) -> None:  # noqa: ANN401 - Flower's protobuf
        run_id = head.metadata.run_id
        if run_id not in self._bundles:
            self._bundles[run_id] = self._link.bundle_sha256(run_id)
        TaskIdentity.run_id = run_id
        if self._bundles[run_id] != self._pinned:
            reason = f"bundle {self._bundles[run_id][:12]} is not the one that this client pins"
            reply = Message(Error(ErrorCode.INVALID_FAB, reason), reply_to=head)
        else:
            message = self._link.content(run_id, tree)
            is_question = head.metadata.message_type == MessageType.QUERY
            said = self._told(message) if is_question else self._worked(message)
            reply = Message(said if isinstance(said, Error) else split(said), reply_to=message)
        self._link.send(reply, run_id, 0.0)
        self._link.confirm(run_id, tree)

    def _told(self, question: Message) -> bytes | Error:
        """What the coordinator asks beside orders; see ``docs/adr/0011-questions-beside-orders.md``."""
        asked = join(question.content)
        if asked.startswith(CANCEL):
            self._abandoned.mark(asked.removeprefix(CANCEL).decode(errors="replace")[:200])
            return b"cancelled"
        if asked.startswith(LEAVE):
            self._taken.append(question.metadata.message_id)
            return self._worked(question, asked.removeprefix(LEAVE))
        return b"held" if asked.decode(errors="replace") in self._taken else b"lost"

    def _worked(self, message: Message, order: bytes | None = None) -> bytes | Error:
        """The reply. A fault in the work is told by its kind alone; the next message is taken all the same."""
        try:
            return self._answer(join(message.content) if order is None else order)
        except Exception as e:
            log.exception("the work on message %s failed", message.metadata.message_id[:12])
            return Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, f"{type(e).__name__} in the client")

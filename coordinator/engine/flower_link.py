"""The coordinator's side of Flower 1.41: beside ``flower_messages``, the only module here with Flower's private parts.

The SuperLink runs in process isolation. The coordinator itself claims the task of one carrier run, keeps its
lease alive, and pushes and pulls messages through Flower's grid from its own threads; several Motet runs may
share the carrier. No flower-superexec, no flwr-serverapp, no code on the wire: the bundle is an inert marker
whose hash clients pin.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
from flwr.app import MessageType, Metadata
from flwr.app.message import make_message
from flwr.cli.build import build_fab_from_disk
from flwr.common.constant import SUPERLINK_NODE_ID, Status
from flwr.common.serde import fab_to_proto, user_config_to_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    UnregisterNodeRequest,
)
from flwr.proto.runtime_pb2 import (
    AcquireTaskRequest,
    PullAppMessagesRequest,
    PullTaskInputRequest,
    PushTaskOutputRequest,
    SendTaskHeartbeatRequest,
)
from flwr.supercore.constant import NodeStatus, TaskType
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.fab import Fab
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor, SuperExecAuthHttpInterceptor
from flwr.supercore.retry import RetryInvoker, exponential
from flwr.supercore.run import Run
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.superlink.grid import HttpGrid

from coordinator.engine.flower_messages import Arrived, IncomingReply, split
from motet.errors import MotetError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

log = logging.getLogger(__name__)
HEARTBEAT_S = 10.0  # a lease lasts 60 s after a heartbeat
CLAIM_POLL_S = 0.15
MOST_EXPECTED = 10_000  # messages without a reply whose size is remembered


class LinkError(MotetError):
    """The SuperLink can not be reached, or refused."""

    exit_code = 7


class NotTakenError(LinkError):
    """The SuperLink took no message for this node: it has never signed on, or the message is refused."""


def marker_app_dir() -> Path:
    """The inert bundle: ``fab/`` of the repository, or its copy beside the installed packages."""
    here = Path(__file__).resolve()
    return next(
        p for p in (here.parents[2] / "fab", here.parent / "marker_app") if (p / "pyproject.toml").exists()
    )


def marker_sha256() -> str:
    """The hash of the bundle; clients accept messages of runs with this bundle only."""
    return hashlib.sha256(build_fab_from_disk(marker_app_dir())).hexdigest()


def _end_earlier_runs(control: ControlHttpClient) -> None:
    """Stop the carrier runs of coordinators that were killed.

    A client that waits for the rest of a message whose sender died half way through is let go by it at once.
    """
    for run_id, run in control.ListRuns(ListRunsRequest()).run_dict.items():
        if run.status.status != Status.FINISHED:
            control.StopRun(StopRunRequest(run_id=run_id))
            log.info("carrier run %s of an earlier coordinator was ended", run_id)


class FlowerLink:
    """The private side of a SuperLink: control, the carrier run's lease, and messages.

    Every method raises ``LinkError`` when the SuperLink does not answer for two minutes, or refuses.

    Args:
      address: ``host:port`` of the SuperLink, on loopback.
      secret: shared with the SuperLink for task acquisition.
      ca: PEM of the certificate authority; None without TLS.
      is_over: asked before each further try; True gives up at once.
    """

    def __init__(
        self, address: str, secret: bytes, ca: bytes | None, *, is_over: Callable[[], bool] = lambda: False
    ) -> None:
        self._address, self._secret, self._ca, self._is_over = address, secret, ca, is_over
        self._stop, self.lost = threading.Event(), threading.Event()
        self._grid: HttpGrid | None = None
        self._run_id = 0
        self._lock = threading.Lock()
        self._most_bytes: dict[str, int] = {}
        self._incoming: dict[str, IncomingReply] = {}  # by the id of the message that is answered

    def known_nodes(self) -> dict[bytes, int]:
        """Node ids by public key, of all keys that the SuperLink has admitted, also before a restart."""
        with _as_link_errors("list its nodes"), self._control() as control:
            nodes = control.ListNodes(ListNodesRequest()).nodes_info
        return {bytes(n.public_key): int(n.node_id) for n in nodes if n.status != NodeStatus.UNREGISTERED}

    def register_node(self, public_key: bytes, name: str) -> int:
        """Admit a client's key that is not known yet; returns its node id."""
        with _as_link_errors(f"admit the key of client {name}"), self._control() as control:
            request = RegisterNodeRequest(public_key=public_key, name=name)
            return int(control.RegisterNode(request).node_id)

    def unregister_node(self, node_id: int) -> None:
        """Sign a node off for good: the SuperLink refuses its calls from now on. A node that is off stays off."""
        with _as_link_errors("sign a node off"), self._control() as control:
            try:
                control.UnregisterNode(UnregisterNodeRequest(node_id=node_id))
            except httpx.HTTPStatusError as e:
                if e.response.status_code not in (404, 409):
                    raise

    def open(self, timeout_s: float = 60.0) -> None:
        """Submit a carrier run, claim its task, start the heartbeat.

        Raises:
          LinkError: the SuperLink offered no task in time.
        """
        with _as_link_errors("open a carrier run"):
            self._open(timeout_s)
        threading.Thread(target=self._keep_lease, daemon=True, name="flower-lease").start()

    def _open(self, timeout_s: float) -> None:
        fab = build_fab_from_disk(marker_app_dir())
        bundle = fab_to_proto(Fab(hashlib.sha256(fab).hexdigest(), fab, {}))
        with self._control() as control:
            _end_earlier_runs(control)
            self._run_id = control.StartRun(
                StartRunRequest(fab=bundle, override_config=user_config_to_proto({}))
            ).run_id
        token = self._claim(self._run_id, timeout_s)
        grid = HttpGrid(self._address, self._ca is None, self._ca, token=token)
        grid._retry_invoker = patient_retry(self._is_over)  # noqa: SLF001 - flwr's own sends SIGINT to us on a 401
        grid.set_run(Run.create_empty(self._run_id))
        grid._runtime_client.PullTaskInput(PullTaskInputRequest())  # noqa: SLF001
        self._grid = grid

    def close(self) -> None:
        """End the carrier run."""
        self._stop.set()
        if self._grid is not None:
            try:
                self._grid._runtime_client.PushTaskOutput(  # noqa: SLF001
                    PushTaskOutputRequest(sub_status="completed", details="")
                )
                self._grid.close()
            except (httpx.HTTPError, RuntimeError):
                log.info("the carrier run was not closed; it ends by itself")

    def online_nodes(self) -> set[int]:
        """Ids of nodes that the SuperLink can reach now."""
        with _as_link_errors("list the nodes that are online"):
            return {int(node) for node in self._open_grid().get_node_ids()}

    def ask_after(self, node_id: int, message_id: str, *, ttl_s: float) -> str:
        """Ask a node whether it holds a message; the reply is ``held`` or ``lost``. Returns the question's id."""
        return self.ask(node_id, message_id.encode(), ttl_s=ttl_s)

    def ask(self, node_id: int, data: bytes, *, ttl_s: float) -> str:
        """Send a question, which a node answers also while it works; returns its id.

        Raises:
          NotTakenError: as ``push``.
        """
        return self._push(node_id, data, "", ttl_s, MessageType.QUERY)

    def push(self, node_id: int, data: bytes, *, group: str, ttl_s: float) -> str:
        """Send bytes to a node; returns the message's id.

        Raises:
          NotTakenError: the node has not signed on to this SuperLink, or the message is refused.
        """
        return self._push(node_id, data, group, ttl_s, MessageType.TRAIN)

    def _push(self, node_id: int, data: bytes, group: str, ttl_s: float, kind: str) -> str:
        metadata = Metadata(
            run_id=self._run_id,
            message_id="",
            src_node_id=SUPERLINK_NODE_ID,
            dst_node_id=node_id,
            reply_to_message_id="",
            group_id=group,
            created_at=time.time(),
            ttl=ttl_s,
            message_type=kind,
        )
        with _as_link_errors("take a message"), self._lock:
            pushed = list(self._open_grid().push_messages([make_message(metadata, split(data))]))
        if not pushed or not pushed[0]:
            raise NotTakenError(
                f"the SuperLink did not take a message of {len(data)} bytes",
                hint="see superlink.log in the home folder",
            )
        return str(pushed[0])

    def expect(self, message_id: str, most_bytes: int) -> None:
        """Let the reply to a message have so many bytes; without a word it is the most that a message may have."""
        self._most_bytes[message_id] = most_bytes
        while len(self._most_bytes) > MOST_EXPECTED:
            self._most_bytes.pop(next(iter(self._most_bytes)))

    def pull(self, message_ids: Sequence[str]) -> list[Arrived]:
        """Replies that are there in full; each is handed out once. Never waits for an upload.

        Raises:
          LinkError: the lease of the carrier run is lost.
        """
        if self.lost.is_set():
            raise LinkError(
                "the SuperLink no longer honours this coordinator's lease", hint="restart the coordinator"
            )
        with _as_link_errors("hand out replies"), self._lock:
            return self._pull(message_ids)

    def _pull(self, message_ids: Sequence[str]) -> list[Arrived]:
        runtime = self._open_grid()._runtime_client  # noqa: SLF001
        asked = [m for m in message_ids if m not in self._incoming]
        if asked:
            offered = runtime.PullMessages(PullAppMessagesRequest(message_ids=asked))
            for head, tree in zip(offered.messages_list, offered.message_object_trees, strict=True):
                asked_by = head.metadata.reply_to_message_id
                most = self._most_bytes.pop(asked_by, None)
                self._incoming[asked_by] = IncomingReply(head, tree, self._run_id, most_bytes=most)
        found = []
        for message_id in message_ids:
            reply = self._incoming.get(message_id)
            arrived = reply.look(runtime) if reply is not None else None
            if arrived is not None:
                del self._incoming[message_id]
                found.append(arrived)
        return found

    def _open_grid(self) -> HttpGrid:
        if self._grid is None:
            raise LinkError("the link is not open")
        return self._grid

    def _claim(self, run_id: int, timeout_s: float) -> str:
        auth = SuperExecAuthHttpInterceptor(
            master_secret=self._secret, protected_methods={"/flwr.proto.Runtime/AcquireTask"}
        )
        client = self._client(RuntimeHttpClient, "SuperExec", auth)
        until = time.monotonic() + timeout_s
        try:
            while time.monotonic() < until:
                answer = client.AcquireTask(AcquireTaskRequest(supported_task_types=[TaskType.SERVER_APP]))
                if answer.HasField("task") and answer.token and answer.task.run_id == run_id:
                    return str(answer.token)
                time.sleep(CLAIM_POLL_S)
        finally:
            client.close()
        raise LinkError(
            "the SuperLink offered no task for the carrier run", hint="see superlink.log in the home folder"
        )

    def _keep_lease(self) -> None:
        """Heartbeats until ``close``. Whatever else ends them, the lease is lost, and ``pull`` says so."""
        try:
            while not self._stop.wait(HEARTBEAT_S):
                try:
                    runtime = self._open_grid()._runtime_client  # noqa: SLF001
                    if not runtime.SendTaskHeartbeat(SendTaskHeartbeatRequest()).success:
                        return
                except httpx.HTTPStatusError:
                    return
                except httpx.TransportError:
                    log.warning("the SuperLink does not answer the heartbeat")
        finally:
            if not self._stop.is_set():
                self.lost.set()

    def _control(self) -> ControlHttpClient:
        client: ControlHttpClient = self._client(ControlHttpClient, "flwr CLI", retry=False)
        return client

    def _client(self, kind: Any, name: str, *extra: Any, retry: bool = True) -> Any:  # noqa: ANN401 - Flower's classes
        return kind.from_server_address(
            self._address,
            self._ca is None,
            self._ca,
            interceptors=[RuntimeVersionHttpInterceptor(component_name=name), *extra],
            **({"retry_invoker": patient_retry(self._is_over)} if retry else {}),
        )


@contextmanager
def _as_link_errors(what: str) -> Iterator[None]:
    hint = "see superlink.log in the home folder, then start the coordinator again"
    try:
        yield
    except httpx.HTTPStatusError as e:
        raise LinkError(f"the SuperLink refused to {what} ({e.response.status_code})", hint=hint) from e
    except httpx.HTTPError as e:
        raise LinkError(f"the SuperLink does not answer: it was to {what}", hint=hint) from e


_PASSING = {500, 502, 503, 504}


def patient_retry(is_over: Callable[[], bool] = lambda: False, max_time_s: float = 120.0) -> RetryInvoker:
    """Retry transport faults and 500-504 until ``is_over``; give up at once on any other status.

    500 is what a SuperLink says whose own database was held up by the disk.
    """

    def give_up(error: Exception) -> bool:
        refused = isinstance(error, httpx.HTTPStatusError) and error.response.status_code not in _PASSING
        return refused or is_over()

    return RetryInvoker(
        lambda: exponential(max_delay=2),
        (httpx.TransportError, httpx.HTTPStatusError),
        max_tries=None,
        max_time=max_time_s,
        should_giveup=give_up,
    )

"""What every call passes: request id, who calls, role, deadline, size; and what every error becomes.

The guard wraps each handler of the server, those of health and reflection too, so that no call can miss it. Requests
are parsed here and not by gRPC, so that what is refused is refused in words and counted.
"""

from __future__ import annotations

import logging
import re
import secrets
import threading
import time
from collections import Counter, OrderedDict
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
from google.protobuf.message import DecodeError

from coordinator.rpc.bodies import Bodies
from coordinator.rpc.identity import NOBODY, Peer
from coordinator.rpc.roles import may_call
from motet.connection.errors import BadRequestError, BusyError, NotAllowedError, ServerFaultError
from motet.connection.faults import told
from motet.connection.metadata import ERROR, REQUEST_ID
from motet.wire.v1 import control_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

log = logging.getLogger(__name__)

LONGEST_CALL_S = 300.0
LONGEST_STREAM_S = 6 * 3600.0
LARGEST_REQUEST_BYTES = 1 << 20
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_MOST_PEERS = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """The call that this thread serves. It holds nothing of gRPC's: a thread would keep it, and its stream, alive."""

    method: str
    request_id: str
    peer: Peer


_CALL: ContextVar[Call] = ContextVar("call")


def calling() -> Call:
    """The call that this thread serves.

    Raises:
      LookupError: none.
    """
    return _CALL.get()


class CallCounts:
    """Calls served and refused since the start; safe for threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._served: Counter[tuple[str, str]] = Counter()
        self._refused: Counter[str] = Counter()
        self._handshakes = self._connections = 0
        self._peers: OrderedDict[str, None] = OrderedDict()

    def served(self, method: str, status: str) -> None:
        """One call has ended."""
        with self._lock:
            self._served[method, status] += 1

    def refused(self, kind: str) -> None:
        """One call was refused before it did anything, or by what it asked for."""
        with self._lock:
            self._refused[kind] += 1

    def handshake(self) -> None:
        """A TLS handshake begins."""
        with self._lock:
            self._handshakes += 1

    def called_from(self, address: str) -> None:
        """A connection has made a call, so its handshake ended well."""
        with self._lock:
            if address not in self._peers:
                self._connections += 1
            self._peers[address] = None
            self._peers.move_to_end(address)
            if len(self._peers) > _MOST_PEERS:
                self._peers.popitem(last=False)

    def refusals(self) -> dict[str, int]:
        """Refused calls by kind. ``handshake``: TLS handshakes that no call followed, nearly all of them refused."""
        with self._lock:
            silent = self._silent()
            return dict(self._refused) | ({"handshake": silent} if silent else {})

    def silent_connections(self) -> int:
        """Connections so far that began a handshake and made no call, yet."""
        with self._lock:
            return self._silent()

    def _silent(self) -> int:
        return max(0, self._handshakes - self._connections)

    def calls(self) -> dict[tuple[str, str], int]:
        """Ended calls by method and status."""
        with self._lock:
            return dict(self._served)


class Guard(grpc.ServerInterceptor):  # type: ignore[misc, unused-ignore]
    """Wraps every handler.

    Args:
      identify: the caller of a context; raises ``NotAuthenticatedError``.
      counts: of calls.
      most_streams: streams at once; each holds a thread.
      most_slow: calls of one caller whose request may be on its way for long, at once; each holds a thread.
      tells_all: the caller owns this home, so that messages may name its paths.
    """

    def __init__(
        self,
        identify: Callable[[grpc.ServicerContext], Peer],
        counts: CallCounts,
        *,
        most_streams: int = 24,
        most_slow: int = 4,
        tells_all: bool = False,
    ) -> None:
        self._identify, self._counts = identify, counts
        self._tells_all, self.bodies = tells_all, Bodies(most_slow)
        self._streams = threading.BoundedSemaphore(most_streams)

    def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:  # noqa: ANN401 - gRPC's own
        """The handler of a call, guarded; None where there is none."""
        handler = continuation(handler_call_details)
        if handler is None:
            self._counts.refused("NotServedError")
            return None
        guarded = _Guarded(self, handler, handler_call_details.method)
        if handler.request_streaming:
            return grpc.stream_stream_rpc_method_handler(
                guarded.stream, handler.request_deserializer, handler.response_serializer
            )
        # As streams of one request, so that who calls is known before the body is there: gRPC waits for it else.
        if handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(guarded.stream, None, handler.response_serializer)
        return grpc.stream_unary_rpc_method_handler(guarded.unary, None, handler.response_serializer)

    def caller(self, method: str, context: grpc.ServicerContext) -> Peer:
        """Who calls.

        Raises:
          NotAuthenticatedError: nobody of this federation.
        """
        self._counts.called_from(context.peer())
        return NOBODY if may_call(NOBODY.role, method) else self._identify(context)

    def admit(self, method: str, context: grpc.ServicerContext, peer: Peer, *, longest_s: float) -> Call:
        """A call of this caller, if it may.

        Raises:
          NotAllowedError: a role that does not have the call.
          BadRequestError: no deadline, or one that is too far.
        """
        if not may_call(peer.role, method):
            raise NotAllowedError(
                f"the role {peer.role} does not have this call", hint="the table of roles is in docs/api.md"
            )
        left: float | None = context.time_remaining()
        if left is None or left > longest_s:
            raise BadRequestError(
                f"a call needs a deadline of at most {longest_s:g} seconds",
                hint="set one; motet.connect does so by itself",
            )
        return Call(method=method, request_id=request_id_of(context), peer=peer)

    def open_stream(self) -> None:
        """Take one of the places for streams.

        Raises:
          BusyError: all are taken.
        """
        if not self._streams.acquire(blocking=False):
            raise BusyError(
                "as many streams are open as may be", hint="try again in a minute, or end another watch"
            )

    def close_stream(self) -> None:
        """Give the place back."""
        self._streams.release()

    def ended(self, method: str, context: grpc.ServicerContext, peer: str, started: float) -> None:
        """Count and log a call that was served."""
        self._counts.served(method, "OK")
        seconds = time.monotonic() - started
        request_id = request_id_of(context)
        log.info(
            "%s %s by %s: OK in %.3f s", request_id, method, peer, seconds, extra={"request_id": request_id}
        )

    def left(self, method: str) -> None:
        """Count a stream that its caller left before its end."""
        self._counts.served(method, "CANCELLED")

    def refuse(
        self, method: str, context: grpc.ServicerContext, peer: str, error: Exception, started: float
    ) -> NoReturn:
        """End the call with the status of an error; never returns.

        Raises:
          Exception: gRPC's own, which ends the handler.
        """
        fault, message, hint = told(error, tells_all=self._tells_all)
        request_id = request_id_of(context)
        self._counts.refused(fault.kind)
        self._counts.served(method, fault.status.name)
        seconds = time.monotonic() - started
        level = (
            logging.INFO if self._tells_all else logging.WARNING
        )  # a caller in this process says it itself
        known = {"request_id": request_id}
        log.log(
            level, "%s %s by %s: %s in %.3f s", request_id, method, peer, fault.kind, seconds, extra=known
        )
        if fault.error is ServerFaultError:
            log.error("%s %s", request_id, method, exc_info=error, extra=known)
        elif not fault.is_told and not self._tells_all:
            log.error("%s %s: %s", request_id, method, error, extra=known)
        detail = control_pb2.ErrorDetail(
            kind=fault.kind,
            message=message,
            hint=hint,
            exit_code=fault.exit_code,
            request_id=request_id,
        )
        context.set_trailing_metadata(((REQUEST_ID, request_id), (ERROR, detail.SerializeToString())))
        context.abort(fault.status, " ".join(message[:300].split()))


def request_id_of(context: grpc.ServicerContext) -> str:
    """The caller's request id, where it is one; else a new one."""
    given = next((v for k, v in context.invocation_metadata() if k == REQUEST_ID), "")
    return given if isinstance(given, str) and _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)


class _Guarded:
    """One handler behind the guard."""

    def __init__(self, guard: Guard, handler: Any, method: str) -> None:  # noqa: ANN401 - gRPC's own
        self._guard, self._handler, self._method = guard, handler, method

    def unary(self, data: Iterator[bytes], context: grpc.ServicerContext) -> Any:  # noqa: ANN401 - a message
        started, who = time.monotonic(), "nobody"
        try:
            peer = self._guard.caller(self._method, context)
            who = peer.label  # known before it is refused, so that the log says who tried
            call = self._guard.admit(self._method, context, peer, longest_s=LONGEST_CALL_S)
            _CALL.set(call)
            response = self._handler.unary_unary(self._parsed(data, context, who), context)
        except Exception as e:  # noqa: BLE001 - every error becomes a status; its class decides which
            self._guard.refuse(self._method, context, who, e, started)
        _echo(context, call.request_id)
        self._guard.ended(self._method, context, who, started)
        return response

    def stream(self, data: Any, context: grpc.ServicerContext) -> Iterator[Any]:  # noqa: ANN401 - messages
        started, who = time.monotonic(), "nobody"
        is_open = False
        try:
            peer = self._guard.caller(self._method, context)
            who = peer.label  # known before it is refused, so that the log says who tried
            call = self._guard.admit(self._method, context, peer, longest_s=LONGEST_STREAM_S)
            self._guard.open_stream()
            is_open = True
            _CALL.set(call)
            if self._handler.request_streaming:
                yield from self._handler.stream_stream(data, context)
            else:
                yield from self._handler.unary_stream(self._parsed(data, context, who), context)
        except Exception as e:  # noqa: BLE001 - as above
            self._guard.refuse(self._method, context, who, e, started)
        except GeneratorExit:
            self._guard.left(self._method)
            raise
        finally:
            if is_open:
                self._guard.close_stream()
        if not context.is_active():
            self._guard.left(self._method)
            return
        _echo(context, call.request_id)
        self._guard.ended(self._method, context, who, started)

    def _parsed(self, messages: Iterator[bytes], context: grpc.ServicerContext, who: str) -> Any:  # noqa: ANN401 - a message
        data = self._guard.bodies.read(messages, context, who)
        if len(data) > LARGEST_REQUEST_BYTES:
            raise BusyError(f"a request may have {LARGEST_REQUEST_BYTES} bytes, this one has {len(data)}")
        try:
            return self._handler.request_deserializer(data)
        except (DecodeError, ValueError) as e:
            raise BadRequestError("the request is no message of this call") from e


def _echo(context: grpc.ServicerContext, request_id: str) -> None:
    metadata: Sequence[tuple[str, str]] = ((REQUEST_ID, request_id),)
    context.set_trailing_metadata(tuple(metadata))

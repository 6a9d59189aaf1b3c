"""One channel to a coordinator: credentials, request ids, deadlines, and errors as the domain knows them."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.message import DecodeError

from motet.connection.errors import UnreachableError
from motet.connection.faults import raised
from motet.connection.metadata import ERROR, REQUEST_ID
from motet.wire.v1 import control_pb2, control_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Iterator

    from motet.errors import MotetError
    from motet.identity import Identity

CALL_S = 30.0
STREAM_S = 3600.0
_OPTIONS = (
    ("grpc.max_receive_message_length", 8 << 20),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2_000),
)


class Channel:
    """Calls of the control API by service and name.

    Args:
      channel: of gRPC; closed by ``close``.
      where: address in words, for errors.
    """

    def __init__(self, channel: grpc.Channel, where: str) -> None:
        self._channel, self._where = channel, where
        self._stubs: dict[str, Any] = {}

    @classmethod
    def secure(cls, address: str, identity: Identity) -> Channel:
        """To a coordinator, as somebody. ``address``: HOST:PORT. Nothing is sent before the first call."""
        credentials = grpc.ssl_channel_credentials(
            identity.authority_path.read_bytes(),
            identity.key_path.read_bytes(),
            identity.certificate_path.read_bytes(),
        )
        return cls(grpc.secure_channel(address, credentials, options=_OPTIONS), address)

    @classmethod
    def on_socket(cls, target: str) -> Channel:
        """To a Unix socket of this user. ``target``: ``unix:PATH``."""
        credentials = grpc.local_channel_credentials(grpc.LocalConnectionType.UDS)
        return cls(grpc.secure_channel(target, credentials, options=_OPTIONS), "this home")

    def close(self) -> None:
        """End the connection and every call and stream on it, other threads' as well; they end before it does."""
        self._channel.close()

    def call(self, service: str, method: str, request: Any, *, timeout_s: float = CALL_S) -> Any:  # noqa: ANN401 - messages
        """One call with one answer.

        Raises:
          MotetError: of the class that the coordinator refused with, or ``UnreachableError``.
        """
        request_id = secrets.token_hex(8)
        try:
            # Not the blocking form: gRPC closes a channel without waiting for such a call of another thread, which can
            # then touch what is freed and end the process (seen once, in `motet watch`).
            return (
                self._method(service, method)
                .future(request, timeout=timeout_s, metadata=((REQUEST_ID, request_id),))
                .result()
            )
        except grpc.RpcError as e:
            raise self._error(e, request_id) from None

    def stream(
        self,
        service: str,
        method: str,
        request: Any,  # noqa: ANN401 - a message
        *,
        timeout_s: float = STREAM_S,
    ) -> Iterator[Any]:
        """One call with a stream of answers; leaving the iteration ends the call.

        Raises:
          MotetError: as ``call``.
        """
        request_id = secrets.token_hex(8)
        answers = self._method(service, method)(
            request, timeout=timeout_s, metadata=((REQUEST_ID, request_id),)
        )
        try:
            yield from answers
        except grpc.RpcError as e:
            raise self._error(e, request_id) from None
        finally:
            answers.cancel()

    def _method(self, service: str, method: str) -> Any:  # noqa: ANN401 - gRPC's own
        if service not in self._stubs:
            self._stubs[service] = getattr(control_pb2_grpc, f"{service}Stub")(self._channel)
        return getattr(self._stubs[service], method)

    def _error(self, error: grpc.RpcError, request_id: str) -> MotetError:
        call: Any = error
        detail = _detail(call)
        if detail is not None:
            hint = detail.hint
            if "request id" in hint:
                hint = f"{hint}: {detail.request_id or request_id}"
            return raised(detail.kind, call.code(), detail.message, hint)
        if call.code() is grpc.StatusCode.UNAVAILABLE:
            return UnreachableError(
                f"the coordinator at {self._where} can not be reached, or did not accept this identity",
                hint="check address, port and identity; is the coordinator running?",
            )
        return raised("", call.code(), f"{self._where}: {call.details() or call.code().name}", "")


def _detail(call: Any) -> control_pb2.ErrorDetail | None:  # noqa: ANN401 - gRPC's own
    for key, value in call.trailing_metadata() or ():
        if key == ERROR:
            try:
                return control_pb2.ErrorDetail.FromString(value)
            except DecodeError:
                return None
    return None

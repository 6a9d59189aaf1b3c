"""Show clients the fleet routes of the SuperLink, and nothing else of it. A process of its own, TLS in front.

The SuperLink serves control, runtime and fleet on one port; control has no authentication in open-source
Flower. Exact paths, POST only, a limit on the body; no registration (the operator does that) and no bundles
(no code to clients).
"""

from __future__ import annotations

import argparse
import asyncio
import ssl
import time
from typing import TYPE_CHECKING, Any

import httpx
import uvicorn

from coordinator.engine.connections import transport
from coordinator.engine.handshakes import counting
from coordinator.engine.pace import Pace
from coordinator.engine.patience import ImpatientProtocol
from motet.ports import split_address
from motet.wire.pace import HEADER, SOON_HEADER

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

FLEET = frozenset(
    f"/v1/fleet/{name}"
    for name in (
        "activate-node",
        "deactivate-node",
        "send-node-heartbeat",
        "pull-messages",
        "push-messages",
        "get-run",
        "pull-object",
        "push-object",
        "confirm-message-received",
    )
)
MAX_BODY_BYTES = 16 << 20
SILENCE_S = 30.0  # a body of which nothing comes for so long is given up
SLOWEST_BYTES_S = 16_000.0  # so is one that is slower than this, beyond SILENCE_S
HEAD_BYTES = 64 << 10  # so much of a body is there, or all of it, before the SuperLink is asked anything
_ANSWER = "/v1/fleet/push-messages"
_CALLER = b"flwr-public-key"  # Flower's header; importing its name would cost this process a hundred MB
_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"host",
        b"proxy-authorization",
    }
)
Asgi = Any


class FleetOnly:
    """ASGI filter: everything that is no fleet call is 404; a body without one length, or too large, is 413."""

    def __init__(self, app: Asgi, max_body_bytes: int = MAX_BODY_BYTES) -> None:
        self._app, self._max_body_bytes = app, max_body_bytes

    async def __call__(self, scope: dict[str, Any], receive: Asgi, send: Asgi) -> None:
        """One request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        allowed = (
            scope["type"] == "http"
            and scope["method"] == "POST"
            and scope["path"] in FLEET
            and scope["raw_path"].split(b"?")[0] == scope["path"].encode()
        )
        headers = dict(scope.get("headers", ()))
        length = headers.get(b"content-length", b"")
        is_told_once = (
            length.isdigit() and b"transfer-encoding" not in headers
        )  # with both, which one holds is a guess
        if not allowed:
            await _refuse(scope, send, 404)
        elif not is_told_once or int(length) > self._max_body_bytes:
            await _refuse(scope, send, 413)
        else:
            await self._app(scope, receive, send)


async def _refuse(scope: dict[str, Any], send: Asgi, status: int) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close"})
        return
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


class ReverseProxy:
    """Streams a request to the SuperLink and its answer back; 503 where it is down, so that clients come again."""

    def __init__(self, upstream: str, ca_file: str | None, pace: Pace | None = None) -> None:
        self._pace = pace or Pace()
        self._upstream = upstream.rstrip("/")
        context = ssl.create_default_context(cafile=ca_file) if ca_file else None
        self._client = httpx.AsyncClient(transport=transport(context), timeout=60.0, trust_env=False)

    async def __call__(self, scope: dict[str, Any], receive: Asgi, send: Asgi) -> None:
        """One request."""
        if scope["type"] == "lifespan":
            while (await receive())["type"] != "lifespan.shutdown":
                await send({"type": "lifespan.startup.complete"})
            await self._client.aclose()
            await send({"type": "lifespan.shutdown.complete"})
            return
        headers = [(k, v) for k, v in scope["headers"] if k not in _HOP]
        length = int(dict(scope["headers"]).get(b"content-length", b"0"))
        body = _body(receive, SILENCE_S + length / SLOWEST_BYTES_S)
        try:
            head = [part async for part in _first(body, HEAD_BYTES)]
        except TimeoutError:
            await _refuse(scope, send, 408)
            return
        except httpx.TransportError:
            await _refuse(scope, send, 503)  # it left; nobody hears this
            return
        request = self._client.build_request(
            "POST", self._upstream + scope["path"], headers=headers, content=_whole(head, body)
        )
        try:
            response = await self._client.send(request, stream=True)
        except TimeoutError:
            await _refuse(scope, send, 408)
            return
        except httpx.TransportError:
            await _refuse(scope, send, 503)
            return
        try:
            kept = [(k, v) for k, v in response.headers.raw if k.lower() not in _HOP]
            if response.status_code == 200:  # whose key it is has been verified
                self._pace.seen(dict(headers).get(_CALLER, b""), answers=scope["path"] == _ANSWER)
                kept.append((HEADER.encode(), f"{self._pace.seconds():.1f}".encode()))
                kept.append((SOON_HEADER.encode(), f"{self._pace.soon_seconds():.2f}".encode()))
            await send({"type": "http.response.start", "status": response.status_code, "headers": kept})
            async for chunk in response.aiter_raw():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            await response.aclose()


async def _body(receive: Asgi, longest_s: float) -> AsyncIterator[bytes]:
    """Parts of a request's body, as they come; each within ``SILENCE_S``, all within ``longest_s`` seconds."""
    more, until = True, time.monotonic() + longest_s
    while more:
        event = await asyncio.wait_for(receive(), max(0.0, min(SILENCE_S, until - time.monotonic())))
        if event["type"] == "http.disconnect":
            raise httpx.ReadError("the client left")
        more = event.get("more_body", False)
        yield event.get("body", b"")


async def _first(parts: AsyncIterator[bytes], num_bytes: int) -> AsyncIterator[bytes]:
    """Parts until there are so many bytes, or no more."""
    size = 0
    while size < num_bytes:
        try:
            part = await anext(parts)
        except StopAsyncIteration:
            return
        size += len(part)
        yield part


async def _whole(head: list[bytes], rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    for part in head:
        yield part
    async for part in rest:
        yield part


def main() -> None:
    """Entry point: ``python -m coordinator.engine.gateway``."""
    parser = argparse.ArgumentParser(description="Fleet routes of a SuperLink, and nothing else.")
    parser.add_argument("--listen", required=True)
    parser.add_argument("--upstream", required=True)
    parser.add_argument("--upstream-ca")
    parser.add_argument("--certificate", required=True)
    parser.add_argument("--key", required=True)
    a = parser.parse_args()
    host, port = split_address(a.listen)
    config = uvicorn.Config(
        FleetOnly(ReverseProxy(a.upstream, a.upstream_ca)),
        host=host,
        port=port,
        ssl_certfile=a.certificate,
        ssl_keyfile=a.key,
        log_level="warning",
        server_header=False,
        http=ImpatientProtocol,
        ws="none",
        timeout_keep_alive=75,
        timeout_graceful_shutdown=2,  # a client at work does not see that we close, and need not: it comes again
    )
    config.load()
    if config.ssl is not None:
        counting(config.ssl)
    uvicorn.Server(config).run()


if __name__ == "__main__":
    main()

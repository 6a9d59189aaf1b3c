"""The gateway's connections to the SuperLink: the one used last is taken first, and a call looks at no other.

httpcore's own pool looks at every connection, with a system call for each idle one, before and after each call: what a
call costs grows with the number of clients.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Self

import httpcore
import httpx

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator

MOST, KEPT_S = 200, 4.0  # the SuperLink closes a connection that was idle for 5 s


class ConnectionStack:
    """What ``httpx.AsyncHTTPTransport`` asks of a pool, for one server.

    Args:
      context: for TLS.
      most: connections in use at once; further calls wait, as long as their ``pool`` timeout says.
    """

    def __init__(self, context: ssl.SSLContext | None, most: int = MOST) -> None:
        self._context = context
        self._idle: list[httpcore.AsyncHTTPConnection] = []
        self._places = asyncio.Semaphore(most)

    async def handle_async_request(self, request: httpcore.Request) -> httpcore.Response:
        """Send one request; its connection is free again once the response is closed."""
        try:
            async with asyncio.timeout(request.extensions.get("timeout", {}).get("pool")):
                await self._places.acquire()
        except TimeoutError:
            raise httpcore.PoolTimeout from None
        connection = None
        try:
            connection = await self._taken(request.url.origin)
            response = await connection.handle_async_request(request)
        except BaseException:
            await self._give_back(connection)
            raise
        return httpcore.Response(
            response.status,
            headers=response.headers,
            content=_Body(self, connection, response.stream),
            extensions=response.extensions,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close what is idle."""
        while self._idle:
            await self._idle.pop().aclose()

    async def _taken(self, origin: httpcore.Origin) -> httpcore.AsyncHTTPConnection:
        while self._idle:
            connection = self._idle.pop()
            if not connection.has_expired():
                return connection
            await connection.aclose()
        return httpcore.AsyncHTTPConnection(origin, ssl_context=self._context, keepalive_expiry=KEPT_S)

    async def _give_back(self, connection: httpcore.AsyncHTTPConnection | None) -> None:
        self._places.release()
        if connection is not None and connection.is_available():
            self._idle.append(connection)
        elif connection is not None and not connection.is_closed():
            await connection.aclose()
        if len(self._idle) > 1 and self._idle[0].has_expired():
            await self._idle.pop(0).aclose()


class _Body:
    """The body of a response; closing it gives the connection back, once."""

    def __init__(self, stack: ConnectionStack, connection: httpcore.AsyncHTTPConnection, stream: Any) -> None:  # noqa: ANN401 - httpcore's
        self._stack, self._stream = stack, stream
        self._connection: httpcore.AsyncHTTPConnection | None = connection

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._stream:
            yield chunk

    async def aclose(self) -> None:
        if self._connection is None:
            return
        connection, self._connection = self._connection, None
        try:
            await self._stream.aclose()
        finally:
            await self._stack._give_back(connection)  # noqa: SLF001 - one unit


def transport(context: ssl.SSLContext | None) -> httpx.AsyncHTTPTransport:
    """A transport of httpx over such connections; faults are httpx's."""
    made = httpx.AsyncHTTPTransport(verify=context or True, trust_env=False)
    made._pool = ConnectionStack(context)  # type: ignore[assignment]  # noqa: SLF001 - httpx lets nobody choose
    return made

"""Connections that say nothing, or never end what they say, are closed: strangers can not hold all places."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from uvicorn.protocols.http.h11_impl import H11Protocol

if TYPE_CHECKING:
    from asyncio import Transport

    from uvicorn.protocols.http.h11_impl import RequestResponseCycle

REQUEST_S = 10.0
"""From a connection, or the first byte of a request, to the request's end."""
MOST_OF_ONE = 32
"""Connections of one address at a time; a browser opens six."""


class PunctualProtocol(H11Protocol):
    """uvicorn's HTTP, which waits for ever for a request; this one waits ``REQUEST_S``."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """The clock runs from here."""
        super().connection_made(transport)
        others = [c.client[0] for c in self.connections if c.client]
        if self.client and others.count(self.client[0]) > MOST_OF_ONE:
            transport.abort()
            return
        self._begin()

    def data_received(self, data: bytes) -> None:
        """It stops once the request is whole; what comes after an answer starts it again."""
        if self._late is None:
            self._begin()
        super().data_received(data)
        if not self._is_waiting():
            self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing to wait for."""
        self._end()
        super().connection_lost(exc)

    def _is_waiting(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle  # none before the first request
        return cycle is None or cycle.response_complete or cycle.more_body

    def _begin(self) -> None:
        self._late = asyncio.get_running_loop().call_later(REQUEST_S, self._give_up)

    def _end(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _give_up(self) -> None:
        self._late = None
        if self._is_waiting():
            self.transport.abort()

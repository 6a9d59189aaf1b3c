"""Connections that never say what they want are closed: a client has seconds for the head of a request.

uvicorn ends a connection that is silent after an answer; it waits for ever for a first request, and for one whose head
comes drop by drop.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from uvicorn.protocols.http.h11_impl import H11Protocol

if TYPE_CHECKING:
    import asyncio

    from uvicorn.protocols.http.h11_impl import RequestResponseCycle

log = logging.getLogger(__name__)
HEAD_S = 15.0


class ImpatientProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 with ``HEAD_S`` seconds from a connection, or a first byte, to the end of a request's head."""

    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The clock runs."""
        super().connection_made(transport)
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        """A whole head stops the clock; a part of one does not start it anew."""
        super().data_received(data)
        cycle: RequestResponseCycle | None = self.cycle  # None until the first head is whole
        if cycle is None or cycle.response_complete:
            self._wait_for_head()
        elif self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for."""
        if self._head_timer is not None:
            self._head_timer.cancel()
        super().connection_lost(exc)

    def _wait_for_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_S, self._give_up)

    def _give_up(self) -> None:
        log.warning("a connection was closed that had not asked anything within %g s", HEAD_S)
        self.transport.close()

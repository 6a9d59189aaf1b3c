"""When a client asks again: soon after work, more seldom the longer none comes, never in step with the others."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from motet.wire.pace import HEADER, SHORTEST_S, SOON_HEADER, SOONEST_S, seconds_from, soon_from

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx
    from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext

POLL_MIN_S, POLL_GROWTH = SOONEST_S, 1.5
HEARTBEAT_S = 15.0
_SOON = 20.0  # times as often as waiting clients: after work, where the coordinator gives no advice for that
_BEATS = 2.0  # times the advice; a call is a call
_uniform = random.SystemRandom().uniform


class Pace:
    """The waits of one client, by the newest advice of its coordinator.

    Also an interceptor of Flower's client, which hears the advice.

    Args:
      uniform: a random number between two others.
    """

    def __init__(self, uniform: Callable[[float, float], float] = _uniform) -> None:
        self._uniform = uniform
        self._longest_s = SHORTEST_S
        self._soon_s: float | None = None
        self._wait_s = POLL_MIN_S
        self._told_s = HEARTBEAT_S

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        """Pass the call on; take the advice from its answer."""
        response = call_next(context)
        if HEADER in response.headers:
            self._longest_s = seconds_from(response.headers[HEADER])
            self._soon_s = soon_from(response.headers.get(SOON_HEADER))
        return response

    def worked(self) -> None:
        """Something came, or was answered: ask soon."""
        self._wait_s = self._soon_s or max(POLL_MIN_S, self._longest_s / _SOON)

    def next_wait_s(self) -> float:
        """Seconds to wait now that nothing came; the next wait is longer, up to the advice. Spread by a quarter."""
        wait = min(self._wait_s, self._longest_s)
        self._wait_s = min(wait * POLL_GROWTH, self._longest_s)
        return wait * self._uniform(0.75, 1.25)

    def told_heartbeat_s(self) -> float:
        """What the SuperLink is told now: a client of which it hears nothing for longer counts as away."""
        self._told_s = max(HEARTBEAT_S, _BEATS * self._longest_s)
        return self._told_s

    def next_heartbeat_s(self) -> float:
        """Seconds until the next sign of life: within what was told last."""
        return self._told_s * self._uniform(0.6, 0.9)

    def spread(self, seconds: float) -> float:
        """About ``seconds``, not in step with others who wait as long."""
        return seconds * self._uniform(0.5, 1.5)

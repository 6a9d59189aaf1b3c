"""Requests that do not come: a call holds a thread until its body is there, and nobody may hold many of them.

Headers come first, so that who calls is known before the body. A body that is not there after ``SLOW_S`` is slow. Of
slow ones everybody has ``most_slow`` places, and keeps them for ``LONGEST_S``; the rest is cancelled at once.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc

from motet.connection.errors import BadRequestError, BusyError

if TYPE_CHECKING:
    from collections.abc import Iterator

SLOW_S = 0.5
LONGEST_S = 20.0
TICK_S = 0.1


@dataclass(slots=True, kw_only=True, eq=False)
class _Wait:
    key: str
    since: float
    context: grpc.ServicerContext
    is_given_up: bool = False


class Bodies:
    """Reads requests of one server; safe for threads.

    Args:
      most_slow: calls of one caller that may wait longer than ``SLOW_S``, at a time.
    """

    def __init__(self, most_slow: int) -> None:
        self._most_slow = most_slow
        self._lock = threading.Lock()
        self._waits: set[_Wait] = set()
        self._is_watched = False

    def read(self, data: Iterator[bytes], context: grpc.ServicerContext, key: str) -> bytes:
        """The one message of a call.

        Args:
          data: of gRPC; the first item is the message.
          context: of the call; cancelled when the message is given up.
          key: who calls.

        Raises:
          BusyError: it did not come in time, or too many others of the same caller do not come either.
          BadRequestError: the call ended without one.
        """
        wait = _Wait(key=key, since=time.monotonic(), context=context)
        with self._lock:
            self._waits.add(wait)
            must_watch, self._is_watched = not self._is_watched, True
        if must_watch:
            threading.Thread(target=self._watch, name="control-bodies", daemon=True).start()
        try:
            return next(data)
        except (StopIteration, grpc.RpcError):
            if wait.is_given_up:
                hint = "try again, one call after another"
                raise BusyError("the request did not come in time", hint=hint) from None
            raise BadRequestError("the call ended without a request") from None
        finally:
            with self._lock:
                self._waits.discard(wait)

    def _watch(self) -> None:
        """Give up what takes too long, as long as anything is waited for."""
        while True:
            time.sleep(TICK_S)
            with self._lock:
                if not self._waits:
                    self._is_watched = False
                    return
                overdue = self._overdue(time.monotonic())
            for wait in overdue:
                wait.context.cancel()

    def _overdue(self, now: float) -> list[_Wait]:
        slow: dict[str, list[_Wait]] = defaultdict(list)
        for wait in sorted(self._waits, key=lambda w: w.since):
            if now - wait.since > SLOW_S and not wait.is_given_up:
                slow[wait.key].append(wait)
        found = [
            wait
            for waits in slow.values()
            for place, wait in enumerate(waits)
            if place >= self._most_slow or now - wait.since > LONGEST_S
        ]
        for wait in found:
            wait.is_given_up = True
        return found

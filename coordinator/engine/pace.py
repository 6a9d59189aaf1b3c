"""How many clients ask for work, as the gateway sees it, and how often each is to ask."""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING

from motet.wire.pace import LONGEST_S, seconds_for, soon_for

if TYPE_CHECKING:
    from collections.abc import Callable

WINDOW_S = 2 * LONGEST_S  # each client asks at least once in it
MOST_KEPT = 100_000


class _Callers:
    """Counts distinct names in this window and the one before; who left is forgotten after two windows."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic, self._since = monotonic, monotonic()
        self._now: set[bytes] = set()
        self._before: set[bytes] = set()
        self._new = 0  # of now, not of before

    def add(self, name: bytes) -> None:
        self._turn()
        if name not in self._now and len(self._now) < MOST_KEPT:
            self._now.add(name)
            self._new += name not in self._before

    def count(self) -> int:
        self._turn()
        return len(self._before) + self._new

    def _turn(self) -> None:
        elapsed = self._monotonic() - self._since
        if elapsed >= WINDOW_S:
            self._before = self._now if elapsed < 2 * WINDOW_S else set()
            self._now, self._new, self._since = set(), 0, self._monotonic()


class Pace:
    """The advice for clients, from who called of late, and who of them answered something.

    Args:
      monotonic: seconds.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._callers, self._busy = _Callers(monotonic), _Callers(monotonic)

    def seen(self, caller: bytes, *, answers: bool = False) -> None:
        """A call was answered; ``caller`` is a public key that the SuperLink has verified."""
        name = hashlib.sha256(caller).digest()[:16]
        self._callers.add(name)
        if answers:
            self._busy.add(name)

    def seconds(self) -> float:
        """Between two calls of each that waits."""
        return seconds_for(self._callers.count())

    def soon_seconds(self) -> float:
        """From the work of one to its next call."""
        return soon_for(self._busy.count())

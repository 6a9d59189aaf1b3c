"""Memory that the allocator keeps: a service of weeks gives it back."""

from __future__ import annotations

import ctypes
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

EVERY_S = 30.0


def _trim() -> None:
    """Pages that are free within glibc's arenas go back to the system; with another C library nothing happens."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


class Heap:
    """The allocator of this process, asked now and then to give back what it keeps free.

    Each of many threads that answer calls has an arena of its own at times, and glibc keeps what each once held.

    Args:
      now: monotonic seconds.
      trim: what gives back.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic, trim: Callable[[], None] = _trim) -> None:
        self._now, self._trim, self._next = now, trim, now() + EVERY_S

    def look(self) -> None:
        """Give back, unless that was done within ``EVERY_S``; takes some 20 ms of a heap in fragments."""
        if self._now() >= self._next:
            self._trim()
            self._next = self._now() + EVERY_S

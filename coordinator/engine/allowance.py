"""So much at once and so much a second: what bounds calls that are useful one by one and a burden in a crowd."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Allowance:
    """A token bucket, full at first.

    Args:
      per_second: how fast it fills.
      at_once: how much it holds.
      monotonic: seconds.
    """

    def __init__(self, per_second: float, at_once: int, monotonic: Callable[[], float]) -> None:
        self._per_second, self._at_once, self._monotonic = per_second, float(at_once), monotonic
        self._left, self._at = float(at_once), monotonic()

    def take(self) -> bool:
        """Whether one more may go now; it counts if so."""
        now = self._monotonic()
        self._left = min(self._at_once, self._left + (now - self._at) * self._per_second)
        self._at = now
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True

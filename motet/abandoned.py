"""Orders that were taken back, as marks in a client's folder: written by who hears it, read between training steps.

A mark is a file, so that it reaches a process that is busy and outlives one that is killed. It names one attempt at one
round; a further attempt is another order.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

MOST_MARKS = 256


def order_key(run_id: str, round_index: int, attempt: int) -> str:
    """Names an order at its client."""
    return f"{run_id}/{round_index}/{attempt}"


class Abandoned:
    """The marks of one client.

    Args:
      folder: the client's own; made with the first mark.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "abandoned"

    def mark(self, key: str) -> None:
        """Take an order back. The oldest of more than ``MOST_MARKS`` are forgotten.

        Raises:
          OSError: the folder can not be written.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        self._path(key).touch()
        marks = sorted(self._folder.iterdir(), key=lambda p: p.stat().st_mtime_ns)
        for path in marks[:-MOST_MARKS]:
            path.unlink(missing_ok=True)

    def holds(self, key: str) -> bool:
        """Whether the order was taken back."""
        return self._path(key).exists()

    def _path(self, key: str) -> Path:
        return self._folder / hashlib.sha256(key.encode()).hexdigest()[:32]

"""Rounds as lines of a file, one object each."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from motet.trackers.figures import RoundFigures

FILE = "rounds.jsonl"


class JsonlTracker:
    """``rounds.jsonl`` in a folder. A line is there whole or not at all: a torn one is cut off at the next start.

    Raises:
      OSError: the file can not be written.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / FILE
        self._path.touch()
        self._last = self._mended()

    def _mended(self) -> int:
        """The last round of the file, without what a crash left behind it."""
        data = self._path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            os.truncate(self._path, len(whole))
        last = whole.rstrip(b"\n").rpartition(b"\n")[2]
        return int(json.loads(last)["round"]) if last else -1

    def last_round(self) -> int:
        """Of the file's last line."""
        return self._last

    def record(self, figures: RoundFigures) -> None:
        """One line in one write, then to the disk."""
        with self._path.open("ab", buffering=0) as file:
            file.write(figures.to_json().encode() + b"\n")
            os.fsync(file.fileno())
        self._last = figures.round_index

    def close(self, state: str) -> None:
        """Nothing is open."""

"""Rounds as scalars of TensorBoard's event files; nothing of TensorFlow or torch is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from motet.trackers.figures import step_time

if TYPE_CHECKING:
    from pathlib import Path

    from motet.trackers.figures import RoundFigures

FOLDER = "tensorboard"


class TensorBoardTracker:
    """Event files below ``tensorboard/``; the step is the round. A start reads them to see what is recorded."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / FOLDER
        self._folder.mkdir(parents=True, exist_ok=True)
        self._last = max((step for path in self._folder.iterdir() for step in _steps(path)), default=-1)
        self._writer: EventFileWriter | None = None

    def last_round(self) -> int:
        """The highest step of any event file."""
        return self._last

    def record(self, figures: RoundFigures) -> None:
        """All figures of a round as one event, so that it is there whole or not at all."""
        if self._writer is None:  # no file for a start that finds nothing to write
            self._writer = EventFileWriter(str(self._folder))
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in figures.flat().items()]
        self._writer.add_event(
            Event(wall_time=step_time(figures), step=figures.round_index, summary=Summary(value=values))
        )
        self._writer.flush()
        self._last = figures.round_index

    def close(self, state: str) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()


def _steps(path: Path) -> list[int]:
    """Steps of the whole events of a file that hold figures."""
    found = (Event.FromString(data) for data in RawEventFileLoader(str(path)).Load())
    return [int(event.step) for event in found if event.summary.value]

"""Progress bars with time left for runs of the engine; silent when the output is not a terminal."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from motet.cli.screen import duration, size

if TYPE_CHECKING:
    from types import TracebackType


class RoundProgress:
    """One bar a stage; ``on_step`` has the shape that ``motet.simulate`` calls. Safe from several threads."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._lock = threading.Lock()
        self._tasks: dict[str, TaskID] = {}
        self._bars = Progress(
            TextColumn("{task.description:<24}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("rounds"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
        )

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._bars.stop()

    def on_step(self, stage: str, done: int, total: int) -> None:
        """Move the bar of ``stage``; without a terminal print one line when a stage ends."""
        with self._lock:
            if stage not in self._tasks:
                self._tasks[stage] = self._bars.add_task(stage, total=total)
            self._bars.update(self._tasks[stage], completed=done, total=total)
            if done == total and not self._console.is_terminal:
                self._console.print(f"{stage}: {total} rounds done", highlight=False)


class StepProgress:
    """One bar a stage of anything that counts, with time left; in a file a line now and then while it goes on.

    Args:
      console: standard error by default.
      unit: ``bytes`` shows sizes and speed; else numbers.
      every_s: seconds between lines where the output is no terminal; work that is quicker says nothing there.
    """

    def __init__(self, console: Console | None = None, *, unit: str = "", every_s: float = 10.0) -> None:
        self._console = console or Console(stderr=True)
        self._is_live = self._console.is_terminal and not self._console.is_dumb_terminal
        self._every_s, self._unit = every_s, unit
        self._lock = threading.Lock()
        self._tasks: dict[str, TaskID] = {}
        self._began: dict[str, float] = {}
        self._said = time.monotonic()
        counts = (DownloadColumn(), TransferSpeedColumn()) if unit == "bytes" else (MofNCompleteColumn(),)
        self._bars = Progress(
            TextColumn("{task.description:<12}"),
            BarColumn(bar_width=20),
            *counts,
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
            transient=unit == "bytes",
        )

    def __enter__(self) -> Self:
        if self._is_live:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_live:
            self._bars.stop()

    def on_step(self, stage: str, done: int, total: int) -> None:
        """Move the bar of ``stage``; ``total`` 0 is not known."""
        with self._lock:
            if stage not in self._tasks:
                self._tasks[stage] = self._bars.add_task(stage, total=total or None)
                self._began[stage] = time.monotonic()
            self._bars.update(self._tasks[stage], completed=done, total=total or None)
            now = time.monotonic()
            if self._is_live or now - self._said < self._every_s:
                return
            self._said = now
            self._console.print(self._line(stage, done, total, now - self._began[stage]), highlight=False)

    def end(self, stage: str) -> None:
        """Take the bar of a stage away; the next of that name begins anew."""
        with self._lock:
            task = self._tasks.pop(stage, None)
            if task is not None:
                self._bars.remove_task(task)

    def _line(self, stage: str, done: int, total: int, elapsed: float) -> str:
        shown = [size(n) if self._unit == "bytes" else str(n) for n in (done, total)]
        if not total:
            return f"{stage}: {shown[0]}"
        left = f", about {duration(elapsed * (total - done) / done)} left" if 0 < done < total else ""
        return f"{stage}: {shown[0]} of {shown[1]}{left}"

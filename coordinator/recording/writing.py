"""The trackers of one run as one thing: JSONL here, what needs a library in a process of its own."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from motet.trackers.to_jsonl import JsonlTracker
from motet.trackers.writer import environment

if TYPE_CHECKING:
    from pathlib import Path

    from motet.recipe import Recipe
    from motet.trackers.figures import RoundFigures

log = logging.getLogger(__name__)
ANSWER_S = 120.0  # a library that takes longer is given up
JSONL = "jsonl"


class Writing:
    """Writes rounds to every tracker of a recipe that still works. A tracker that fails is told once, and left.

    Args:
      recipe: names the trackers.
      run_id: of the run.
      folder: of this run's trackers; made.
    """

    def __init__(self, recipe: Recipe, run_id: str, folder: Path) -> None:
        self._run_id = run_id
        self._last: dict[str, int] = {}
        self._jsonl: JsonlTracker | None = None
        self._process: subprocess.Popen[str] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        others = {n: project for n, project in recipe.trackers.chosen.items() if n != JSONL}
        if recipe.trackers.jsonl:
            try:
                self._jsonl = JsonlTracker(folder)
                self._last[JSONL] = self._jsonl.last_round()
            except (OSError, ValueError, KeyError) as e:
                self._fail(JSONL, type(e).__name__)
        if others:
            begin = {
                "folder": str(folder.resolve()),
                "run_id": run_id,
                "name": recipe.name,
                "trackers": others,
            }
            self._start(begin)

    def next_round(self) -> int | None:
        """The first round that some tracker has not recorded; None where no tracker works."""
        return min(self._last.values()) + 1 if self._last else None

    def record(self, figures: RoundFigures) -> None:
        """Write a round to the trackers that have not recorded it."""
        step = figures.round_index
        if self._jsonl is not None and self._last.get(JSONL, step) < step:
            try:
                self._jsonl.record(figures)
                self._last[JSONL] = step
            except OSError as e:
                self._fail(JSONL, f"{type(e).__name__}: {e.strerror}")
        behind = [n for n, last in self._last.items() if n != JSONL and last < step]
        if behind:
            self._told({"round": json.loads(figures.to_json()), "to": behind})
            self._last |= {n: step for n in behind if n in self._last}

    def close(self, state: str) -> None:
        """The run stands so; empty: it goes on later."""
        if self._process is not None:
            if any(n != JSONL for n in self._last):
                self._told({"end": state})
            self._end_process()

    def abandon(self) -> None:
        """End the writer at once; what is not recorded is recorded at the next start."""
        if self._process is not None:
            _kill(self._process)

    def _start(self, begin: dict[str, Any]) -> None:
        self._last |= dict.fromkeys(begin["trackers"], -1)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "motet.trackers.writer"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment(),
                text=True,
                start_new_session=True,
            )
        except OSError as e:
            self._fail_all(type(e).__name__)
            return
        answer = self._told(begin)
        self._last |= {n: int(last) for n, last in answer.get("last", {}).items() if n in self._last}

    def _told(self, words: dict[str, Any]) -> dict[str, Any]:
        """The writer's answer; empty where it gave none: then none of its trackers works any more."""
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            return {}
        watch = threading.Timer(ANSWER_S, _kill, (process,))
        watch.start()
        try:
            process.stdin.write(json.dumps(words) + "\n")
            process.stdin.flush()
            answer: dict[str, Any] = json.loads(process.stdout.readline())
        except (OSError, ValueError):
            self._fail_all("its process ended, or did not answer")
            return {}
        finally:
            watch.cancel()
        for name, why in answer.get("failed", {}).items():
            self._fail(name, why)
        return answer

    def _fail(self, name: str, why: str) -> None:
        self._last.pop(name, None)
        log.warning("run %s goes on without its tracker %s: %s", self._run_id, name, why)

    def _fail_all(self, why: str) -> None:
        for name in [n for n in self._last if n != JSONL]:
            self._fail(name, why)

    def _end_process(self) -> None:
        process = self._process
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        try:
            process.wait(ANSWER_S)
        except subprocess.TimeoutExpired:
            _kill(process)
            process.wait()
        if process.stdout is not None:
            process.stdout.close()
        self._process = None


def _kill(process: subprocess.Popen[str]) -> None:
    """End a writer and whatever its libraries have started."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)

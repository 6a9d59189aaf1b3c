"""Rounds as history of a W&B run that stays on this machine. ``wandb sync`` sends it, if somebody decides so."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import wandb

from motet.trackers.figures import step_time

if TYPE_CHECKING:
    from pathlib import Path

    from motet.trackers.figures import RoundFigures

FOLDER = "wandb"
_MARK = "recorded.json"


class WandbTracker:
    """Offline folders below ``wandb/``, one for each time that a coordinator worked on the run, all of one W&B run.

    What is recorded stands in ``recorded.json`` beside them: offline files are sealed frames that W&B alone reads. A
    crash between the two writes a round a second time; its step is the same, and W&B keeps one.

    W&B notes when a row was written. Where times are not released all rows are written together when work on the run
    ends; what a crash loses of them is written at the next start.
    """

    def __init__(self, folder: Path, run_id: str, name: str, project: str) -> None:
        self._folder = folder / FOLDER
        self._folder.mkdir(parents=True, exist_ok=True)
        self._mark = self._folder / _MARK
        self._last = int(json.loads(self._mark.read_text())["round"]) if self._mark.exists() else -1
        self._run_id, self._recipe, self._project = run_id, name, project
        self._run: wandb.Run | None = None
        self._held: list[RoundFigures] = []

    def last_round(self) -> int:
        """As ``recorded.json`` says."""
        return self._last

    def record(self, figures: RoundFigures) -> None:
        """One row of history, then the mark; where times are not released, later."""
        self._last = figures.round_index
        if figures.at is None:
            self._held.append(figures)
        else:
            self._write(figures)

    def _write(self, figures: RoundFigures) -> None:
        if self._run is None:
            self._run = wandb.init(
                project=self._project,
                id=self._run_id,
                name=self._run_id,
                notes=self._recipe,
                dir=str(self._folder.parent),
                settings=_settings(),
                resume="allow",
            )
        row = figures.flat() | {"round": figures.round_index, "_timestamp": step_time(figures)}
        self._run.log(row, step=figures.round_index, commit=True)
        staging = self._mark.with_suffix(".new")
        staging.write_text(json.dumps({"round": figures.round_index}) + "\n")
        staging.replace(self._mark)

    def close(self, state: str) -> None:
        """Write what was held, and end W&B's own process: all is on disk."""
        for figures in self._held:
            self._write(figures)
        self._held = []
        if self._run is not None:
            self._run.finish(exit_code=0 if state in {"FINISHED", ""} else 1)


def _settings() -> wandb.Settings:
    """Nothing of the machine, its user, its code or its output is read, and nothing is sent."""
    return wandb.Settings(
        mode="offline",
        silent=True,
        console="off",
        host="coordinator",
        disable_git=True,
        disable_code=True,
        save_code=False,
        x_disable_meta=True,
        x_disable_stats=True,
        x_disable_machine_info=True,
        x_save_requirements=False,
    )

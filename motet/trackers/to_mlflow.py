"""Rounds as metrics of one MLflow run, in an SQLite file of their own; no server is spoken to."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mlflow.entities import Metric, Param, RunTag
from mlflow.tracking import MlflowClient

from motet.trackers.figures import step_time

if TYPE_CHECKING:
    from pathlib import Path

    from motet.trackers.figures import RoundFigures

FILE = "mlflow.db"
STEP = "round"
_TAG = "motet.run_id"
_MOST = 1000  # metrics that MLflow takes at once
_BAD = re.compile(r"[^A-Za-z0-9_\-. /]")


class MlflowTracker:
    """``mlflow.db`` in a folder: ``mlflow ui --backend-store-uri sqlite:///.../mlflow.db`` shows it.

    The metric ``round`` is written last of a round and tells what is recorded.
    """

    def __init__(self, folder: Path, run_id: str, name: str, project: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._client = MlflowClient(tracking_uri=f"sqlite:///{(folder / FILE).resolve()}")
        known = self._client.get_experiment_by_name(project)
        experiment = known.experiment_id if known else self._client.create_experiment(project)
        found = self._client.search_runs([experiment], f"tags.`{_TAG}` = '{run_id}'")
        if found:
            self._id = found[0].info.run_id
        else:
            made = self._client.create_run(experiment, start_time=1, tags={_TAG: run_id}, run_name=run_id)
            self._id = made.info.run_id
            self._client.log_batch(
                self._id, params=[Param("recipe", name)], tags=[RunTag("mlflow.user", "motet")]
            )
        steps = [m.step for m in self._client.get_metric_history(self._id, STEP)]
        self._last = max(steps, default=-1)

    def last_round(self) -> int:
        """The highest step of the metric ``round``."""
        return self._last

    def record(self, figures: RoundFigures) -> None:
        """All figures of a round that are not there yet, then the round itself."""
        step, milliseconds = figures.round_index, int(step_time(figures) * 1000)
        metrics = [
            Metric(_BAD.sub("_", name), value, milliseconds, step) for name, value in figures.flat().items()
        ]
        for first in range(0, len(metrics), _MOST):
            self._client.log_batch(self._id, metrics=metrics[first : first + _MOST])
        self._client.log_batch(self._id, metrics=[Metric(STEP, float(step), milliseconds, step)])
        self._last = step

    def close(self, state: str) -> None:
        """MLflow's own words for how the run ended; none while it goes on."""
        words = {"FINISHED": "FINISHED", "FAILED": "FAILED", "CANCELLED": "KILLED"}
        if state in words:
            self._client.set_terminated(self._id, status=words[state], end_time=1)

"""The process that loads the trackers' libraries: lines of JSON in, lines of JSON out.

Apart from the coordinator, so that a library that fails, hangs, phones or fills memory takes nothing with it. Its
environment is made here: nothing of the coordinator's own (passwords, keys, proxies) is in it, telemetry is off, and
Python's sockets reach this machine alone.

    {"folder": ..., "run_id": ..., "name": ..., "trackers": {"wandb": "motet"}}
        -> {"last": {"wandb": -1}, "failed": {}}
    {"round": {...}, "to": ["wandb"]} -> {"failed": {}}
    {"end": "FINISHED"} -> {"failed": {}}, and the process ends
"""

from __future__ import annotations

import json
import os
import socket
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from motet.trackers.figures import figures_from_json

if TYPE_CHECKING:
    from typing import IO

    from motet.trackers.figures import Tracker

KEPT = (
    "PATH",
    "LANG",
    "LC_ALL",
    "TZ",
    "PYTHONPATH",
    "VIRTUAL_ENV",
    "LD_LIBRARY_PATH",
    "SYSTEMROOT",
    "TMPDIR",
)
"""Variables of the coordinator that a writer sees."""
QUIET = {
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "OTEL_SDK_DISABLED": "true",
    "WANDB_MODE": "offline",
    "WANDB_SILENT": "true",
    "WANDB_CONSOLE": "off",
    "WANDB_ERROR_REPORTING": "false",
    "WANDB_DISABLE_GIT": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}
_HERE = ("127.0.0.1", "::1", "localhost", "")
_PLACES = (
    "WANDB_CONFIG_DIR",
    "WANDB_CACHE_DIR",
    "WANDB_DATA_DIR",
    "WANDB_ARTIFACT_DIR",
    "HOME",
    "XDG_CONFIG_HOME",
)


def environment() -> dict[str, str]:
    """What a writer is started with."""
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    ours = str(Path(__file__).resolve().parents[2])
    return kept | QUIET | {"PYTHONPATH": os.pathsep.join(filter(None, (ours, kept.get("PYTHONPATH"))))}


def keep_to_this_machine() -> None:
    """From now on Python's sockets of this process refuse every other machine, by name and by address."""

    def look(event: str, given: tuple[Any, ...]) -> None:
        if event == "socket.getaddrinfo" and str(given[0] or "") not in _HERE:
            raise PermissionError("trackers use no network")
        if (
            event in {"socket.connect", "socket.sendto"}
            and isinstance(given[1], tuple)
            and given[1][0] not in _HERE
        ):
            raise PermissionError("trackers use no network")

    sys.addaudithook(look)


def opened(name: str, begin: dict[str, Any]) -> Tracker:
    """A tracker; its library is loaded here, and nowhere else."""
    folder, project = Path(begin["folder"]), begin["trackers"][name]
    if name == "tensorboard":
        from motet.trackers.to_tensorboard import TensorBoardTracker

        return TensorBoardTracker(folder)
    if name == "mlflow":
        from motet.trackers.to_mlflow import MlflowTracker

        return MlflowTracker(folder, begin["run_id"], begin["name"], project)
    if name == "wandb":
        from motet.trackers.to_wandb import WandbTracker

        return WandbTracker(folder, begin["run_id"], begin["name"], project)
    raise ValueError(f"no tracker {name}")


def write(lines: IO[str], answers: IO[str]) -> None:
    """Until the end is told, or whoever tells is gone."""
    begin = json.loads(lines.readline())
    trackers: dict[str, Tracker] = {}
    failed: dict[str, str] = {}
    for name in begin["trackers"]:
        with _noting(failed, name):
            trackers[name] = opened(name, begin)
    _answer(answers, {"last": {n: t.last_round() for n, t in trackers.items()}, "failed": failed})
    state = ""
    for line in lines:
        told = json.loads(line)
        failed = {}
        state = told.get("end", "")
        for name in told.get("to", [*trackers]):
            with _noting(failed, name):
                if "round" in told:
                    trackers[name].record(figures_from_json(json.dumps(told["round"])))
                else:
                    trackers[name].close(state)
        for name in failed:
            trackers.pop(name, None)
        _answer(answers, {"failed": failed})
        if "end" in told:
            return
    for name, tracker in trackers.items():  # the coordinator is gone
        with _noting(failed, name):
            tracker.close("")


class _noting:  # noqa: N801 - used as a word
    """What a library raises is an answer, not an end."""

    def __init__(self, failed: dict[str, str], name: str) -> None:
        self._failed, self._name = failed, name

    def __enter__(self) -> None:
        """Nothing."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _where: object) -> bool:
        """Every ``Exception`` is noted by its kind and first line."""
        if not isinstance(error, Exception):
            return False
        first = (str(error).splitlines() or [""])[0]
        self._failed[self._name] = f"{type(error).__name__}: {first}"[:300]
        return True


def _answer(answers: IO[str], told: dict[str, Any]) -> None:
    answers.write(json.dumps(told) + "\n")
    answers.flush()


def main() -> None:
    """Standard input and output are the coordinator's; what libraries print goes to standard error."""
    with tempfile.TemporaryDirectory(prefix="motet-trackers-") as scratch:
        os.environ.update(dict.fromkeys(_PLACES, scratch))
        os.chdir(scratch)  # libraries write the folder that they run in into their files
        socket.gethostname = lambda: "coordinator"
        keep_to_this_machine()
        answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        write(sys.stdin, answers)


if __name__ == "__main__":
    main()

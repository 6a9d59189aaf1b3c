"""Run docker-compose.yml on this machine without a container engine, each service in namespaces of its own.

    scripts/compose_runner.py up                         # ends when all steps are done and the rest is healthy
    scripts/compose_runner.py --profile auditor run auditor
    scripts/compose_runner.py ps | logs SERVICE | exec SERVICE WORD... | kill SERVICE | restart SERVICE
    scripts/compose_runner.py down                       # and nothing is left

It needs Linux, `ip` and `unshare`, and root or user namespaces. docs/compose.md says what it does not do.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

from compose.errors import ComposeError  # noqa: E402 - after the path
from compose.images import stand_in  # noqa: E402
from compose.installed import install  # noqa: E402
from compose.model import NOT_EMULATED, load  # noqa: E402
from compose.service import IMAGE, Place  # noqa: E402
from compose.supervisor import READY, SOCKET, supervise  # noqa: E402

_READY_S = 60.0
_LOOK_S = 0.2
_DOWN_S = 90.0


def main(words: list[str] | None = None) -> int:
    """The command; its exit code."""
    asked = _parser().parse_args(words)
    try:
        return int(asked.run(asked))
    except ComposeError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = Path(tempfile.gettempdir()) / f"motet-compose-{os.getuid()}"
    parser.add_argument("--file", "-f", type=Path, default=ROOT / "docker-compose.yml")
    parser.add_argument("--state", type=Path, default=default, help="folder for volumes, logs and the socket")
    parser.add_argument("--profile", action="append", default=[])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Any, *arguments: str) -> argparse.ArgumentParser:  # noqa: ANN401
        one = commands.add_parser(name, help=run.__doc__)
        for argument in arguments:
            one.add_argument(argument)
        one.set_defaults(run=run)
        return one

    up = command("up", _up)
    up.add_argument(
        "--volume", action="append", default=[], metavar="NAME=FOLDER", help="a folder for a volume"
    )
    up.add_argument("--timeout", type=float, default=1800.0)
    up.add_argument("--rootless", action="store_true", help="a user namespace, as for those who are not root")
    up.add_argument("--detach", "-d", action="store_true", help="do not wait")
    command("wait", _wait).add_argument("--timeout", type=float, default=1800.0)
    command("ps", _ps).add_argument("--json", action="store_true")
    command("logs", _logs, "service")
    command("exec", _exec, "service").add_argument("words", nargs=argparse.REMAINDER)
    command("run", _run, "service").add_argument("--timeout", type=float, default=600.0)
    command("kill", _kill, "service").add_argument("--signal", default="SIGKILL")
    command("stop", _stop, "service")
    command("restart", _restart, "service")
    command("down", _down).add_argument("--keep-volumes", action="store_true")
    supervised = command("supervise", _supervise)
    supervised.add_argument("--volume", action="append", default=[])
    supervised.add_argument("--in-user-namespace", action="store_true")
    return parser


def _up(asked: argparse.Namespace) -> int:
    """Start the services; wait until steps are done and the rest is healthy."""
    project = load(asked.file, os.environ)
    if (asked.state / SOCKET).exists():
        raise ComposeError(f"{asked.state} is in use; say down first")
    asked.state.mkdir(parents=True, exist_ok=True, mode=0o755)
    names = project.enabled(asked.profile)
    not_done = sorted({key for name in names for key in project.services[name].not_emulated})
    print(f"not as in a container: {'; '.join(f'{k}: {NOT_EMULATED[k]}' for k in not_done)}")
    for name in names:
        if stand_in(project.services[name].image) is None:
            print(f"{name}: nothing here stands for {project.services[name].image}; it is not run")
    if any(project.services[name].image.startswith("motet:") for name in names) and not install(
        asked.state / IMAGE
    ):
        print(
            "hatchling is not installed: the checkout stands for our image, not the wheel that it would install"
        )
    _start_supervisor(asked)
    if asked.detach:
        return 0
    return _wait(asked)


def _start_supervisor(asked: argparse.Namespace) -> None:
    is_root = os.getuid() == 0 and not asked.rootless
    unshare = ["unshare", *([] if is_root else ["--user", "--map-root-user"])]
    unshare += ["--mount", "--net", "--pid", "--fork", "--mount-proc", "--kill-child"]
    given = [word for volume in asked.volume for word in ("--volume", volume)]
    profiles = [word for profile in asked.profile for word in ("--profile", profile)]
    me = [
        sys.executable,
        str(Path(__file__).resolve()),
        "--file",
        str(asked.file),
        "--state",
        str(asked.state),
    ]
    me += [*profiles, "supervise", *given, *([] if is_root else ["--in-user-namespace"])]
    (asked.state / READY).unlink(missing_ok=True)
    with (asked.state / "supervisor.log").open("ab") as log:
        process = subprocess.Popen(
            [*unshare, *me], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    (asked.state / "pid").write_text(str(process.pid))
    until = time.monotonic() + _READY_S
    while not (asked.state / READY).exists():
        if process.poll() is not None or time.monotonic() > until:
            process.kill()
            (asked.state / SOCKET).unlink(missing_ok=True)
            raise ComposeError(
                (asked.state / "supervisor.log").read_text()[-2000:].strip() or "no supervisor"
            )
        time.sleep(0.05)


def _supervise(asked: argparse.Namespace) -> int:
    """(internal) in the new namespaces."""
    project = load(asked.file, os.environ)
    given = dict(volume.split("=", 1) for volume in asked.volume)
    unknown = sorted(set(given) - project.volumes)
    if unknown:
        raise ComposeError(f"there is no volume {', '.join(unknown)}")
    place = Place(
        folder=asked.state.resolve(),
        in_user_namespace=asked.in_user_namespace,
        given={name: Path(folder).resolve() for name, folder in given.items()},
    )
    supervise(project, place, project.enabled(asked.profile))
    return 0


def _wait(asked: argparse.Namespace) -> int:
    """Wait until steps are done and the rest is healthy."""
    said: dict[str, str] = {}
    until = time.monotonic() + asked.timeout
    while True:
        rows = _ask(asked, verb="ps")["services"]
        for row in rows:
            _say(row, said)
        if any(_has_failed(row) for row in rows):
            failed = [row["service"] for row in rows if _has_failed(row)]
            print(f"failed: {', '.join(failed)}; see: logs {failed[0]}", file=sys.stderr)
            return 1
        if all(_is_settled(row) for row in rows):
            return 0
        if time.monotonic() > until:
            print(f"not all is well after {asked.timeout:g} s", file=sys.stderr)
            return 1
        time.sleep(_LOOK_S)


def _say(row: dict[str, Any], said: dict[str, str]) -> None:
    now = _words(row)
    if said.get(row["service"]) != now:
        said[row["service"]] = now
        print(f"{row['service']}: {now}", flush=True)


def _words(row: dict[str, Any]) -> str:
    if row["state"] == "exited":
        return "done" if row["exit_code"] == 0 else f"ended with {row['exit_code']}"
    return row["health"] or str(row["state"])


def _is_settled(row: dict[str, Any]) -> bool:
    if row["state"] == "not here":
        return True
    if row["is_step"]:
        return bool(row["state"] == "exited" and row["exit_code"] == 0)
    return row["health"] == "healthy" or (row["state"] == "running" and not row["health"])


def _has_failed(row: dict[str, Any]) -> bool:
    return row["state"] == "given up" or bool(row["failed"])


def _ps(asked: argparse.Namespace) -> int:
    """What each service does."""
    rows = _ask(asked, verb="ps")["services"]
    if asked.json:
        print(json.dumps(rows))
        return 0
    for row in rows:
        print(f"{row['service']:<20} {_words(row):<14} starts {row['starts']:<3} peak {row['peak_mb']:>8} MB")
    return 0


def _logs(asked: argparse.Namespace) -> int:
    """What a service printed."""
    path = asked.state / "logs" / f"{asked.service}.log"
    if not path.exists():
        raise ComposeError(f"{asked.service} has printed nothing")
    print(path.read_text(errors="replace"), end="")
    return 0


def _exec(asked: argparse.Namespace) -> int:
    """Run a command beside a service."""
    told = _ask(asked, verb="exec", service=asked.service, words=asked.words)
    print(told["text"], end="")
    return int(told["code"])


def _run(asked: argparse.Namespace) -> int:
    """Start a step with what it depends on, show what it prints, end with its exit code."""
    log = asked.state / "logs" / f"{asked.service}.log"
    before = log.stat().st_size if log.exists() else 0
    _ask(asked, verb="start", services=[asked.service])
    until = time.monotonic() + asked.timeout
    while time.monotonic() < until:
        row = next(r for r in _ask(asked, verb="ps")["services"] if r["service"] == asked.service)
        if row["state"] in {"exited", "given up", "not here"}:
            if log.exists():
                print(log.read_bytes()[before:].decode(errors="replace"), end="")
            return int(row["exit_code"] if row["exit_code"] is not None else 1)
        time.sleep(_LOOK_S)
    print(f"{asked.service} did not end in {asked.timeout:g} s", file=sys.stderr)
    return 1


def _kill(asked: argparse.Namespace) -> int:
    """A signal to a service, SIGKILL by default; its restart policy holds."""
    _ask(asked, verb="kill", service=asked.service, signal=asked.signal)
    return 0


def _stop(asked: argparse.Namespace) -> int:
    """End a service."""
    _ask(asked, verb="stop", service=asked.service)
    return 0


def _restart(asked: argparse.Namespace) -> int:
    """End a service and start it again."""
    _ask(asked, verb="restart", service=asked.service)
    return 0


def _down(asked: argparse.Namespace) -> int:
    """End everything; folders, volumes and logs go as well."""
    pid_path = asked.state / "pid"
    if pid_path.exists():
        pid = int(pid_path.read_text())
        with contextlib.suppress(ComposeError):
            _ask(asked, verb="down")
        until = time.monotonic() + _DOWN_S
        while _is_there(pid) and time.monotonic() < until:
            time.sleep(0.05)
        if _is_there(pid):
            os.kill(pid, 9)  # --kill-child: everything in its process namespace ends with it
    if asked.keep_volumes:
        for name in (SOCKET, READY, "pid"):
            (asked.state / name).unlink(missing_ok=True)
    elif asked.state.exists():
        shutil.rmtree(asked.state)
    return 0


def _is_there(pid: int) -> bool:
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    try:
        return "unshare" in Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return False


def _ask(asked: argparse.Namespace, **order: Any) -> dict[str, Any]:  # noqa: ANN401
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(asked.state / SOCKET))
            with connection.makefile("rw") as stream:
                print(json.dumps(order), file=stream, flush=True)
                told: dict[str, Any] = json.loads(stream.readline() or "{}")
    except OSError as e:
        raise ComposeError(f"nothing runs in {asked.state}: {e.strerror}") from e
    if "error" in told:
        raise ComposeError(told["error"])
    return told


if __name__ == "__main__":
    sys.exit(main())

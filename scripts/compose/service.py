"""One service as it runs: its box, its state, its health, what became of it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compose.errors import ComposeError
from compose.images import stand_in, system_binds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from compose.model import Mount, Service

BOX = Path(__file__).with_name("box.py")
IMAGE = "image"
_MOST_PAUSE_S = 10.0
_BUILT_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a project's things lie. ``given``: volumes that are folders of the host instead of new ones."""

    folder: Path
    in_user_namespace: bool
    given: dict[str, Path] = field(default_factory=dict)

    @property
    def packages(self) -> Path | None:
        """Our own image's, where they were installed."""
        folder = self.folder / IMAGE / "packages"
        return folder if folder.exists() else None

    def log(self, name: str) -> Path:
        """What a service printed, over all its starts."""
        return self.folder / "logs" / f"{name}.log"

    def volume(self, name: str) -> Path:
        """Folder of a named volume."""
        return self.given.get(name, self.folder / "volumes" / name)


class Running:
    """A service of the file, started, stopped and started again. States: created, running, exited, not here."""

    def __init__(self, service: Service, place: Place, *, netns: str, hosts: str) -> None:
        self.service, self.place = service, place
        self.state, self.health, self.starts = "created", "", 0
        self.exit_code: int | None = None
        self.started_at = self.ended_at = self.healthy_at = 0.0
        self.peak_bytes = 0
        self._netns, self._hosts = netns, hosts
        self._process: subprocess.Popen[bytes] | None = None
        self._is_wanted = threading.Event()
        self._spec_path = place.folder / "boxes" / f"{service.name}.json"
        self._pid_path = place.folder / "boxes" / f"{service.name}.pid"

    @property
    def pid(self) -> int | None:
        """Of the box's first process; None while there is none."""
        with contextlib.suppress(OSError, ValueError):
            if self._process is not None and self._process.poll() is None:
                return int(self._pid_path.read_text())
        return None

    def _built(self) -> int | None:
        """``pid``, once the box stands; None where it does not run."""
        until = time.monotonic() + _BUILT_S
        while (pid := self.pid) is None and time.monotonic() < until:
            if self._process is None or self._process.poll() is not None:
                return None
            time.sleep(0.02)
        return pid

    def is_done(self) -> bool:
        """Whether it ended with success and is not started again."""
        return self.state == "exited" and self.exit_code == 0 and not self._is_wanted.is_set()

    def has_failed(self) -> bool:
        """Whether it ended without success and is not started again."""
        return self.state == "exited" and self.exit_code != 0 and not self._is_wanted.is_set()

    def run(self) -> None:
        """Start it, and again as its restart policy says, until it ends for good or is stopped."""
        self._is_wanted.set()
        pause, again = 0.2, 0
        while self._is_wanted.is_set():
            code = self._once()
            if not self._starts_again(code, again):
                break
            again += 1
            time.sleep(pause)
            pause = min(pause * 2, _MOST_PAUSE_S)
        self._is_wanted.clear()

    def _starts_again(self, code: int, again: int) -> bool:
        service = self.service
        if not self._is_wanted.is_set() or service.restart == "no":
            return False
        if service.restart == "on-failure":
            return code != 0 and (service.most_restarts is None or again < service.most_restarts)
        return True

    def _once(self) -> int:
        self._spec_path.write_text(json.dumps(self._spec()))
        self._pid_path.unlink(missing_ok=True)
        with self.place.log(self.service.name).open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(BOX), "run", str(self._spec_path)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.started_at, self.starts, self.state = time.time(), self.starts + 1, "running"
        self.health = "starting" if self.service.health else ""
        watched = threading.Event()
        if self.service.health:
            threading.Thread(target=self._watch_health, args=(watched,), daemon=True).start()
        code = self.exit_code = self._process.wait()
        watched.set()
        self.ended_at, self.state, self.health = time.time(), "exited", ""
        return code

    def _watch_health(self, over: threading.Event) -> None:
        health, failed, began = self.service.health, 0, time.monotonic()
        while health is not None and not over.wait(
            health.interval_s if self.health == "healthy" else min(1.0, health.interval_s)
        ):
            code, _ = self.execute(health.test, timeout_s=health.timeout_s)
            if over.is_set():
                return
            if code == 0:
                failed, self.health = 0, "healthy"
                self.healthy_at = self.healthy_at or time.time()
            elif self.health == "healthy" or time.monotonic() - began > health.start_period_s:
                failed += 1
                if failed >= health.retries:
                    self.health = "unhealthy"

    def execute(self, words: Sequence[str], *, timeout_s: float) -> tuple[int, str]:
        """Run a command beside the service; its exit code and what it printed."""
        pid = self._built()
        if pid is None:
            return 126, f"{self.service.name} does not run\n"
        command = [sys.executable, "-I", "-S", str(BOX), "exec", str(self._spec_path), str(pid), *words]
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return 124, f"no answer in {timeout_s:g} s\n"
        return done.returncode, done.stdout.decode("utf-8", "replace")

    def kill(self, number: int = signal.SIGKILL) -> None:
        """A signal to the service; SIGKILL to everything in its box. It is started again if its policy says so."""
        pid = self._built()
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def stop(self) -> None:
        """End it and do not start it again."""
        self._is_wanted.clear()
        process = self._process
        if process is None or process.poll() is not None:
            return
        self.kill(getattr(signal, self.service.stop_signal))
        try:
            process.wait(self.service.stop_grace_s)
        except subprocess.TimeoutExpired:
            self.kill()
            process.wait(10)

    def _spec(self) -> dict[str, Any]:
        service, found = self.service, stand_in(self.service.image, self.place.packages)
        if found is None:
            raise ComposeError(f"{service.name}: nothing here stands for {service.image}")
        words = [*(service.entrypoint or found.entrypoint)]
        words += (
            service.command if service.command is not None else () if service.entrypoint else found.command
        )
        uid, _, gid = (service.user or found.user or "0").partition(":")
        binds, links = system_binds()
        environment = {**found.environment, **service.environment, "HOSTNAME": service.name}
        root = self.place.folder / "boxes" / f"{service.name}.root"
        root.mkdir(exist_ok=True)
        return {
            "netns": self._netns,
            "hostname": service.name,
            "root": str(root),
            "pid_file": str(self._pid_path),
            "binds": [*binds, *found.binds],
            "links": links,
            "files": {**found.files, **self._etc(int(uid), int(gid or uid))},
            "tmpfs": [self._tmpfs(text) for text in service.tmpfs],
            "mounts": [self._mounted(mount, int(uid), int(gid or uid)) for mount in service.mounts],
            "read_only": service.read_only,
            "init": service.init,
            "drops_capabilities": service.drops_capabilities,
            "in_user_namespace": self.place.in_user_namespace,
            "uid": int(uid),
            "gid": int(gid or uid),
            "environment": environment,
            "cwd": service.working_dir or found.working_dir,
            "words": words,
        }

    def _etc(self, uid: int, gid: int) -> dict[str, str]:
        user = "" if uid == 0 else f"service:x:{uid}:{gid}::/tmp:/usr/sbin/nologin\n"
        return {
            "/etc/passwd": f"root:x:0:0::/:/usr/sbin/nologin\n{user}",
            "/etc/group": f"root:x:0:\n{'' if gid == 0 else f'service:x:{gid}:'}\n",
            "/etc/hosts": self._hosts,
            "/etc/hostname": f"{self.service.name}\n",
            "/etc/resolv.conf": "# names come from /etc/hosts\n",
            "/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
        }

    def _tmpfs(self, text: str) -> tuple[str, str]:
        target, _, options = text.partition(":")
        if self.place.in_user_namespace:  # other users than this one are not mapped there
            options = ",".join(o for o in options.split(",") if not o.startswith(("uid=", "gid=")))
        return target, options or "mode=1777"

    def _mounted(self, mount: Mount, uid: int, gid: int) -> dict[str, object]:
        source = mount.source
        if mount.kind == "volume":
            folder = self.place.volume(source)
            if source not in self.place.given and not folder.exists():
                folder.mkdir(parents=True, mode=0o755)
                if not self.place.in_user_namespace:
                    os.chown(folder, uid, gid)  # as an empty volume takes its owner from the image
            source = str(folder)
        elif not Path(source).exists():
            raise ComposeError(f"{self.service.name}: {source} does not exist")
        return {"source": source, "target": mount.target, "read_only": mount.read_only}

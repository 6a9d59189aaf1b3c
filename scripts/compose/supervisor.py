"""Keeps a project's services: starts each when what it depends on is so far, and answers on a Unix socket.

It is the first process of a process namespace: when it ends, so does everything.
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from compose.errors import ComposeError
from compose.images import stand_in
from compose.memory import bytes_below
from compose.network import hosts_file, join, make_bridges, namespaces, planned
from compose.service import Place, Running

if TYPE_CHECKING:
    from collections.abc import Iterable

    from compose.model import Project

SOCKET, READY = "socket", "ready"
_LOOK_S = 0.1
_MEMORY_S = 1.0
_EXEC_S = 300.0


class Supervisor:
    """The services of one project, in this process's namespaces."""

    def __init__(self, project: Project, place: Place) -> None:
        self._project, self._place, self._plan = project, place, planned(project)
        self._lock, self._over = threading.Lock(), threading.Event()
        self._threads: dict[str, threading.Thread] = {}
        self._running: dict[str, Running] = {}
        self._in_network: set[str] = set()
        where = namespaces(project)
        for name, service in project.services.items():
            hosts = hosts_file(self._plan, project, service)
            self._running[name] = Running(service, place, netns=where[name], hosts=hosts)

    def serve(self, names: Iterable[str]) -> None:
        """Start ``names`` and answer until somebody says down."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._over.set())
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)
        for folder in ("logs", "volumes", "boxes"):
            (self._place.folder / folder).mkdir(exist_ok=True)
        make_bridges(self._plan)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(self._place.folder / SOCKET))
            listener.listen(16)
            listener.settimeout(0.5)
            self.start(names)
            threading.Thread(target=self._measure, daemon=True).start()
            (self._place.folder / READY).touch()
            while not self._over.is_set():
                try:
                    connection, _ = listener.accept()
                except TimeoutError:
                    continue
                threading.Thread(target=self._answer, args=(connection,), daemon=True).start()
        self._stop_all()

    def start(self, names: Iterable[str]) -> None:
        """Start services with all that they depend on; those that run or are done stay as they are."""
        with self._lock:
            wanted = [n for n in self._project.ordered(names) if n not in self._in_network]
            join(self._plan, [self._project.services[n] for n in wanted])
            self._in_network.update(wanted)
            for name in wanted:
                self._begin(name)

    def _begin(self, name: str) -> None:
        self._threads[name] = threading.Thread(target=self._run, args=(name,), daemon=True)
        self._threads[name].start()

    def _run(self, name: str) -> None:
        running = self._running[name]
        if not self._wait_for_others(running):
            return
        try:
            running.run()
        except (ComposeError, OSError) as e:
            with self._place.log(name).open("a") as log:
                print(f"compose: {e}", file=log)
            running.state, running.exit_code = "exited", 125

    def _wait_for_others(self, running: Running) -> bool:
        if stand_in(running.service.image) is None:
            running.state = "not here"
            return False
        for other, condition in running.service.depends_on.items():
            while not self._holds(self._running[other], condition):
                if self._over.wait(_LOOK_S):
                    return False
                if self._is_lost(self._running[other], condition):
                    running.state, running.exit_code = "given up", 1
                    return False
        return True

    def _is_lost(self, other: Running, condition: str) -> bool:
        """Whether it makes no sense to wait for ``other`` any longer."""
        is_ill = condition == "service_healthy" and other.health == "unhealthy"
        return is_ill or other.has_failed() or other.state in {"not here", "given up"}

    def _holds(self, other: Running, condition: str) -> bool:
        if condition == "service_completed_successfully":
            return other.is_done()
        if condition == "service_healthy":
            return other.health == "healthy"
        return other.state == "running" or other.is_done()

    def _measure(self) -> None:
        while not self._over.wait(_MEMORY_S):
            for running in self._running.values():
                pid = running.pid
                if pid is not None:
                    running.peak_bytes = max(running.peak_bytes, bytes_below(pid))

    def _stop_all(self) -> None:
        """In the reverse order of starts; those that do not depend on each other at once."""
        left = [n for n in self._project.ordered(self._project.services) if n in self._in_network]
        while left:
            needed = {o for n in left for o in self._project.services[n].depends_on}
            last = [n for n in left if n not in needed]
            stopping = [threading.Thread(target=self._running[n].stop) for n in last]
            for thread in stopping:
                thread.start()
            for thread in stopping:
                thread.join()
            left = [n for n in left if n not in last]

    def _answer(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rw") as stream:
            try:
                answer = self._obey(json.loads(stream.readline()))
            except (ComposeError, KeyError, TypeError, ValueError) as e:
                answer = {"error": str(e) or type(e).__name__}
            print(json.dumps(answer), file=stream, flush=True)

    def _obey(self, asked: dict[str, Any]) -> dict[str, Any]:
        verb = asked["verb"]
        if verb == "ps":
            return {"services": [self._row(n) for n in self._project.services if n in self._in_network]}
        if verb == "down":
            self._over.set()
            return {}
        if verb == "start":
            self.start(asked["services"])
            return {}
        running = self._running[asked["service"]]
        if running.service.name not in self._in_network:
            raise ComposeError(f"{asked['service']} was not started")
        if verb == "exec":
            code, text = running.execute(asked["words"], timeout_s=float(asked.get("timeout_s", _EXEC_S)))
            return {"code": code, "text": text}
        if verb == "kill":
            running.kill(getattr(signal, asked.get("signal", "SIGKILL")))
            return {}
        if verb in {"stop", "restart"}:
            running.stop()
            self._threads[running.service.name].join(15)
            if verb == "restart":
                self._begin(running.service.name)
            return {}
        raise ComposeError(f"{verb} is not known")

    def _row(self, name: str) -> dict[str, Any]:
        running = self._running[name]
        return {
            "service": name,
            "state": running.state,
            "health": running.health,
            "exit_code": running.exit_code,
            "starts": running.starts,
            "failed": running.has_failed(),
            "is_step": not running.service.health and running.service.restart in {"no", "on-failure"},
            "started_at": running.started_at,
            "healthy_at": running.healthy_at,
            "ended_at": running.ended_at,
            "peak_mb": round(running.peak_bytes / 1e6, 1),
            "addresses": self._plan.address.get(name, {}),
        }


def supervise(project: Project, place: Place, names: list[str]) -> None:
    """The supervisor's whole life."""
    try:
        Supervisor(project, place).serve(names)
    except (ComposeError, OSError, subprocess.CalledProcessError) as e:
        print(f"error: {e}", file=sys.stderr, flush=True)
        time.sleep(0.1)
        sys.exit(1)

"""Child processes of the coordinator: Flower's SuperLink and our gateway. They die with it."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from motet.errors import MotetError
from motet.ports import reached_here, split_address

if TYPE_CHECKING:
    from collections.abc import Sequence

START_TIMEOUT_S = 60.0
_PR_SET_PDEATHSIG = 1

QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "DO_NOT_TRACK": "1",
}


_GIVES_BACK = {"MALLOC_TRIM_THRESHOLD_": str(128 << 10)}
"""glibc raises this by itself to twice the largest body that was freed, and then keeps what many clients once used."""


class ChildError(MotetError):
    """A child process did not start, or ended."""

    exit_code = 7


@dataclass(slots=True, kw_only=True)
class Child:
    """One supervised process, in a session of its own, that does not outlive who started it."""

    name: str
    process: subprocess.Popen[bytes]
    log_path: Path

    def stop(self, grace_s: float = 8.0) -> None:
        """SIGTERM to its whole group, then SIGKILL; reaped when this returns."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self.process.poll() is None:
                try:
                    os.killpg(self.process.pid, number)
                except ProcessLookupError:
                    break
                try:
                    self.process.wait(grace_s)
                except subprocess.TimeoutExpired:
                    continue
        self.process.wait(grace_s)


def _inherited() -> dict[str, str]:
    """This process's environment without the database's password, which no child needs."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("MOTET_DATABASE", "PGPASS"))}


def start(name: str, arguments: Sequence[str], log_path: Path, environment: dict[str, str]) -> Child:
    """Start a child that is killed when this process dies, however it dies (Linux)."""
    libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
    parent = os.getpid()

    def die_with_parent() -> None:
        if libc is not None:
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:  # it died before the line above
                os._exit(1)

    with log_path.open("ab") as log_file:
        process = subprocess.Popen(
            list(arguments),
            stdout=log_file,
            stderr=log_file,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env={**_inherited(), **QUIET, **environment},
            preexec_fn=die_with_parent,
        )
    return Child(name=name, process=process, log_path=log_path)


def start_superlink(address: str, home: Path, *, tls: Path, in_memory: bool) -> Child:
    """Flower's SuperLink in process isolation on a loopback address, with node authentication and TLS.

    Raises:
      ChildError: it did not answer in time, or ended; the message quotes the end of its log.
    """
    state = home / "superlink"
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    host, port = split_address(address)
    arguments = [
        str(Path(sys.executable).parent / "flower-superlink"),
        "--host",
        host,
        "--port",
        str(port),
        "--isolation",
        "process",
        "--superexec-auth-secret-file",
        str(home / "superlink" / "secret"),
        "--disable-runtime-dependency-installation",
        "--database",
        ":flwr-in-memory:" if in_memory else str(state / "state.db"),
        "--ssl-ca-certfile",
        str(tls / "ca.crt"),
        "--ssl-certfile",
        str(tls / "server.pem"),
        "--ssl-keyfile",
        str(tls / "server.key"),
        "--enable-supernode-auth",
    ]
    child = start("SuperLink", arguments, home / "superlink.log", {"FLWR_HOME": str(state / "flwr")})
    wait_for_port(child, host, port)
    return child


def start_gateway(listen: str, upstream: str, home: Path, *, tls: Path) -> Child:
    """Our gateway on the public address.

    Raises:
      ChildError: it did not answer in time, or ended.
    """
    arguments = [
        sys.executable,
        "-m",
        "coordinator.engine.gateway",
        "--listen",
        listen,
        "--upstream",
        f"https://{upstream}",
        "--upstream-ca",
        str(tls / "ca.crt"),
        "--certificate",
        str(tls / "server.pem"),
        "--key",
        str(tls / "server.key"),
    ]
    child = start("gateway", arguments, home / "gateway.log", _GIVES_BACK)
    wait_for_port(child, *reached_here(listen))
    return child


def wait_for_port(child: Child, host: str, port: int) -> None:
    """Return when ``child`` accepts connections.

    Raises:
      ChildError: it ended, or the time ran out.
    """
    until = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < until:
        if child.process.poll() is not None:
            break
        try:
            with socket.create_connection((host, port), timeout=1):
                if child.process.poll() is None:
                    return
                break  # somebody else answers there
        except OSError:
            time.sleep(0.1)
    child.stop()
    tail = child.log_path.read_text(encoding="utf-8", errors="replace")[-600:]
    raise ChildError(
        f"{child.name} did not start on {host}:{port}: {tail.strip()}", hint=f"see {child.log_path}"
    )

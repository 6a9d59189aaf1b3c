"""A client as a service: one process that keeps its model loaded and answers the coordinator's orders."""

from __future__ import annotations

import json
import logging
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from client.enrolment import keep_renewed
from client.errors import ClientError
from client.fleet import FleetLink, FleetWorker
from client.keys import load_key
from client.sealing import sealed
from motet.wire.messages import TrainOrder, TrainReply

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger(__name__)
Handler = Callable[[TrainOrder], TrainReply]
STOP_GRACE_S = 5.0  # for the order at hand; service managers wait 10 s or more before they kill


class _GraceIsOverError(BaseException):
    """Raised in the main thread, out of whatever it does; the order at hand is done again at the next start."""


class SetupError(ClientError):
    """Key, join file or data are missing or wrong."""

    exit_code = 2
    code = "setup"


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinFile:
    """What the coordinator gives every client: ``join.json``."""

    address: str
    ca: str
    bundle_sha256: str


def load_join_file(path: Path) -> JoinFile:
    """Read ``join.json``.

    Raises:
      SetupError: missing, or not written by a coordinator.
    """
    try:
        return JoinFile(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError as e:
        raise SetupError(
            f"{path}: no such join file", hint="ask the operator for join.json from the coordinator's home"
        ) from e
    except (OSError, ValueError, TypeError) as e:
        raise SetupError(
            f"{path} is no join file", hint="ask the operator for join.json from the coordinator's home"
        ) from e


def serve(
    home: Path, join: JoinFile, handler: Handler, *, on_ready: Callable[[], None] = lambda: None
) -> None:
    """Answer orders until SIGTERM or SIGINT; reconnects by itself when coordinator or network come back.

    On a signal the order at hand gets ``STOP_GRACE_S`` to end. What does not end is done again at the next start,
    as after a crash; a private order is then charged again.

    Raises:
      SetupError: there is no key in ``home``.
    """
    if not (home / "client.key").exists():
        raise SetupError(f"{home} holds no key", hint=f"make one: motet client init --home {home}")
    answer = sealed(handler, load_key(home), join.ca)
    stop = threading.Event()
    _end_on_signals(stop)
    link = FleetLink(join.address, join.ca.encode(), (home / "client.key").read_bytes(), home, stop)
    threading.Thread(target=keep_renewed, args=(home, stop), daemon=True, name="renewal").start()
    try:
        with link:
            if stop.is_set():
                return
            on_ready()
            FleetWorker(link, answer, join.bundle_sha256, home, stop).loop()
    except _GraceIsOverError:
        log.warning("stopped within an order; it is done again at the next start")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _end_on_signals(stop: threading.Event) -> None:
    def end(*_: object) -> None:
        if not stop.is_set():
            stop.set()
            signal.setitimer(signal.ITIMER_REAL, STOP_GRACE_S)

    def end_now(*_: object) -> None:
        raise _GraceIsOverError

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    signal.signal(signal.SIGALRM, end_now)

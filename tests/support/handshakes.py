"""A control API under handshakes that begin at once and go no further; in a process of its own, which may die of it."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from pathlib import Path

from control_house import house

from coordinator.rpc.server import Certificates

BEGINNING = b"\x16\x03\x01"
CALLERS, AT_ONCE = 6, 20


def read_anew(self, but=""):
    """The mistake: new certificates for each handshake, also where the files are the same."""
    return _read(self)


_read = Certificates.configuration


def serve_under_handshakes(folder: str, seconds: float, mode: str) -> None:
    """Serve while six callers open twenty connections each, again and again; half of them begin a handshake.

    Args:
      folder: of the coordinator.
      seconds: how long.
      mode: ``right``, or ``anew``.
    """
    if mode == "anew":
        Certificates.configuration = read_anew
    with house(Path(folder)) as served:
        host, port = served.address.split(":")
        until = time.monotonic() + seconds

        def call():
            while time.monotonic() < until:
                with contextlib.ExitStack() as opened, contextlib.suppress(OSError):
                    for i in range(AT_ONCE):
                        one = opened.enter_context(socket.create_connection((host, int(port))))
                        if i % 2:
                            one.send(BEGINNING)

        callers = [threading.Thread(target=call) for _ in range(CALLERS)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        served.connect("operator", "late").runs.list()
        assert served.counts.silent_connections() > CALLERS * AT_ONCE

"""``/metrics`` and ``/healthz`` on a port of their own: plain HTTP, GET only, nothing that is anybody's data."""

from __future__ import annotations

import json
import logging
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

from sqlalchemy import text

from coordinator.errors import StorageError
from coordinator.observing.metrics import CoordinatorCollector, metrics_text, registry_of
from coordinator.storage.artifacts import ArtifactStore
from coordinator.storage.database import Database
from coordinator.storage.where import database_of
from motet.errors import MotetError
from motet.ports import family_of, is_loopback, split_address

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from coordinator.observing.status import Status

log = logging.getLogger(__name__)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_TIMEOUT_S = 10.0


class ObservingError(MotetError):
    """The address of the metrics can not be used."""

    exit_code = 7


def health(database: Database, status: Status) -> dict[str, object]:
    """Whether it lives, whether it is ready for clients, and what stands in the way."""
    checks = {name: "up" if is_up else "down" for name, is_up in status.children_up().items()}
    try:
        with database.reading() as session:
            session.execute(text("SELECT 1"))
        checks["database"] = "up"
    except StorageError:
        checks["database"] = "down"
    checks["lead"] = "up" if status.is_leading else "standby"
    ready = status.grid is not None and all(state == "up" for state in checks.values())
    return {"live": True, "ready": ready, "checks": checks}


@contextmanager
def observed(address: str | None, home: Path, status: Status) -> Iterator[None]:
    """Answer on ``address`` within the context; None answers nowhere.

    Args:
      address: ``host:port``.
      home: the coordinator's state folder; its database has to be there.
      status: what the service says of itself.

    Raises:
      ObservingError: the address is taken or is not of this machine.
    """
    if address is None:
        yield
        return
    database = Database.as_it_is(database_of(home))
    registry = registry_of(CoordinatorCollector(database, ArtifactStore(home / "artifacts"), status))
    host, port = split_address(address)
    handler = _handler(lambda: metrics_text(registry), lambda: health(database, status))
    try:
        server = _Server((host, port), handler)
    except OSError as e:
        database.close()
        raise ObservingError(
            f"--metrics {address} can not be used: {e.strerror}",
            hint="choose another port, or stop who holds it",
        ) from e
    if not is_loopback(host):
        log.warning("metrics are shown to whoever reaches %s: there is no login and no TLS", address)
    thread = threading.Thread(target=server.serve_forever, args=(0.2,), name="metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join(_TIMEOUT_S)
        database.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self.address_family = family_of(address[0])
        super().__init__(address, handler)


def _handler(
    metrics: Callable[[], bytes], told: Callable[[], dict[str, object]]
) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = _TIMEOUT_S  # of a socket that says nothing
        server_version, sys_version = "motet", ""

        def do_GET(self) -> None:
            """``/metrics``; ``/healthz`` is ready or not, ``/healthz/live`` answers while the process does."""
            path = self.path.split("?")[0]
            if path == "/metrics":
                self._send(200, CONTENT_TYPE, metrics())
            elif path == "/healthz/live":
                self._send(200, "application/json", b'{"live": true}\n')
            elif path in {"/healthz", "/healthz/ready"}:
                found = told()
                self._send(
                    200 if found["ready"] else 503, "application/json", json.dumps(found).encode() + b"\n"
                )
            else:
                self._send(404, "text/plain", b"only /metrics and /healthz\n")

        def _send(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            log.debug("metrics: %s", format % args)

    return Handler

"""Serves the dashboard from a thread: plain HTTP on loopback, TLS with the coordinator's certificate elsewhere."""

from __future__ import annotations

import logging
import socket
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import uvicorn

from coordinator.dashboard.app import Place, build_app
from coordinator.dashboard.punctual import PunctualProtocol
from coordinator.dashboard.records import Records
from coordinator.dashboard.sessions import Sessions
from coordinator.storage.database import Database
from coordinator.storage.where import database_of, open_store
from motet.addresses import as_others_see, known_addresses
from motet.clock import Clock, SystemClock
from motet.errors import MotetError
from motet.ports import family_of, is_loopback, split_address

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from coordinator.observing.status import Status
    from coordinator.rpc.identity import Peer

log = logging.getLogger(__name__)
START_S, STOP_S = 30.0, 3.0
MOST_CONNECTIONS = 128
NAMES_OF_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


class DashboardError(MotetError):
    """The dashboard can not be served there."""

    exit_code = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Dashboard:
    """A served dashboard.

    Attributes:
      address: HOST:PORT as others reach it.
      is_tls: whether it is served over TLS.
    """

    address: str
    is_tls: bool
    sessions: Sessions

    @property
    def url(self) -> str:
        """Where it is; to see anything takes a link."""
        return f"{'https' if self.is_tls else 'http'}://{self.address}/"

    def link(self, peer: Peer) -> tuple[str, float]:
        """An address that opens one session for ``peer``, once, and when it ends."""
        key, until = self.sessions.link(peer)
        return f"{self.url}enter?key={key}", until


@contextmanager
def serving_dashboard(
    home: Path,
    listen: str,
    *,
    status: Status | None = None,
    names: Sequence[str] = (),
    federation: str = "",
    result: Mapping[str, object] | None = None,
    clock: Clock | None = None,
) -> Iterator[Dashboard]:
    """Serve the dashboard of a home within the context.

    Args:
      home: the coordinator's state folder.
      listen: HOST:PORT; port 0 takes the one from before where that is free, else any.
      status: what the service says of itself.
      names: host names that others use for this machine.
      federation: id of the federation.
      result: of a simulation.
      clock: for sessions.

    Raises:
      DashboardError: the address can not be listened on.
      StorageError: the database can not be opened.
    """
    bound = _bound(listen, known_addresses(home).dashboard)
    host, port = listen.rpartition(":")[0], bound.getsockname()[1]
    is_tls = not is_loopback(host)
    store = open_store(home, create=False)
    database = Database.as_it_is(database_of(home))
    try:
        records = Records(
            home=home,
            store=store,
            database=database,
            status=status,
            federation=federation,
            result=result or {},
        )
        sessions = Sessions(clock or SystemClock(), store.identities)
        place = Place(hosts=hosts_of(host, port, names), cookie=f"motet-{port}", is_tls=is_tls)
        tls = home / "tls"
        settings = uvicorn.Config(
            build_app(records, sessions, place),
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            ws="none",
            http=PunctualProtocol,
            loop="asyncio",
            limit_concurrency=MOST_CONNECTIONS,
            timeout_keep_alive=15,
            timeout_graceful_shutdown=1,
            ssl_keyfile=str(tls / "server.key") if is_tls else None,
            ssl_certfile=str(tls / "server.pem") if is_tls else None,
        )
        server = uvicorn.Server(settings)
        thread = threading.Thread(
            target=server.run, kwargs={"sockets": [bound]}, name="dashboard", daemon=True
        )
        thread.start()
        try:
            address = as_others_see(f"{host}:{port}", names)
            yield Dashboard(address=address, is_tls=is_tls, sessions=sessions)
        finally:
            server.should_exit = True
            thread.join(STOP_S)
    finally:
        bound.close()
        database.close()
        store.close()


def hosts_of(host: str, port: int, names: Sequence[str]) -> frozenset[str]:
    """What a browser may say in ``Host``: the names that are in the certificate, with the port."""
    known = {*NAMES_OF_LOOPBACK, host.lower(), *(name.lower() for name in names)}
    known |= {f"[{name}]" for name in known if ":" in name and not name.startswith("[")}
    usual = known if port in {80, 443} else set()
    return frozenset({f"{name}:{port}" for name in known} | usual)


def _bound(listen: str, before: str) -> socket.socket:
    """A listening socket; any free port is the one from before where that is free."""
    host, port = split_address(listen)
    wanted = port or (split_address(before)[1] if before else 0)
    for number in (wanted, port):
        try:
            return _listening(host, number)
        except OSError as e:
            failed = e
            if port or number == 0:
                break
    raise DashboardError(
        f"the dashboard can not listen on {listen}: {failed.strerror}",
        hint="choose another --dashboard HOST:PORT, or --no-dashboard",
    )


def _listening(host: str, port: int) -> socket.socket:
    made = socket.socket(family_of(host), socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, port))
        made.listen(64)
    except OSError:
        made.close()
        raise
    return made

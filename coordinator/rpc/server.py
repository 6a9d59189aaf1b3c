"""The server of the control API: one listener with mutual TLS, one for enrolment, or one on a private Unix socket.

gRPC for Python either requires a verified certificate of every peer of a port or asks none for one. So the two calls
that a peer without a certificate may make, Enrol and RenewSigned, have a port, a server and threads of their own: what
strangers send can not take a thread from those who are known.
"""

from __future__ import annotations

import hashlib
import logging
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health, health_pb2_grpc

from coordinator.rpc.artifacts import ArtifactServicer
from coordinator.rpc.budgets import BudgetServicer
from coordinator.rpc.clients import ClientServicer
from coordinator.rpc.identity import LOCAL_OPERATOR, NOBODY, Peer, Revocations, peer_of
from coordinator.rpc.interceptors import LARGEST_REQUEST_BYTES, Guard
from coordinator.rpc.ledger import LedgerServicer
from coordinator.rpc.recipes import RecipeServicer
from coordinator.rpc.rounds import MetricServicer, RoundServicer
from coordinator.rpc.runs import RunServicer
from coordinator.rpc.system import SystemServicer
from motet.errors import MotetError
from motet.ports import check_port_is_free
from motet.wire.v1 import control_pb2, control_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from coordinator.rpc.context import Resources

log = logging.getLogger(__name__)

THREADS, MOST_STREAMS = 40, 24
ENROLMENT_THREADS = 4
STOP_GRACE_S = 3.0
SILENT_LOOK_S = 15.0
SERVICERS: Mapping[str, type] = {
    "ClientService": ClientServicer,
    "RecipeService": RecipeServicer,
    "RunService": RunServicer,
    "RoundService": RoundServicer,
    "MetricService": MetricServicer,
    "ArtifactService": ArtifactServicer,
    "BudgetService": BudgetServicer,
    "LedgerService": LedgerServicer,
    "SystemService": SystemServicer,
}
OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.so_reuseport", 0),
    # What is larger than a request may be is refused by the guard, in words; far larger ones by gRPC, unread.
    ("grpc.max_receive_message_length", 2 * LARGEST_REQUEST_BYTES),
    ("grpc.max_metadata_size", 16 * 1024),
    ("grpc.max_concurrent_streams", 32),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.http2.max_ping_strikes", 3),
    ("grpc.max_connection_idle_ms", 600_000),
    ("grpc.server_handshake_timeout_ms", 10_000),
)
# Everybody shakes hands again within the hour, so that an ended certificate does not outlive its connection by more.
AGED = (("grpc.max_connection_age_ms", 3_600_000), ("grpc.max_connection_age_grace_ms", 60_000))
STRANGERS = (
    ("grpc.max_connection_age_ms", 20_000),
    ("grpc.max_connection_age_grace_ms", 5_000),
    ("grpc.max_concurrent_streams", 4),
)


class ControlServerError(MotetError):
    """The control API can not listen."""

    exit_code = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificates:
    """PEM files of the server and of the authority of its peers; read at each handshake, so that a renewal counts."""

    key: Path
    chain: Path
    authority: Path

    def configuration(self, but: str = "") -> tuple[grpc.ServerCertificateConfiguration | None, str]:
        """What gRPC takes for the next handshakes, and its SHA-256; no configuration where that is ``but``.

        Raises:
          OSError: a file can not be read.
        """
        key, chain, authority = (path.read_bytes() for path in (self.key, self.chain, self.authority))
        sha256 = hashlib.sha256(b"\0".join((key, chain, authority))).hexdigest()
        if sha256 == but:
            return None, sha256
        return grpc.ssl_server_certificate_configuration([(key, chain)], authority), sha256


class ControlServer:
    """The control API on its listeners. ``start``, then ``stop``.

    Args:
      resources: of the servicers.
      enrolment: servicer of ``EnrolmentService``; without one its calls do not exist.
      reflection: whether peers with the role may ask for the contract.
    """

    def __init__(self, resources: Resources, *, enrolment: object = None, reflection: bool = False) -> None:
        self._resources, self._enrolment, self._reflection = resources, enrolment, reflection
        self._servers: list[grpc.Server] = []
        self._says_silent = False
        self._health = health.HealthServicer(experimental_non_blocking=False)

    def listen(self, address: str, certificates: Certificates, revocations: Revocations) -> int:
        """Serve peers with a certificate; returns the port.

        Raises:
          ControlServerError: the address can not be listened on.
        """

        def identify(context: grpc.ServicerContext) -> Peer:
            federation, clock = self._resources.federation, self._resources.clock
            proved: Any = context.auth_context()
            return peer_of(proved, federation, revocations, clock.now())

        guard = Guard(identify, self._resources.counts, most_streams=MOST_STREAMS)
        server = _server(guard, THREADS, (*OPTIONS, *AGED))
        self._add_services(server)
        return self._bind(server, address, self._credentials(certificates, is_mutual=True), "--control")

    def listen_for_enrolment(self, address: str, certificates: Certificates) -> int:
        """Serve Enrol and RenewSigned, and nothing else, to peers without a certificate; returns the port.

        Raises:
          ControlServerError: the address can not be listened on.
        """
        guard = Guard(lambda _context: NOBODY, self._resources.counts, most_streams=1, most_slow=1)
        overridden = dict(STRANGERS)
        options = (*((k, v) for k, v in OPTIONS if k not in overridden), *STRANGERS)
        server = _server(guard, ENROLMENT_THREADS, options)
        control_pb2_grpc.add_EnrolmentServiceServicer_to_server(self._enrolment, server)  # type: ignore[no-untyped-call]
        return self._bind(server, address, self._credentials(certificates, is_mutual=False), "--enrolment")

    def listen_locally(self, path: Path) -> None:
        """Serve whoever can open a Unix socket in a private folder, as the operator of this home.

        Raises:
          ControlServerError: the socket can not be made.
        """
        guard = Guard(lambda _context: LOCAL_OPERATOR, self._resources.counts, tells_all=True)
        server = _server(guard, 8, OPTIONS)
        self._add_services(server)
        credentials = grpc.local_server_credentials(grpc.LocalConnectionType.UDS)
        self._bind(server, f"unix:{path}", credentials, "a socket")

    def start(self) -> None:
        """Answer calls."""
        for server in self._servers:
            server.start()
        if self._says_silent:
            threading.Thread(target=self._say_silent, name="control-handshakes", daemon=True).start()

    def stop(self, grace_s: float = STOP_GRACE_S) -> None:
        """Say that the server leaves, end streams, let calls finish for ``grace_s`` seconds."""
        self._health.enter_graceful_shutdown()
        self._resources.stopping.set()
        ending = [server.stop(grace_s) for server in self._servers]
        for ended in ending:
            ended.wait(grace_s + 5)

    def _say_silent(self) -> None:
        """Log how many connections made no call. One is counted when it was there at the look before as well."""
        counts, stopping = self._resources.counts, self._resources.stopping
        before = said = 0
        while not stopping.wait(SILENT_LOOK_S):
            now = counts.silent_connections()
            lasting, before = min(before, now), now
            if lasting > said:
                log.warning(
                    "%d connections to the control API made no call, %d since the start: no certificate, one that "
                    "has ended or is of another authority, no TLS at all, or idle",
                    lasting - said,
                    lasting,
                )
            said = lasting

    def _add_services(self, server: grpc.Server) -> None:
        servicers: dict[str, object] = {name: make(self._resources) for name, make in SERVICERS.items()}
        if self._enrolment is not None:
            servicers["EnrolmentService"] = self._enrolment
        for name, servicer in servicers.items():
            getattr(control_pb2_grpc, f"add_{name}Servicer_to_server")(servicer, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        if self._reflection:
            from grpc_reflection.v1alpha import reflection

            names = [f"motet.v1.{name}" for name in servicers]
            reflection.enable_server_reflection(
                [*names, health.SERVICE_NAME, reflection.SERVICE_NAME], server
            )

    def _credentials(self, certificates: Certificates, *, is_mutual: bool) -> grpc.ServerCredentials:
        counts = self._resources.counts
        self._says_silent = True
        first, given = certificates.configuration()

        def fetch() -> grpc.ServerCertificateConfiguration | None:
            """None as long as the files are the same.

            gRPC frees what it made of the certificates before as soon as it gets new ones, also while another
            handshake makes use of it: with new ones at each handshake, a few callers at once ended the process.
            """
            nonlocal given
            counts.handshake()
            try:
                found, given = certificates.configuration(but=given)
            except OSError:
                log.exception("certificates of the control API can not be read; those from before stay")
                return None
            return found

        return grpc.dynamic_ssl_server_credentials(
            first,  # type: ignore[arg-type] # there is one: none was given before
            fetch,  # type: ignore[arg-type] # None keeps what there is, which the stubs do not say
            require_client_authentication=is_mutual,
        )

    def _bind(
        self, server: grpc.Server, address: str, credentials: grpc.ServerCredentials, option: str
    ) -> int:
        port, why = 0, "gRPC can not use it"
        try:
            where = _numeric(address)
            check_port_is_free(where)
            port = server.add_secure_port(where, credentials)
        except OSError as e:
            why = e.strerror or str(e)
        except RuntimeError:
            pass
        if not port:
            raise ControlServerError(
                f"the control API can not listen on {address} ({option}): {why}",
                hint=f"choose another {option} HOST:PORT, or stop who holds it",
            )
        self._servers.append(server)
        return port


def _numeric(address: str) -> str:
    """``address`` with a name resolved as this machine does.

    gRPC's own resolver takes every address of whoever has the name, and would listen on networks that were not meant.

    Raises:
      OSError: there is no such name.
    """
    host, _, port = address.rpartition(":")
    if address.startswith("unix:"):
        return address
    try:
        ip_address(host.strip("[]"))
    except ValueError:
        found = str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])
        return f"[{found}]:{port}" if ":" in found else f"{found}:{port}"
    return address


def _server(guard: Guard, threads: int, options: tuple[tuple[str, int], ...]) -> grpc.Server:
    pool = ThreadPoolExecutor(threads, thread_name_prefix="control")
    return grpc.server(pool, interceptors=[guard], options=options)


def called_methods() -> list[str]:
    """Every call of the contract, as ``/package.Service/Method``."""
    services = control_pb2.DESCRIPTOR.services_by_name.values()
    return [f"/{s.full_name}/{m.name}" for s in services for m in s.methods]

"""The control API of a running coordinator: its listeners, ``control.json``, and the operator of this home."""

from __future__ import annotations

import logging
import os
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from coordinator.authority import ensure_authority, issue_identity
from coordinator.authority.enrolment import Enrolment
from coordinator.rpc.context import Resources, nobody
from coordinator.rpc.enrolment import EnrolmentServicer
from coordinator.rpc.interceptors import CallCounts
from coordinator.rpc.server import Certificates, ControlServer, ControlServerError
from coordinator.storage.where import open_store
from motet.addresses import Addresses, as_others_see, known_addresses, remember_addresses
from motet.identity import IdentityError, load_identity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from coordinator.dashboard.server import Dashboard

log = logging.getLogger(__name__)
EVERYWHERE = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104 - compared, not bound
OPERATOR = ("identities", "operator")


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlAddress:
    """Where the control API listens, and what it has counted. ``dashboard``: its address; empty without one."""

    control: str
    federation: str
    counts: CallCounts
    dashboard: str = ""


@contextmanager
def serving_control(
    home: Path,
    listen: str,
    *,
    reflection: bool = False,
    enrolment: str = "127.0.0.1:0",
    names: Sequence[str] = (),
    approves_runs: bool = False,
    dashboard: Dashboard | None = None,
    presence: Callable[[], tuple[frozenset[str], Mapping[str, float]]] = nobody,
) -> Iterator[ControlAddress]:
    """Serve the control API of a home.

    ``control.json`` tells commands on this machine where; its ``pid`` is there as long as the API answers. The user of
    this home has the role operator, by the identity in ``identities/operator``, which is made anew when it ends.

    Args:
      home: the coordinator's state folder.
      listen: HOST:PORT; port 0 takes a free one.
      reflection: whether operators may ask for the contract.
      enrolment: HOST:PORT where clients without a certificate enrol; port 0 takes a free one.
      names: host names that others use for this machine.
      approves_runs: a researcher's run waits for an operator's approval.
      dashboard: what links open; None without one.
      presence: who is online, and client -> when it was last seen.

    Raises:
      ControlServerError: the address can not be listened on.
      StorageError: the database can not be opened.
    """
    authority = ensure_authority(home)
    store = open_store(home)
    try:
        counts = CallCounts()
        resources = Resources(
            home=home,
            store=store,
            counts=counts,
            federation=authority.federation,
            dashboard_link=None if dashboard is None else dashboard.link,
            asks_operator=approves_runs,
            presence=presence,
        )
        clock = resources.clock
        servicer = EnrolmentServicer(Enrolment(authority, store, home, clock), store.identities)
        server = ControlServer(resources, enrolment=servicer, reflection=reflection)
        tls = home / "tls"
        certificates = Certificates(
            key=tls / "server.key", chain=tls / "server.pem", authority=tls / "ca.crt"
        )
        before = known_addresses(home)
        address = _bound(listen, before.control, lambda a: server.listen(a, certificates, store.identities))
        strangers = _bound(
            enrolment, before.enrolment, lambda a: server.listen_for_enrolment(a, certificates)
        )
        host, port = address.rpartition(":")[::2]
        told = Addresses(
            control=as_others_see(address, names),
            enrolment=as_others_see(strangers, names),
            address=f"{EVERYWHERE.get(host, host)}:{port}",
            federation=authority.federation,
            dashboard=before.dashboard if dashboard is None else dashboard.address,
            pid=os.getpid(),
        )
        servicer.serve_at(told)
        ensure_operator(home)
        server.start()
        try:
            remember_addresses(home, told)
            yield ControlAddress(
                control=told.control,
                federation=authority.federation,
                counts=counts,
                dashboard="" if dashboard is None else dashboard.url,
            )
        finally:
            remember_addresses(home, replace(told, pid=0))
            server.stop()
    finally:
        store.close()


def _bound(listen: str, before: str, bind: Callable[[str], int]) -> str:
    """Listen; any free port is the one from before where that is free. Returns ``host:port``."""
    host, _, port = listen.rpartition(":")
    before_port = before.rpartition(":")[2]
    if port == "0" and before_port:
        try:
            return f"{host}:{bind(f'{host}:{before_port}')}"
        except ControlServerError:
            log.info("the port from before is taken; a new one is used")
    return f"{host}:{bind(listen)}"


def ensure_operator(home: Path) -> Path:
    """The identity of the user of this home; made anew when it is missing, out of date, or of another authority.

    Returns:
      its folder.

    Raises:
      StorageError: the record can not be written.
    """
    folder = home.joinpath(*OPERATOR)
    try:
        load_identity(folder)
        return folder
    except IdentityError as e:
        log.info("a new identity for this home's operator: %s", e.message)
    issue_identity(home, "operator", "local", folder)
    return folder

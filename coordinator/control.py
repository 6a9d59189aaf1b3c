"""The control API of a running coordinator: its listeners, ``control.json``, and the operator of this home."""

from __future__ import annotations

import logging
import os
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from coordinator.authority import ensure_authority, issue_identity
from coordinator.authority.addresses import Addresses, remember_addresses
from coordinator.rpc.context import Resources
from coordinator.rpc.interceptors import CallCounts
from coordinator.rpc.server import Certificates, ControlServer
from coordinator.storage.where import open_store
from motet.identity import IdentityError, load_identity

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

log = logging.getLogger(__name__)
EVERYWHERE = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104 - compared, not bound
OPERATOR = ("identities", "operator")


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlAddress:
    """Where the control API listens, and what it has counted."""

    control: str
    federation: str
    counts: CallCounts


@contextmanager
def serving_control(
    home: Path, listen: str, *, name: str = "", reflection: bool = False
) -> Iterator[ControlAddress]:
    """Serve the control API of a home.

    ``control.json`` tells commands on this machine where; its ``pid`` is there as long as the API answers. The user of
    this home has the role operator, by the identity in ``identities/operator``, which is made anew when it ends.

    Args:
      home: the coordinator's state folder.
      listen: HOST:PORT; port 0 takes a free one.
      name: host name by which others reach this machine; by default the one of ``listen``.
      reflection: whether operators may ask for the contract.

    Raises:
      ControlServerError: the address can not be listened on.
      StorageError: the database can not be opened.
    """
    authority = ensure_authority(home)
    store = open_store(home)
    try:
        counts = CallCounts()
        resources = Resources(home=home, store=store, counts=counts, federation=authority.federation)
        server = ControlServer(resources, reflection=reflection)
        tls = home / "tls"
        certificates = Certificates(
            key=tls / "server.key", chain=tls / "server.pem", authority=tls / "ca.crt"
        )
        host, port = listen.rpartition(":")[0], server.listen(listen, certificates, store.identities)
        told = Addresses(
            control=f"{name if name and host in EVERYWHERE else host}:{port}",
            address=f"{EVERYWHERE.get(host, host)}:{port}",
            federation=authority.federation,
            pid=os.getpid(),
        )
        ensure_operator(home)
        server.start()
        try:
            remember_addresses(home, told)
            yield ControlAddress(control=told.control, federation=authority.federation, counts=counts)
        finally:
            remember_addresses(home, replace(told, pid=0))
            server.stop()
    finally:
        store.close()


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

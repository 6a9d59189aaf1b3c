"""The control API of a running coordinator: its listeners, ``control.json``, and the operator of this home."""

from __future__ import annotations

import json
import logging
import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from coordinator.authority import ensure_authority, issue_identity
from coordinator.rpc.context import Resources
from coordinator.rpc.interceptors import CallCounts
from coordinator.rpc.server import Certificates, ControlServer
from coordinator.storage.where import open_store
from motet.identity import IdentityError, load_identity

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

log = logging.getLogger(__name__)
CONTROL_FILE = "control.json"
OPERATOR = ("identities", "operator")


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlAddress:
    """Where the control API listens, and what it has counted."""

    control: str
    federation: str
    counts: CallCounts


@contextmanager
def serving_control(home: Path, listen: str, *, reflection: bool = False) -> Iterator[ControlAddress]:
    """Serve the control API of a home.

    ``control.json`` tells commands on this machine where; it is there as long as the API answers. The user of this
    home has the role operator, by the identity in ``identities/operator``, which is made anew when it ends.

    Args:
      home: the coordinator's state folder.
      listen: HOST:PORT; port 0 takes a free one.
      reflection: whether operators may ask for the contract.

    Raises:
      ControlServerError: the address can not be listened on.
      StorageError: the database can not be opened.
    """
    authority = ensure_authority(home)
    told = home / CONTROL_FILE
    told.unlink(missing_ok=True)
    store = open_store(home)
    try:
        counts = CallCounts()
        resources = Resources(home=home, store=store, counts=counts, federation=authority.federation)
        server = ControlServer(resources, reflection=reflection)
        tls = home / "tls"
        certificates = Certificates(
            key=tls / "server.key", chain=tls / "server.pem", authority=tls / "ca.crt"
        )
        host = listen.rpartition(":")[0]
        address = f"{host}:{server.listen(listen, certificates, store.identities)}"
        ensure_operator(home)
        server.start()
        try:
            _tell(
                told,
                {"address": _reached_at(address), "federation": authority.federation, "pid": os.getpid()},
            )
            yield ControlAddress(control=address, federation=authority.federation, counts=counts)
        finally:
            told.unlink(missing_ok=True)
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


def _reached_at(address: str) -> str:
    """Where a process on this machine reaches a listener."""
    host, _, port = address.rpartition(":")
    everywhere = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104 - compared, not bound
    return f"{everywhere.get(host, host)}:{port}"


def _tell(path: Path, facts: dict[str, object]) -> None:
    staging = path.with_name(f".{path.name}.{os.getpid()}")
    staging.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    staging.replace(path)

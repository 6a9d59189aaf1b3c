"""A home's API in this process: for commands while no coordinator serves it. Same servicers, same store, same guard."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from coordinator.authority.authority import open_authority
from coordinator.authority.enrolment import Enrolment
from coordinator.rpc.context import Resources
from coordinator.rpc.enrolment import EnrolmentServicer
from coordinator.rpc.interceptors import CallCounts
from coordinator.rpc.server import ControlServer
from coordinator.storage.where import open_store
from motet.addresses import known_addresses

if TYPE_CHECKING:
    from collections.abc import Iterator

    from coordinator.storage.store import Store

LOCAL_FEDERATION = "local"


@contextmanager
def serving_home(home: Path, *, create: bool = False) -> Iterator[str]:
    """Serve a home on a Unix socket that only this user can open; yields gRPC's address of it.

    Args:
      home: the coordinator's state folder.
      create: make a missing database.

    Raises:
      StorageError: the database can not be opened.
    """
    store = open_store(home, create=create)
    try:
        resources = Resources(home=home, store=store, counts=CallCounts(), federation=LOCAL_FEDERATION)
        with tempfile.TemporaryDirectory(prefix="motet-") as folder:  # mode 0700
            path = Path(folder) / "control"
            server = ControlServer(resources, enrolment=_enrolment(home, store, resources))
            server.listen_locally(path)
            server.start()
            try:
                yield f"unix:{path}"
            finally:
                server.stop(0.0)
    finally:
        store.close()


def _enrolment(home: Path, store: Store, resources: Resources) -> EnrolmentServicer:
    """Who belongs to the federation; nobody listens for clients here."""
    has_authority = (home / "tls" / "ca.key").exists()
    enrolment = Enrolment(open_authority(home), store, home, resources.clock) if has_authority else None
    servicer = EnrolmentServicer(enrolment, store.identities)
    servicer.serve_at(known_addresses(home))
    return servicer

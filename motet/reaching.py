"""``motet.connect``: to a coordinator somewhere, or to that of a home on this machine, whether it runs or not."""

from __future__ import annotations

import os
import socket
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from motet.addresses import known_addresses
from motet.connection.channel import Channel
from motet.connection.connection import Connection
from motet.connection.errors import BadRequestError
from motet.identity import IdentityError, load_identity
from motet.ports import split_address

if TYPE_CHECKING:
    from collections.abc import Iterator

    from motet.identity import Identity

OPERATOR_FOLDER = Path("identities") / "operator"
_KNOCK_S = 2.0
_SOCKETS = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_LISTEN = "0A"


@contextmanager
def connect(
    address: str | None = None,
    *,
    identity: Path | str | None = None,
    home: Path | str | None = None,
    create: bool = False,
) -> Iterator[Connection]:
    """Connect to a coordinator.

    Args:
      address: HOST:PORT of its control API; by default what the identity's folder names.
      identity: folder that proves who is calling.
      home: in their place, the state folder of a coordinator on this machine, as its operator. When no coordinator
        serves that home, this process serves it for as long as the connection is open.
      create: with ``home``: make a missing database.

    Yields:
      the connection.

    Raises:
      BadRequestError: neither a home nor an identity, or both; or no address.
      IdentityError: the folder holds no identity that can be used.
      StorageError: the home's database can not be opened.
    """
    if (home is None) == (identity is None):
        raise BadRequestError(
            "name a home or an identity, and one of them only",
            hint="--home FOLDER on the coordinator's machine; elsewhere --coordinator HOST:PORT --identity FOLDER",
        )
    if identity is not None:
        somebody = load_identity(Path(identity))
        where = address or somebody.control
        if not where:
            raise BadRequestError(
                "the identity names no coordinator", hint="say where it is: --coordinator HOST:PORT"
            )
        with Connection(Channel.secure(where, somebody)) as connection:
            yield connection
        return
    place = Path(home or "")
    served = served_at(place)
    if served is not None:
        with Connection(Channel.secure(served, _operator(place))) as connection:
            yield connection
        return
    from coordinator.rpc.local import serving_home

    with serving_home(place, create=create) as target, Connection(Channel.on_socket(target)) as connection:
        yield connection


def _operator(home: Path) -> Identity:
    """Who the user of a home is to its coordinator; made anew where it has ended."""
    try:
        return load_identity(home / OPERATOR_FOLDER)
    except IdentityError:
        from coordinator.control import ensure_operator

        return load_identity(ensure_operator(home))


def served_at(home: Path) -> str | None:
    """Address of the coordinator that serves a home now; None where none does."""
    told = known_addresses(home)
    if not (told.pid and told.address):
        return None  # it has stopped, or never was
    try:
        host, port = split_address(told.address)
        os.kill(told.pid, 0)
        if not _is_listened_on(port):
            socket.create_connection((host, port), timeout=_KNOCK_S).close()
    except (OSError, ValueError):
        return None  # nobody is there, or another user's process
    return told.address


def _is_listened_on(port: int) -> bool:
    """Whether Linux says that a socket of this machine listens there; a knock would count as a failed handshake."""
    for table in _SOCKETS:
        try:
            rows = [line.split() for line in table.read_text(encoding="ascii").splitlines()[1:]]
        except (OSError, ValueError):
            continue
        if any(len(row) > 3 and row[1].endswith(f":{port:04X}") and row[3] == _LISTEN for row in rows):
            return True
    return False

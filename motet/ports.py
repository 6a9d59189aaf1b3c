"""Addresses as ``host:port``, and ports of this machine: whether one can be had, and one that is free."""

from __future__ import annotations

import secrets
import socket
from ipaddress import ip_address

_EVERY_ADDRESS = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared, not bound

_FIRST, _LAST, _TRIES = 20_000, 32_000, 100


def split_address(address: str) -> tuple[str, int]:
    """Host, without the brackets of an IPv6 address, and port.

    Raises:
      ValueError: the port is no number.
    """
    host, _, port = address.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)


def family_of(host: str) -> socket.AddressFamily:
    """Of an address; a name has IPv4."""
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def reached_here(address: str) -> tuple[str, int]:
    """Host and port by which this machine reaches who listens at ``address``, which may mean every address."""
    host, port = split_address(address)
    return _EVERY_ADDRESS.get(host, host), port


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches it; of names, ``localhost`` alone."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def check_port_is_free(address: str) -> None:
    """Raise where nobody could listen, before a library that says it badly, or late, tries.

    Args:
      address: ``host:port``, an IPv6 address in brackets or not. A socket in the file system (``unix:``) and port 0
        are not looked at.

    Raises:
      OSError: somebody has it, or this machine has no such address; ``strerror`` says which.
    """
    if address.startswith("unix:"):
        return
    host, port = split_address(address)
    if not port:
        return
    with socket.socket(family_of(host), socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OverflowError as e:
            raise OSError(0, "ports go from 0 to 65535") from e


def free_port() -> int:
    """A loopback port that nobody uses now, for a process that listens a little later.

    It is below those that systems, as they come, give to connections and to whoever asks for any port, so that nobody
    is given it meanwhile. A client that dials such a port where nobody listens could even be given the same as its own,
    connect to itself, and so hold it.

    Raises:
      OSError: none was found.
    """
    for _ in range(_TRIES):
        port = _FIRST + secrets.randbelow(_LAST - _FIRST)
        try:
            check_port_is_free(f"127.0.0.1:{port}")
        except OSError:
            continue
        return port
    raise OSError(0, f"no free port was found between {_FIRST} and {_LAST}")

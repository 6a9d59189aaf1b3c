"""Ports of this machine: whether one can be had, and one that is free."""

from __future__ import annotations

import socket


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
    host, _, port = address.rpartition(":")
    if not int(port):
        return
    kind = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(kind, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]"), int(port)))
        except OverflowError as e:
            raise OSError(0, "ports go from 0 to 65535") from e


def free_port() -> int:
    """A loopback port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

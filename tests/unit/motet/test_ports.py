"""Ports: what is taken, not of this machine or no port is told before somebody listens."""

import errno
import socket

import pytest

from motet.ports import check_port_is_free, free_port, is_loopback, reached_here, split_address


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_a_port_that_somebody_has_is_told_and_is_free_once_it_is_given_back(family, host):
    with socket.socket(family) as holder:
        try:
            holder.bind((host, 0))
        except OSError:
            pytest.skip(f"{host} is not of this machine")
        holder.listen()
        written = [f"[{host}]" if ":" in host else host, host]
        port = holder.getsockname()[1]
        for name in written:
            with pytest.raises(OSError, match="in use") as told:
                check_port_is_free(f"{name}:{port}")
            assert told.value.errno == errno.EADDRINUSE
    for name in written:
        check_port_is_free(f"{name}:{port}")


@pytest.mark.parametrize(
    ("address", "why"),
    [("192.0.2.1:8444", "assign"), ("127.0.0.1:65536", "65535"), ("127.0.0.1:-1", "65535")],
)
def test_what_can_not_be_listened_on_is_told(address, why):
    with pytest.raises(OSError, match=why):
        check_port_is_free(address)


@pytest.mark.parametrize("address", ["unix:/run/motet.sock", "127.0.0.1:0", "192.0.2.1:0"])
def test_sockets_in_the_file_system_and_any_port_are_not_looked_at(address):
    check_port_is_free(address)


def test_a_free_port_can_be_had():
    check_port_is_free(f"127.0.0.1:{free_port()}")


@pytest.mark.parametrize(
    ("address", "split", "reached"),
    [
        ("127.0.0.1:8443", ("127.0.0.1", 8443), ("127.0.0.1", 8443)),
        ("0.0.0.0:8443", ("0.0.0.0", 8443), ("127.0.0.1", 8443)),
        (":8443", ("", 8443), ("127.0.0.1", 8443)),
        ("[::]:8443", ("::", 8443), ("::1", 8443)),
        ("::1:8443", ("::1", 8443), ("::1", 8443)),
        ("[fe80::1]:1", ("fe80::1", 1), ("fe80::1", 1)),
        ("ward.example:443", ("ward.example", 443), ("ward.example", 443)),
    ],
)
def test_an_address_is_split_and_one_that_means_all_is_reached_on_this_machine(address, split, reached):
    assert split_address(address) == split
    assert reached_here(address) == reached


@pytest.mark.parametrize("address", ["", "host", "host:", "host:http"])
def test_an_address_without_a_port_is_no_address(address):
    with pytest.raises(ValueError, match="invalid literal"):
        split_address(address)


def test_loopback_is_what_only_this_machine_reaches():
    assert all(is_loopback(host) for host in ("127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost"))
    assert not any(is_loopback(host) for host in ("0.0.0.0", "::", "192.0.2.1", "ward.example", ""))

"""Callers of the dashboard who say nothing, or never come to an end, do not keep others out."""

import http.client
import socket
import time
from contextlib import ExitStack

import pytest

from coordinator.dashboard import punctual, server
from coordinator.dashboard.server import serving_dashboard
from coordinator.storage.where import open_store

pytestmark = pytest.mark.integration
PLACES = 4
BEGINNINGS = [
    b"",
    b"GET / HTTP/1.1\r\nHost: ",
    b"POST /leave HTTP/1.1\r\nHost: {host}\r\nContent-Length: 9\r\n\r\nab",
]


@pytest.fixture
def home(tmp_path, monkeypatch):
    open_store(tmp_path).close()
    monkeypatch.setattr(server, "MOST_CONNECTIONS", PLACES)
    return tmp_path


def status(address):
    connection = http.client.HTTPConnection(address, timeout=30)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status
    finally:
        connection.close()


def hold_all(stack, address, beginning):
    """Take every place and stay."""
    host, _, port = address.rpartition(":")
    for _ in range(PLACES):
        held = stack.enter_context(socket.create_connection((host, int(port))))
        held.sendall(beginning.replace(b"{host}", address.encode()))


def test_without_patience_s_end_silent_callers_keep_everybody_out(home, monkeypatch):
    monkeypatch.setattr(punctual, "REQUEST_S", 3600.0)
    with serving_dashboard(home, "127.0.0.1:0") as shown, ExitStack() as stack:
        assert status(shown.address) == 401
        hold_all(stack, shown.address, b"")
        time.sleep(1.0)
        assert status(shown.address) == 503


@pytest.mark.parametrize("beginning", BEGINNINGS, ids=["silent", "half a head", "half a body"])
def test_silent_callers_do_not_keep_others_out(home, monkeypatch, beginning):
    monkeypatch.setattr(punctual, "REQUEST_S", 0.3)
    with serving_dashboard(home, "127.0.0.1:0") as shown, ExitStack() as stack:
        hold_all(stack, shown.address, beginning)
        deadline = time.monotonic() + 30
        while (found := status(shown.address)) != 401:
            assert time.monotonic() < deadline, found
            time.sleep(0.05)


def is_ended(connection):
    """Whether the other side closes it without a word."""
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


def test_one_address_does_not_hold_all_places(home, monkeypatch):
    monkeypatch.setattr(punctual, "MOST_OF_ONE", 2)
    with serving_dashboard(home, "127.0.0.1:0") as shown, ExitStack() as stack:
        host, _, port = shown.address.rpartition(":")
        made = [stack.enter_context(socket.create_connection((host, int(port)))) for _ in range(3)]
        for connection in made:
            connection.settimeout(30)
        assert is_ended(made[2])
        made[0].sendall(f"GET / HTTP/1.1\r\nHost: {shown.address}\r\n\r\n".encode())
        assert made[0].recv(12) == b"HTTP/1.1 401"


def test_a_connection_is_kept_from_one_request_to_the_next(home, monkeypatch):
    monkeypatch.setattr(punctual, "REQUEST_S", 0.3)
    with serving_dashboard(home, "127.0.0.1:0") as shown:
        connection = http.client.HTTPConnection(shown.address, timeout=30)
        connection.connect()
        ours = connection.sock
        for _ in range(3):
            connection.request("GET", "/static/motet.css")
            assert len(connection.getresponse().read()) > 1000
            time.sleep(0.5)  # longer than a request may take
        assert connection.sock is ours
        connection.close()

"""Whether a coordinator serves a home is found out without a connection that its server would take for a stranger's."""

import os
import socket
import sys

import pytest

from motet import reaching
from motet.addresses import Addresses, remember_addresses


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as made:
        made.settimeout(0.2)
        yield made


def told(home, listener, pid):
    address = f"127.0.0.1:{listener.getsockname()[1]}"
    remember_addresses(home, Addresses(control=address, address=address, pid=pid))
    return address


def knocks(listener):
    try:
        listener.accept()[0].close()
    except TimeoutError:
        return 0
    return 1


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell who listens")
def test_a_command_on_the_coordinators_machine_does_not_knock_at_its_api(tmp_path, listener, monkeypatch):
    address = told(tmp_path, listener, os.getpid())
    assert reaching.served_at(tmp_path) == address
    assert knocks(listener) == 0
    monkeypatch.setattr(reaching, "_SOCKETS", (tmp_path / "none",))  # positive control: where it is not told
    assert reaching.served_at(tmp_path) == address
    assert knocks(listener) == 1


def test_a_home_whose_coordinator_is_gone_is_served_by_nobody(tmp_path, listener):
    told(tmp_path, listener, os.getpid())
    listener.close()
    assert reaching.served_at(tmp_path) is None
    with socket.create_server(("127.0.0.1", 0)) as other:
        told(tmp_path, other, 2**22 + 1)  # no such process
        assert reaching.served_at(tmp_path) is None

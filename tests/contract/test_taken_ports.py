"""A port that somebody has is told with the option that named it and the reason, and gRPC writes no line of its own."""

import socket

import pytest
from control_house import house

from coordinator.rpc import server as control_server
from coordinator.rpc.server import ControlServerError


@pytest.fixture
def served(tmp_path):
    with house(tmp_path / "house", enrols=True) as made:
        yield made


@pytest.fixture
def taken():
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        yield f"127.0.0.1:{holder.getsockname()[1]}"


def test_a_taken_port_is_told_with_its_option_and_the_reason(served, taken, capfd, monkeypatch):
    ways = {
        "--control": lambda: served.server.listen(taken, served.certificates, served.store.identities),
        "--enrolment": lambda: served.server.listen_for_enrolment(taken, served.certificates),
    }
    capfd.readouterr()
    for option, listen in ways.items():
        with pytest.raises(
            ControlServerError, match=rf"{taken} \({option}\): Address already in use"
        ) as told:
            listen()
        assert option in told.value.hint
    assert capfd.readouterr().err == ""
    monkeypatch.setattr(control_server, "check_port_is_free", lambda _address: None)  # positive control
    with pytest.raises(ControlServerError, match="gRPC can not use it"):
        ways["--control"]()
    assert "Address already in use" in capfd.readouterr().err


def test_an_address_of_another_machine_is_told(served):
    with pytest.raises(ControlServerError, match="Cannot assign requested address"):
        served.server.listen("192.0.2.1:8444", served.certificates, served.store.identities)


def test_a_port_that_was_used_a_moment_ago_is_free(served):
    """A coordinator that starts again takes its port back at once."""
    with socket.socket() as first:
        first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        first.bind(("127.0.0.1", 0))
        first.listen()
        address = first.getsockname()
        with socket.create_connection(address, timeout=10):
            first.accept()[0].close()
    assert (
        served.server.listen(f"127.0.0.1:{address[1]}", served.certificates, served.store.identities)
        == address[1]
    )

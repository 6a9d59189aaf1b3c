"""Failed handshakes: by kind at the gateway, as connections without a call at the control API; logged, no value is."""

import asyncio
import logging
import socket
import ssl
import threading
import time

import pytest
import uvicorn
from control_house import house

from coordinator.authority import ensure_authority
from coordinator.engine.gateway import FleetOnly
from coordinator.engine.handshakes import counting
from coordinator.engine.patience import ImpatientProtocol
from coordinator.rpc import server as control_server


async def _no_app(_scope, _receive, _send):
    raise AssertionError("nothing is forwarded")


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    """The gateway's filter behind its TLS: address, authority's file, and what it has counted."""
    home = tmp_path_factory.mktemp("gateway")
    ensure_authority(home)
    config = uvicorn.Config(
        FleetOnly(_no_app),
        port=0,
        ssl_certfile=home / "tls/server.pem",
        ssl_keyfile=home / "tls/server.key",
        http=ImpatientProtocol,
        lifespan="off",
        log_level="warning",
    )
    config.load()
    counts = counting(config.ssl)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
    thread.start()
    assert until(lambda: server.started)
    yield server.servers[0].sockets[0].getsockname()[:2], home / "tls/ca.crt", counts
    server.should_exit = True
    thread.join(30)


def until(condition, seconds=40.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


def test_the_gateway_counts_failed_handshakes_by_kind_and_logs_no_value(gateway, caplog):
    address, authority, counts = gateway
    trusting = ssl.create_default_context(cafile=authority)
    with caplog.at_level(logging.WARNING, "coordinator.engine.handshakes"):
        for _ in range(3):
            with pytest.raises(ssl.SSLCertVerificationError), socket.create_connection(address, 10) as plain:
                ssl.create_default_context().wrap_socket(plain, server_hostname="localhost")
        with socket.create_connection(address, 10) as plain:
            plain.sendall(b"POST /SECRET HTTP/1.1\r\n\r\n")
            assert until(lambda: "http_request" in counts.counts())
        assert until(lambda: counts.counts().get("tlsv1_alert_unknown_ca") == 3)
    before = counts.counts()
    assert before["http_request"] == 1
    plain = socket.create_connection(address, 10)  # control: one that succeeds is none of them
    with plain, trusting.wrap_socket(plain, server_hostname="localhost") as spoken:
        spoken.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert spoken.recv(100).startswith(b"HTTP/1.1 404")
    with socket.create_connection(address, 10):
        pass  # one that just leaves is none either
    assert counts.counts() == before
    said = [r.getMessage() for r in caplog.records]
    assert [s for s in said if "unknown_ca" in s] == [
        "a TLS handshake failed: tlsv1_alert_unknown_ca (1 since the start)",
        "a TLS handshake failed: tlsv1_alert_unknown_ca (2 since the start)",
    ]
    assert "SECRET" not in "".join(said)


def test_connections_to_the_control_api_without_a_call_are_logged_and_others_are_not(
    tmp_path, caplog, monkeypatch
):
    monkeypatch.setattr(control_server, "SILENT_LOOK_S", 0.3)
    with caplog.at_level(logging.WARNING, "coordinator.rpc.server"), house(tmp_path / "house") as served:
        served.connect("operator").runs.list()
        time.sleep(1.0)
        assert not [r for r in caplog.records if "made no call" in r.getMessage()]  # control
        host, _, port = served.address.rpartition(":")
        for _ in range(3):
            with socket.create_connection((host, int(port)), 10) as plain:
                plain.sendall(b"GET /SECRET HTTP/1.1\r\n\r\n")
                plain.recv(100)

        def said():
            return [r.getMessage() for r in list(caplog.records) if "made no call" in r.getMessage()]

        assert until(lambda: sum(int(s.split()[0]) for s in said()) >= 3)
        assert until(lambda: served.counts.refusals().get("handshake") == 3)
    assert sum(int(s.split()[0]) for s in said()) == 3
    assert "SECRET" not in "".join(said())

"""What a stranger on the network gets from the gateway of a running federation, beside what the SuperLink would say."""

import http.client
import json
import socket
import ssl

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("federation")]

OURS = "/v1/fleet/pull-messages"
HIDDEN = (
    "/v1/control/list-runs",
    "/v1/control/start-run",
    "/v1/control/register-node",
    "/v1/runtime/acquire-task",
    "/v1/serverappio/pull-task-input",
    "/v1/fleet/register-node",
    "/v1/fleet/get-fab",
    "/v1/fleet/",
    "/v1/fleet",
    "/",
    "/docs",
    "/openapi.json",
    "/health",
    "/v1/fleet/../control/list-runs",
    "/v1/fleet/%2e%2e/control/list-runs",
    "/v1/fleet/pull%2dmessages",
    "//v1/fleet/pull-messages",
    "/v1/fleet/pull-messages/",
    "/V1/FLEET/PULL-MESSAGES",
)


@pytest.fixture
def tls(federation):
    return ssl.create_default_context(cadata=json.loads(federation.join.read_text())["ca"])


def ask(address, path, context, *, method="POST", headers=(), body=b""):
    """Status of one request, its path sent as it stands."""
    host, port = address.rsplit(":", 1)
    connection = http.client.HTTPSConnection(host, int(port), context=context, timeout=10)
    try:
        connection.putrequest(method, path)
        length = (("Content-Length", str(len(body))),)
        for name, value in (("Content-Type", "application/protobuf"), *(headers or length)):
            connection.putheader(name, value)
        connection.endheaders(body)
        return connection.getresponse().status
    finally:
        connection.close()


def upstream(federation):
    """Where the SuperLink listens, from the gateway's own command line."""
    line = next(
        line for line in federation.children("coordinator").values() if "coordinator.engine.gateway" in line
    ).split()
    return line[line.index("--upstream") + 1].removeprefix("https://")


def test_the_gateway_answers_only_fleet_routes(federation, tls):
    shown = {path: ask(federation.address, path, tls) for path in HIDDEN}
    assert shown == dict.fromkeys(HIDDEN, 404)
    assert ask(federation.address, OURS, tls, method="GET") == 404
    assert ask(federation.address, OURS, tls) == 401  # forwarded: the SuperLink wants a signature
    behind = upstream(federation)
    assert (
        ask(behind, "/v1/control/list-runs", tls) == 200
    )  # without the gateway anybody could list and start runs
    assert ask(behind, "/docs", tls, method="GET") == 200


def test_the_superlink_listens_on_loopback_alone(federation):
    lines = federation.children("coordinator")
    superlink = next(process for process, line in lines.items() if "flower-superlink" in line)
    listening = [c.laddr for c in superlink.net_connections("inet") if c.status == "LISTEN"]
    assert [f"{a.ip}:{a.port}" for a in listening] == [upstream(federation)]
    assert listening[0].ip == "127.0.0.1"


def test_bodies_over_the_limit_or_without_a_length_are_refused_before_they_are_read(federation, tls):
    limit = 16 << 20
    assert ask(federation.address, OURS, tls, headers=[("Content-Length", str(limit + 1))]) == 413
    assert ask(federation.address, OURS, tls, headers=[("Content-Length", "99999999999")]) == 413
    assert ask(federation.address, OURS, tls, headers=[("Transfer-Encoding", "chunked")]) == 413
    assert ask(federation.address, OURS, tls, body=b"x" * (1 << 20)) == 401  # below the limit: forwarded


def test_only_tls_with_the_federations_own_authority_is_spoken(federation, tls):
    with pytest.raises(ssl.SSLCertVerificationError):
        ask(federation.address, OURS, ssl.create_default_context())
    host, port = federation.address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=10) as plain:
        plain.sendall(b"POST /v1/fleet/pull-messages HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        plain.settimeout(10)
        try:
            answer = plain.recv(1000)
        except ConnectionResetError:
            answer = b""
    assert not answer.startswith(b"HTTP/")
    assert ask(federation.address, OURS, tls) == 401

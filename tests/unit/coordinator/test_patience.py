"""A gateway's connections: who asks is served, who does not say what it wants is closed."""

import socket
import threading
import time

import pytest
import uvicorn

from coordinator.engine import patience

HEAD = b"POST /v1/fleet/pull-messages HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n"


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
def served(monkeypatch):
    """Address of a server with two seconds of patience."""
    monkeypatch.setattr(patience, "HEAD_S", 2.0)
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        app,
        http=patience.ImpatientProtocol,
        ws="none",
        lifespan="off",
        log_level="error",
        timeout_keep_alive=30,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    yield listening.getsockname()
    server.should_exit = True
    thread.join(20)
    listening.close()


def is_closed(connection, within_s=20.0):
    connection.settimeout(within_s)
    try:
        return connection.recv(1000) == b""
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False


def ask(connection):
    connection.sendall(HEAD + b"{}")
    connection.settimeout(20)
    told = b""
    while not told.endswith(b"ok"):
        part = connection.recv(1000)
        assert part, "it was closed"
        told += part
    return told.split()[1]


def test_a_connection_that_asks_nothing_or_drop_by_drop_is_closed_and_others_are_served(served):
    silent, slow = (socket.create_connection(served) for _ in range(2))
    stop = threading.Event()

    def drip():
        for byte in HEAD[:-1]:
            if stop.wait(0.1):
                return
            try:
                slow.sendall(bytes([byte]))
            except OSError:
                return

    dripping = threading.Thread(target=drip)
    dripping.start()
    with socket.create_connection(served) as honest:
        assert ask(honest) == b"200"
    assert is_closed(silent)
    assert is_closed(slow)
    stop.set()
    dripping.join()
    silent.close()
    slow.close()


def test_a_client_that_asks_again_after_a_pause_or_sends_its_body_late_keeps_its_connection(served):
    with socket.create_connection(served) as honest:
        assert ask(honest) == b"200"
        time.sleep(3)  # longer than a head may take: between requests another clock runs
        assert ask(honest) == b"200"
        honest.sendall(HEAD)
        time.sleep(3)  # the head is there; how long a body may take is the proxy's to say
        honest.sendall(b"{}")
        honest.settimeout(20)
        assert b"200" in honest.recv(1000)


def test_without_this_a_silent_connection_would_stay(served, monkeypatch):
    """Positive control."""
    monkeypatch.setattr(patience, "HEAD_S", 600.0)
    with socket.create_connection(served) as silent:
        assert not is_closed(silent, within_s=4)

"""The gateway's connections to the SuperLink: few, used again, given back, and none looked at for another's call."""

import asyncio
from contextlib import asynccontextmanager

import httpcore
import httpx
import pytest

from coordinator.engine.connections import ConnectionStack, transport

CROWD = 40


class Server:
    """Plain HTTP on loopback; ``/slow`` waits for ``go_on``, ``/close`` ends its connection after the answer."""

    def __init__(self):
        self.connections, self.open, self.go_on = 0, set(), asyncio.Event()

    async def serve(self, reader, writer):
        self.connections += 1
        self.open.add(writer)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                if b"/slow" in head:
                    await self.go_on.wait()
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                await writer.drain()
                if b"/close" in head:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        self.open.discard(writer)
        writer.close()


@asynccontextmanager
async def site(made=None):
    """A server, its URL, and a client over the transport."""
    server = Server()
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    made = made or transport(None)
    async with httpx.AsyncClient(transport=made, timeout=30.0, trust_env=False) as client:
        yield server, f"http://127.0.0.1:{port}", client, made
    for writer in list(server.open):
        writer.close()
    listening.close()


async def ask(client, url):
    async with client.stream("POST", url, content=b"") as response:
        return response.status_code, await response.aread()


async def crowd(server, url, client):
    """So many calls at once, answered together: their connections are idle afterwards."""
    calls = [asyncio.create_task(ask(client, url + "/slow")) for _ in range(CROWD)]
    while server.connections < CROWD:
        await asyncio.sleep(0.01)
    server.go_on.set()
    assert await asyncio.gather(*calls) == [(200, b"ok")] * CROWD


def test_one_call_after_another_uses_one_connection():
    async def run():
        async with site() as (server, url, client, _):
            for _ in range(20):
                assert await ask(client, url) == (200, b"ok")
            return server.connections

    assert asyncio.run(run()) == 1


@pytest.mark.parametrize(
    ("pool", "least", "most"),
    [
        (None, 1, 3),
        (lambda: httpcore.AsyncConnectionPool(max_connections=200), CROWD, 10 * CROWD),  # the control
    ],
)
def test_a_call_looks_at_one_idle_connection_however_many_there_are(monkeypatch, pool, least, most):
    looks = []
    has_expired = httpcore.AsyncHTTPConnection.has_expired
    monkeypatch.setattr(
        httpcore.AsyncHTTPConnection, "has_expired", lambda self: looks.append(self) or has_expired(self)
    )

    async def run():
        made = transport(None)
        if pool is not None:
            made._pool = pool()
        async with site(made) as (server, url, client, _):
            await crowd(server, url, client)
            looks.clear()
            assert await ask(client, url) == (200, b"ok")
            assert server.connections == CROWD  # none of its own
            return len(looks)

    assert least <= asyncio.run(run()) <= most


def test_a_connection_that_the_server_closed_is_not_used_again():
    async def run():
        async with site() as (server, url, client, _):
            for _ in range(5):
                assert await ask(client, url + "/close") == (200, b"ok")
                await asyncio.sleep(0.02)
            return server.connections

    assert asyncio.run(run()) == 5


def test_a_place_is_free_again_after_a_fault_and_after_an_answer_that_nobody_read():
    async def run():
        made = transport(None)
        made._pool = ConnectionStack(None, most=1)
        async with site(made) as (_, url, client, _):
            for _ in range(3):
                with pytest.raises(httpx.ConnectError):
                    await ask(client, "http://127.0.0.1:1/")
                async with client.stream("POST", url, content=b""):
                    pass
            assert await ask(client, url) == (200, b"ok")

    asyncio.run(run())


def test_who_finds_no_place_in_time_is_told_by_an_error_of_httpx():
    async def run():
        made = transport(None)
        made._pool = ConnectionStack(None, most=1)
        async with site(made) as (server, url, client, _):
            first = asyncio.create_task(ask(client, url + "/slow"))
            while not server.connections:
                await asyncio.sleep(0.01)
            with pytest.raises(httpx.PoolTimeout):
                await client.post(url, timeout=httpx.Timeout(5.0, pool=0.05))
            server.go_on.set()
            assert await first == (200, b"ok")
            assert await ask(client, url) == (200, b"ok")

    asyncio.run(run())

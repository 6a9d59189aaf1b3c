"""The gateway's filter and proxy as functions: what passes, what is refused, what the SuperLink gets to see."""

import asyncio

import httpx
import pytest
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER

import coordinator.engine.gateway as gateway_module
from coordinator.engine.gateway import FLEET, MAX_BODY_BYTES, FleetOnly, ReverseProxy
from motet.wire.pace import HEADER, SOON_HEADER

PATH = "/v1/fleet/pull-messages"


def scope(path=PATH, *, method="POST", raw=None, length="0", kind="http", headers=()):
    given = [(b"content-length", length.encode())] if length is not None else []
    return {
        "type": kind,
        "method": method,
        "path": path,
        "raw_path": raw or path.encode(),
        "headers": [*given, *headers],
    }


def call(app, request, chunks=(b"",)):
    """One request through an ASGI application: the messages that it sends."""
    sent = []
    events = [
        {"type": "http.request", "body": c, "more_body": i + 1 < len(chunks)} for i, c in enumerate(chunks)
    ]

    async def receive():
        return events.pop(0) if events else {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    asyncio.run(app(request, receive, send))
    return sent


def status(app, request, chunks=(b"",)):
    return call(app, request, chunks)[0]["status"]


class Answering:
    """An application that says yes and remembers what it was asked."""

    def __init__(self):
        self.seen = []

    async def __call__(self, request, _receive, send):
        self.seen.append(request["path"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"yes"})


@pytest.fixture
def behind():
    return Answering()


@pytest.fixture
def passed(behind):
    return FleetOnly(behind)


@pytest.mark.parametrize("coding", [b"chunked", b"identity", b"gzip, chunked", b""])
def test_a_body_that_says_its_length_in_two_ways_goes_no_further(passed, behind, coding):
    assert status(passed, scope(length="3", headers=[(b"transfer-encoding", coding)])) == 413
    assert behind.seen == []
    assert status(passed, scope(length="3")) == 200  # control


def test_fleet_calls_pass_and_are_the_nine_that_a_client_needs(passed, behind):
    for path in FLEET:
        assert status(passed, scope(path)) == 200
    assert sorted(behind.seen) == sorted(FLEET)
    assert len(FLEET) == 9
    assert not any("register" in path or "fab" in path for path in FLEET)


@pytest.mark.parametrize(
    "request_scope",
    [
        scope("/v1/control/list-runs"),
        scope("/v1/runtime/acquire-task"),
        scope("/v1/fleet/register-node"),
        scope("/v1/fleet/get-fab"),
        scope("/"),
        scope(PATH + "/"),
        scope("/" + PATH),
        scope(PATH.upper()),
        scope(PATH + "\n"),
        scope(method="GET"),
        scope(method="HEAD"),
        scope(raw=b"/v1/fleet/pull%2dmessages"),
        scope(raw=b"/v1/fleet/x/%2e%2e/pull-messages"),
    ],
    ids=lambda s: f"{s['method']} {s['raw_path']}",
)
def test_everything_else_is_not_found_and_never_forwarded(passed, behind, request_scope):
    assert status(passed, request_scope) == 404
    assert behind.seen == []


@pytest.mark.parametrize("length", [None, "", "-1", "+5", "1e3", "0x10", str(MAX_BODY_BYTES + 1), "9" * 30])
def test_a_body_too_large_or_of_no_stated_length_is_refused_before_it_is_read(passed, behind, length):
    assert status(passed, scope(length=length)) == 413
    assert behind.seen == []
    assert status(passed, scope(length=str(MAX_BODY_BYTES))) == 200


def test_a_websocket_is_closed(passed, behind):
    assert call(passed, scope(kind="websocket")) == [{"type": "websocket.close"}]
    assert behind.seen == []


# -- the proxy -------------------------------------------------------------------------------------------------------


def said(status_code, body=b"", **headers):
    """An answer that streams, as the network's do."""

    async def stream():
        yield body

    return httpx.Response(status_code, headers=headers, content=stream())


def proxy(answer):
    """A proxy whose SuperLink is a function."""
    made = ReverseProxy("https://127.0.0.1:1/", None)
    made._client = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    return made


def test_body_and_signature_arrive_unchanged_and_hop_headers_stay_behind():
    seen = []

    async def answer(request):
        seen.append((request, await request.aread()))
        return said(201, b"reply", etag="x")

    headers = [(b"flwr-signature", b"abc"), (b"host", b"evil.example"), (b"connection", b"upgrade")]
    sent = call(proxy(answer), scope(length="6", headers=headers), chunks=(b"one", b"two"))
    request, body = seen[0]
    assert body == b"onetwo"
    assert str(request.url) == "https://127.0.0.1:1" + PATH
    assert request.headers["flwr-signature"] == "abc"
    assert request.headers["host"] == "127.0.0.1:1"
    assert request.headers.get("connection") != "upgrade"
    assert request.headers["content-length"] == "6"
    assert sent[0]["status"] == 201
    assert (b"etag", b"x") in sent[0]["headers"]
    assert not [k for k, _ in sent[0]["headers"] if k.lower() == b"transfer-encoding"]
    assert b"".join(m.get("body", b"") for m in sent[1:]) == b"reply"
    assert not sent[-1].get("more_body", False)


def test_a_query_is_not_forwarded():
    seen = []

    def answer(request):
        seen.append(str(request.url))
        return said(200)

    request = scope(raw=PATH.encode() + b"?to=elsewhere") | {"query_string": b"to=elsewhere"}
    assert status(FleetOnly(proxy(answer)), request) == 200
    assert seen == ["https://127.0.0.1:1" + PATH]


def test_a_superlink_that_is_down_is_503_so_that_clients_come_again():
    def answer(_request):
        raise httpx.ConnectError("refused")

    assert status(proxy(answer), scope()) == 503


def test_refusals_of_the_superlink_reach_the_client():
    assert status(proxy(lambda _request: said(401)), scope()) == 401


def test_a_client_that_leaves_within_its_body_ends_the_request():
    async def answer(request):
        await request.aread()
        return said(200)

    assert status(proxy(answer), scope(length="9"), chunks=()) == 503


def test_answers_carry_how_often_to_ask_and_only_callers_that_the_superlink_admits_are_counted():
    codes = {b"admitted": 200, b"stranger": 401}

    async def answer(request):
        return said(codes[request.headers["flwr-public-key"].split("-")[0].encode()])

    gateway = proxy(answer)
    for i in range(200):
        sent = call(gateway, scope(headers=[(b"flwr-public-key", b"stranger-%d" % i)]))
        assert HEADER.encode() not in dict(sent[0]["headers"])
    told = [
        dict(call(gateway, scope(headers=[(b"flwr-public-key", b"admitted-%d" % i)]))[0]["headers"])
        for i in range(100)
    ]
    assert told[0][HEADER.encode()] == b"2.0"
    assert told[-1][HEADER.encode()] == b"4.0"  # a hundred callers
    assert told[-1][SOON_HEADER.encode()] == b"0.10"  # nobody had work
    for i in range(100):
        answer_of = scope("/v1/fleet/push-messages", headers=[(b"flwr-public-key", b"admitted-%d" % i)])
        last = dict(call(gateway, answer_of)[0]["headers"])
    assert last[SOON_HEADER.encode()] == b"2.50"


def test_the_header_of_the_callers_key_is_the_one_that_flower_sends():
    assert FLEET_HTTP_PUBLIC_KEY_HEADER.encode() == gateway_module._CALLER


def test_bodies_that_do_not_come_take_nothing_of_the_superlink_and_others_are_answered(monkeypatch):
    """Fifty heads without a body; then one normal request."""
    asked = []

    class SuperLink(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request):
            asked.append(b"")  # a connection is taken, whatever comes after
            asked[-1] = b"".join([part async for part in request.stream])
            return said(200)

    gateway = ReverseProxy("https://127.0.0.1:1/", None)
    gateway._client = httpx.AsyncClient(transport=SuperLink())
    monkeypatch.setattr(gateway_module, "SILENCE_S", 5.0)

    async def attack():
        sent = []

        async def never():
            await asyncio.sleep(60)

        async def send(message):
            sent.append(message.get("status"))

        slow = [asyncio.create_task(gateway(scope(length="100"), never, send)) for _ in range(50)]
        await asyncio.sleep(0.1)
        normal = []

        async def receive():
            return {"type": "http.request", "body": b"mine", "more_body": False}

        async def keep(message):
            normal.append(message)

        began = asyncio.get_running_loop().time()
        await gateway(scope(length="4"), receive, keep)
        took = asyncio.get_running_loop().time() - began
        assert asked == [b"mine"]  # none of the fifty has a connection there
        await asyncio.gather(*slow)
        return took, normal[0]["status"], sent

    took, status_, refused = asyncio.run(attack())
    assert (status_, took < 4.5) == (200, True)
    assert [s for s in refused if s] == [408] * 50


def test_a_body_that_comes_drop_by_drop_is_given_up(monkeypatch):
    monkeypatch.setattr(gateway_module, "SILENCE_S", 0.5)
    monkeypatch.setattr(gateway_module, "SLOWEST_BYTES_S", 1e6)
    gateway = proxy(lambda _request: said(200))
    drops = []

    async def drip():
        sent = []

        async def receive():
            await asyncio.sleep(0.2)  # each is within the silence
            drops.append(1)
            return {"type": "http.request", "body": b"x", "more_body": True}

        async def send(message):
            sent.append(message)

        await asyncio.wait_for(gateway(scope(length="100"), receive, send), 30)
        return sent[0]["status"]

    assert asyncio.run(drip()) == 408
    assert len(drops) < 20

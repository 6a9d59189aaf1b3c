"""The lease of the carrier run: while it holds replies are handed out, and no end of it goes unnoticed."""

from types import SimpleNamespace

import httpx
import pytest

from coordinator.engine import flower_link

REQUEST = httpx.Request("POST", "https://127.0.0.1/v1")


@pytest.fixture
def link(monkeypatch):
    monkeypatch.setattr(flower_link, "HEARTBEAT_S", 0.001)
    return flower_link.FlowerLink("127.0.0.1:1", b"", None)


def beating(link, *answers):
    """Its SuperLink answers the heartbeats so, then the link is closed."""
    left = list(answers)

    def beat(_request):
        if not left:
            link._stop.set()
            return SimpleNamespace(success=True)
        answer = left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return SimpleNamespace(success=answer)

    link._grid = SimpleNamespace(_runtime_client=SimpleNamespace(SendTaskHeartbeat=beat))


def test_a_superlink_that_is_away_for_a_while_costs_no_lease(link):
    beating(link, True, httpx.ConnectError("away"), True)
    link._keep_lease()
    assert not link.lost.is_set()


@pytest.mark.parametrize(
    "end",
    [False, httpx.HTTPStatusError("gone", request=REQUEST, response=httpx.Response(401, request=REQUEST))],
)
def test_a_lease_that_the_superlink_ended_is_lost(link, end):
    beating(link, True, end)
    link._keep_lease()
    assert link.lost.is_set()
    with pytest.raises(flower_link.LinkError, match="no longer honours"):
        link.pull(["m"])


def test_a_fault_of_the_thread_that_keeps_the_lease_is_a_lost_lease_and_not_silence(link):
    beating(link, True, RuntimeError("a reply that Flower can not read"))
    with pytest.raises(RuntimeError):
        link._keep_lease()
    assert link.lost.is_set()
    with pytest.raises(flower_link.LinkError, match="no longer honours"):
        link.pull(["m"])


@pytest.mark.parametrize(
    ("status", "calls"), [(500, 3), (502, 3), (503, 3), (504, 3), (401, 1), (404, 1), (409, 1), (501, 1)]
)
def test_a_call_that_the_superlink_fails_at_for_a_while_is_made_again_and_one_that_it_refuses_is_not(
    monkeypatch, status, calls
):
    left = [httpx.HTTPStatusError("", request=REQUEST, response=httpx.Response(status, request=REQUEST))] * 2
    made = []

    def call():
        made.append(1)
        if left:
            raise left.pop()

    retry = flower_link.patient_retry()
    retry.wait_function = lambda _seconds: None
    if calls == 1:
        with pytest.raises(httpx.HTTPStatusError):
            retry.invoke(call)
    else:
        retry.invoke(call)
    assert len(made) == calls

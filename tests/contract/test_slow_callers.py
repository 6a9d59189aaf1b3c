"""Fifty calls whose request never comes, and a normal call beside them."""

import contextlib
import threading
import time

import grpc
import pytest
from control_house import house

from coordinator.rpc import bodies
from coordinator.rpc.bodies import Bodies
from motet.connection.errors import DeadlineError
from motet.identity import load_identity
from motet.wire.v1 import control_pb2

CALL = "/motet.v1.RunService/ListRuns"


@contextlib.contextmanager
def slow_callers(served, number, role="operator"):
    """So many connections with one call each: headers came, the request does not. Yields the calls."""
    who = load_identity(served.identity(role, "slow"))
    credentials = grpc.ssl_channel_credentials(
        who.authority_path.read_bytes(), who.key_path.read_bytes(), who.certificate_path.read_bytes()
    )
    over = threading.Event()

    def never():
        over.wait(120)
        yield from ()

    channels, calls = [], []
    for i in range(number):
        options = (("grpc.use_local_subchannel_pool", 1), ("motet.test", i))
        channels.append(grpc.secure_channel(served.address, credentials, options=options))
    try:
        for channel in channels:
            grpc.channel_ready_future(channel).result(60)
            calls.append(channel.stream_unary(CALL).future(never(), timeout=110))
        yield calls
    finally:
        over.set()
        for channel in channels:
            channel.close()


def seconds_of(connection):
    began = time.monotonic()
    connection.runs.list()
    return time.monotonic() - began


def until(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


@pytest.fixture
def served(tmp_path):
    with house(tmp_path / "house") as made:
        yield made


def test_a_normal_call_is_answered_within_a_second_beside_fifty_that_send_no_request(served):
    normal = served.connect("operator", "normal")
    normal.runs.list()
    with slow_callers(served, 50) as calls:
        assert until(lambda: sum(c.done() for c in calls) >= 46)
        assert min(seconds_of(normal) for _ in range(5)) < 1.0
        assert sum(c.done() for c in calls) == 46  # four of them keep their places
        assert until(lambda: served.counts.refusals()["BusyError"] == 46)
    assert seconds_of(served.connect("operator", "slow")) < 30  # who was slow may still call


@pytest.mark.slow
def test_without_the_bound_the_same_fifty_stop_everybody(served, monkeypatch):
    """Positive control."""
    monkeypatch.setattr(Bodies, "_overdue", lambda _self, _now: [])
    normal = served.connect("operator", "normal")
    normal.runs.list()
    request = control_pb2.ListRunsRequest()
    with slow_callers(served, 50):
        time.sleep(0.5)
        with pytest.raises(DeadlineError):
            normal._channel.call("RunService", "ListRuns", request, timeout_s=1.5)


def test_a_request_that_stays_away_is_given_up(served, monkeypatch):
    monkeypatch.setattr(bodies, "LONGEST_S", 1.0)
    with slow_callers(served, 2) as calls:
        assert until(lambda: all(c.done() for c in calls))
        assert {c.code() for c in calls} == {grpc.StatusCode.CANCELLED}


def test_a_call_that_ends_without_a_request_is_refused_in_words(served):
    who = load_identity(served.identity("operator", "empty"))
    credentials = grpc.ssl_channel_credentials(
        who.authority_path.read_bytes(), who.key_path.read_bytes(), who.certificate_path.read_bytes()
    )
    with grpc.secure_channel(served.address, credentials) as channel, pytest.raises(grpc.RpcError) as refused:
        channel.stream_unary(CALL)(iter(()), timeout=30)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT

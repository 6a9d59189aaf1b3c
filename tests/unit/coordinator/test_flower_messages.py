"""Bytes in parts, and replies that arrive part by part: what a look takes, and that it never waits."""

import time

import pytest
from flwr.app import ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.constant import ErrorCode
from flwr.common.serde import message_to_proto
from flwr.proto.message_pb2 import PullObjectResponse
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.task_identity import TaskIdentity

from coordinator.engine import flower_messages
from coordinator.engine.flower_messages import PART_BYTES, IncomingReply, join, split

RUN = 5


class Uploads:
    """A SuperLink's store: ``there`` have been uploaded, ``expected`` were announced, others are unknown."""

    def __init__(self, objects):
        self.objects, self.there, self.expected = objects, set(), set(objects)
        self.confirmed = []
        self.asked = 0

    def PullObject(self, request):  # noqa: N802 - Flower's name
        self.asked += 1
        assert request.run_id == RUN
        known = request.object_id in self.expected
        available = known and request.object_id in self.there
        content = self.objects[request.object_id] if available else b""
        return PullObjectResponse(object_found=known, object_available=available, object_content=content)

    def ConfirmMessageReceived(self, request):  # noqa: N802
        self.confirmed.append(request.message_object_id)


@pytest.fixture
def replied(monkeypatch):
    """Content or error -> (reply as announced, its store)."""
    for name, value in (("_run_id", RUN), ("_node_id", 7), ("_task_id", 0)):
        monkeypatch.setattr(TaskIdentity, name, value)

    def make(content, most_bytes=None):
        order = Message(RecordDict({"part-00000": ConfigRecord({"data": b"order"})}), 7, "train")
        order.metadata.__dict__["_message_id"] = "the-order"
        reply = Message(content, reply_to=order)
        reply.metadata.__dict__["_message_id"] = reply.object_id
        store = Uploads({k: o.deflate() for k, o in get_all_nested_objects(reply).items()})
        head = message_to_proto(remove_content_from_message(reply))
        return IncomingReply(head, get_object_tree(reply), RUN, most_bytes=most_bytes), store

    return make


@pytest.mark.parametrize("size", [0, 1, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 2 * PART_BYTES + 3])
def test_parts_make_the_same_bytes_again(size):
    data = bytes(range(256)) * (size // 256 + 1)
    content = split(data[:size])
    assert join(content) == data[:size]
    assert len(content) == max(1, -(-size // PART_BYTES))
    assert all(len(record["data"]) <= PART_BYTES for record in content.values())


def test_a_reply_is_opened_when_its_last_part_is_there_and_not_before(replied):
    data = b"x" * (PART_BYTES + 1)
    reply, store = replied(split(data))
    started = time.monotonic()
    for object_id in store.objects:
        assert reply.look(store) is None
        assert store.confirmed == []
        store.there.add(object_id)
    arrived = reply.look(store)
    assert time.monotonic() - started < 20  # no look waits
    assert (arrived.message_id, arrived.data, arrived.code) == ("the-order", data, "")
    assert len(store.confirmed) == 1


def test_what_has_come_is_not_asked_for_again(replied):
    reply, store = replied(split(b"x" * 3 * PART_BYTES))
    store.there |= set(store.objects)
    missing = list(store.objects)[-1]
    store.there.discard(missing)
    reply.look(store)
    before = store.asked
    reply.look(store)
    assert store.asked - before == 1


def test_an_upload_that_was_given_up_is_a_failure_of_that_client(replied):
    reply, store = replied(split(b"x"))
    store.expected.clear()
    arrived = reply.look(store)
    assert (arrived.message_id, arrived.data, arrived.code) == ("the-order", None, "client_unreachable")


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, "KeyError in the client"), "client_crashed"),
        (Error(ErrorCode.INVALID_FAB, "not pinned"), "bundle_refused"),
        (Error(ErrorCode.NODE_UNAVAILABLE, "gone"), "client_unreachable"),
        (RecordDict({"x": MetricRecord({"v": 1.0})}), "malformed_reply"),
        (RecordDict({"part-00000": MetricRecord({"data": 1.0})}), "malformed_reply"),
    ],
    ids=["crash", "bundle", "gone", "no parts", "parts of numbers"],
)
def test_each_kind_of_failure_has_its_code(replied, content, code):
    reply, store = replied(content)
    store.there |= set(store.objects)
    arrived = reply.look(store)
    assert (arrived.data, arrived.code) == (None, code)
    assert arrived.reason
    assert ("not online" in arrived.reason) == (code == "client_unreachable")  # in words of ours


def test_bytes_that_flower_can_not_parse_are_a_failure_of_that_client(replied):
    reply, store = replied(split(b"fine"))
    store.there |= set(store.objects)
    store.objects = dict.fromkeys(store.objects, b"\xff no object")
    assert reply.look(store).code == "malformed_reply"


def test_a_reply_larger_than_its_order_makes_it_is_dropped_at_the_first_part_too_many(replied):
    reply, store = replied(split(b"x" * 4 * PART_BYTES), most_bytes=PART_BYTES)
    store.there |= set(store.objects)
    assert reply.look(store).code == "malformed_reply"
    assert store.asked < len(store.objects)
    reply, store = replied(split(b"x" * 4 * PART_BYTES), most_bytes=5 * PART_BYTES)
    store.there |= set(store.objects)
    assert reply.look(store).data == b"x" * 4 * PART_BYTES


def test_a_reply_larger_than_a_message_may_be_is_dropped_while_it_arrives(replied, monkeypatch):
    monkeypatch.setattr(flower_messages, "MAX_MESSAGE_BYTES", PART_BYTES)
    reply, store = replied(split(b"x" * 4 * PART_BYTES))
    store.there |= set(store.objects)
    arrived = reply.look(store)
    assert arrived.code == "malformed_reply"
    assert "larger" in arrived.reason
    assert store.asked < len(store.objects)


def test_a_reply_of_a_great_many_tiny_objects_costs_no_call(replied):
    tiny = RecordDict(
        {f"part-{i:05d}": ConfigRecord({"data": bytes([i % 256, i // 256])}) for i in range(3000)}
    )
    reply, store = replied(tiny, most_bytes=1 << 20)
    store.there = set(store.objects)
    arrived = reply.look(store)
    assert (arrived.code, arrived.data, store.asked) == ("malformed_reply", None, 0)


@pytest.mark.parametrize("size", [1, PART_BYTES, 3 * PART_BYTES, 3 * PART_BYTES + 1])
def test_a_reply_as_large_as_it_may_be_has_no_part_too_many(replied, size):
    reply, store = replied(split(b"x" * size), most_bytes=size + 4096)
    store.there = set(store.objects)
    assert reply.look(store).data == b"x" * size

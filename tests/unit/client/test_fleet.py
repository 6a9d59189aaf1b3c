"""The client's side of Flower: how soon the rest of an order is looked for."""

import threading
import time

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import MessageType, Metadata
from flwr.app.message import make_message
from flwr.proto.message_pb2 import PullObjectResponse
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree

from client import fleet
from client.pace import Pace


class LateUploads:
    """A SuperLink where each part of a message is announced, and there only at the second look."""

    def __init__(self, parts):
        self.parts, self.seen = parts, []

    def PullObject(self, request):  # noqa: N802 - Flower's name
        self.seen.append(request.object_id)
        if self.seen.count(request.object_id) == 1:
            return PullObjectResponse(object_found=True, object_available=False)
        content = self.parts[request.object_id]
        return PullObjectResponse(object_found=True, object_available=True, object_content=content)


def test_an_order_that_is_still_being_uploaded_is_whole_well_before_flowers_own_second_look(
    tmp_path, monkeypatch
):
    key = ec.generate_private_key(ec.SECP384R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    superlink = LateUploads({})
    monkeypatch.setattr(fleet.FleetHttpClient, "from_server_address", lambda *_, **__: superlink)
    link = fleet.FleetLink("127.0.0.1:1", b"", key, tmp_path, threading.Event())
    metadata = Metadata(
        run_id=1,
        message_id="",
        src_node_id=1,
        dst_node_id=2,
        reply_to_message_id="",
        group_id="",
        created_at=1.0,
        ttl=60.0,
        message_type=MessageType.TRAIN,
    )
    message = make_message(metadata, fleet.split(b"an order"))
    tree = get_object_tree(message)
    superlink.parts = {name: part.deflate() for name, part in get_all_nested_objects(message).items()}
    taken = []
    for _ in range(3):
        superlink.seen.clear()
        started = time.monotonic()
        assert fleet.join(link.content(1, tree).content) == b"an order"
        taken.append(time.monotonic() - started)
        assert sorted(superlink.seen) == sorted([*superlink.parts] * 2)
    assert min(taken) < 0.7  # flwr's own wait is 0.8 s at least


class Silent:
    """A link that is asked for messages and fails in a way that no network does."""

    node_id = 1

    def __init__(self, fault):
        self.fault, self.asked, self.pace = fault, 0, Pace()

    def receive(self):
        self.asked += 1
        if self.asked > 2:
            raise self.fault


def test_a_fault_of_the_thread_that_takes_messages_ends_the_client_and_does_not_leave_it_deaf(tmp_path):
    link = Silent(OSError("no space left"))
    worker = fleet.FleetWorker(link, bytes, "", tmp_path, threading.Event())
    with pytest.raises(OSError, match="no space left"):
        worker.loop()


def test_a_fault_of_the_network_is_waited_out(tmp_path):
    stop = threading.Event()
    link = Silent(RuntimeError("not admitted"))
    worker = fleet.FleetWorker(link, bytes, "", tmp_path, stop)
    thread = threading.Thread(target=worker.loop)
    thread.start()
    until = time.monotonic() + 30
    while link.asked < 5:
        assert time.monotonic() < until
        time.sleep(0.05)
    assert thread.is_alive()
    stop.set()
    thread.join(30)
    assert not thread.is_alive()


def test_the_journal_keeps_all_messages_that_are_not_answered_in_their_order(tmp_path):
    heads = []
    journal = fleet.Journal(tmp_path / "in-flight.pb")
    for index in range(3):
        metadata = Metadata(
            run_id=1,
            message_id=f"m{index}",
            src_node_id=1,
            dst_node_id=2,
            reply_to_message_id="",
            group_id="",
            created_at=1.0,
            ttl=60.0,
            message_type=MessageType.TRAIN,
        )
        message = make_message(metadata, fleet.split(b"an order"))
        tree = get_object_tree(message)
        head = fleet.remove_content_from_message(message)
        head.metadata.__dict__["_message_id"] = f"m{index}"
        heads.append(head)
        journal.add(head, tree)
    again = fleet.Journal(tmp_path / "in-flight.pb")
    assert [head.metadata.message_id for head, _ in again.load()] == ["m0", "m1", "m2"]
    again.remove("m1")
    assert [head.metadata.message_id for head, _ in journal.load()] == ["m0", "m2"]
    for name in ("m0", "m2", "m7"):
        journal.remove(name)
    assert journal.load() == []
    assert not (tmp_path / "in-flight.pb").exists()

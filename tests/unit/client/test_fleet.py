"""The client's side of Flower: how soon the rest of an order is looked for."""

import threading
import time
from types import SimpleNamespace

import httpx
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import MessageType, Metadata
from flwr.app.message import make_message
from flwr.proto.fleet_pb2 import ActivateNodeResponse, DeactivateNodeResponse, PullMessagesResponse
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatResponse
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


def link_to(superlink, folder, monkeypatch):
    key = ec.generate_private_key(ec.SECP384R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    monkeypatch.setattr(fleet.FleetHttpClient, "from_server_address", lambda *_, **__: superlink)
    return fleet.FleetLink("127.0.0.1:1", b"", key, folder, threading.Event())


class Admitting:
    """A SuperLink that gives every node that signs on a number of its own, and knows the number 7."""

    def __init__(self):
        self.signed_on = 0

    def ActivateNode(self, _request):  # noqa: N802 - Flower's name
        self.signed_on += 1
        return ActivateNodeResponse(node_id=40 + self.signed_on)

    def SendNodeHeartbeat(self, request):  # noqa: N802 - Flower's name
        return SendNodeHeartbeatResponse(success=request.node.node_id == 7)

    def DeactivateNode(self, _request):  # noqa: N802 - Flower's name
        return DeactivateNodeResponse()


class Refusing(Admitting):
    """A SuperLink that has put this client out: it signs nobody on and gives no messages, for so many calls."""

    def __init__(self, refusals):
        super().__init__()
        self.refusals = refusals

    def _refuse(self):
        self.refusals -= 1
        if self.refusals >= 0:
            answer = httpx.Response(412, request=httpx.Request("POST", "https://fed/v1/fleet"))
            answer.raise_for_status()

    def ActivateNode(self, request):  # noqa: N802 - Flower's name
        self._refuse()
        return super().ActivateNode(request)

    def PullMessages(self, _request):  # noqa: N802 - Flower's name
        self._refuse()
        return PullMessagesResponse()


@pytest.mark.parametrize(("long_s", "told"), [(0.02, 2), (60.0, 1)])
def test_who_is_kept_out_is_told_the_status_once_and_after_a_while_whom_to_ask(
    tmp_path, monkeypatch, caplog, long_s, told
):
    monkeypatch.setattr(fleet, "REFUSED_LONG_S", long_s)
    monkeypatch.setattr(fleet, "ACTIVATE_RETRY_S", 0.01)
    superlink = Refusing(20)
    link = link_to(superlink, tmp_path, monkeypatch)
    link._activate()
    said = [r.getMessage() for r in caplog.records]
    assert superlink.signed_on == 1
    assert [("HTTP 412" in line, "\n" in line) for line in said] == [(True, False)] * told
    assert [("motet ca list" in line) for line in said] == [False, True][:told]


def test_a_client_without_messages_says_so_once_each_time_that_they_stay_away(tmp_path, monkeypatch, caplog):
    superlink, stop = Refusing(5), threading.Event()
    link = link_to(superlink, tmp_path, monkeypatch)
    monkeypatch.setattr(Pace, "next_wait_s", lambda _self: 0.01)
    worker = fleet.FleetWorker(link, bytes, "", tmp_path, stop)
    thread = threading.Thread(target=worker.loop)
    thread.start()
    for outage in (1, 2):
        until = time.monotonic() + 30
        while superlink.refusals > -3 and time.monotonic() < until:
            time.sleep(0.01)
        assert len([r for r in caplog.records if "no messages (HTTP 412)" in r.getMessage()]) == outage
        superlink.refusals = 5  # positive control: another outage is told again
    stop.set()
    thread.join(30)


@pytest.mark.parametrize("kept", [None, "", "cut\x00", "7"], ids=ascii)
def test_a_node_number_that_was_cut_by_a_crash_is_no_obstacle(tmp_path, monkeypatch, kept):
    if kept is not None:
        (tmp_path / "node-id").write_text(kept)
    superlink = Admitting()
    with link_to(superlink, tmp_path, monkeypatch) as link:
        assert link.node_id == (7 if kept == "7" else 41)
    assert superlink.signed_on == (kept != "7")
    assert (tmp_path / "node-id").read_text() == str(link.node_id)


def test_a_disk_that_does_not_take_the_node_number_keeps_nobody_offline(tmp_path, monkeypatch):
    (tmp_path / "node-id").mkdir()  # nothing can be renamed to a folder
    with link_to(Admitting(), tmp_path, monkeypatch) as link:
        assert link.node_id == 41


def test_an_order_that_is_still_being_uploaded_is_whole_well_before_flowers_own_second_look(
    tmp_path, monkeypatch
):
    superlink = LateUploads({})
    link = link_to(superlink, tmp_path, monkeypatch)
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


def a_message(name, data=b"an order", kind=MessageType.TRAIN):
    """Its head and object tree, as the SuperLink hands them out, and the whole message."""
    metadata = Metadata(
        run_id=1,
        message_id="",
        src_node_id=1,
        dst_node_id=2,
        reply_to_message_id="",
        group_id=name,
        created_at=1.0,
        ttl=60.0,
        message_type=kind,
    )
    message = make_message(metadata, fleet.split(data))
    tree = get_object_tree(message)
    message.metadata.__dict__["_message_id"] = tree.object_id
    head = fleet.remove_content_from_message(message)
    head.metadata.__dict__["_message_id"] = tree.object_id
    return head, tree, message


class Forgetful(Silent):
    """A link that hands out messages whose parts, or whose time to be answered, may be gone."""

    def __init__(self, messages, *, without=(), refuses=()):
        super().__init__(None)
        self.messages = {tree.object_id: message for _, tree, message in messages}
        self.waiting = [(head, tree) for head, tree, _ in messages]
        self.without, self.refuses, self.sent = list(without), list(refuses), []

    def receive(self):
        return self.waiting.pop(0) if self.waiting else None

    def bundle_sha256(self, _run_id):
        return "pinned"

    def content(self, _run_id, tree):
        if tree.object_id in self.without:
            raise fleet.ObjectPullError(tree.object_id, "the object could not be found.")
        return self.messages[tree.object_id]

    def send(self, reply, run_id, _seconds):
        if reply.metadata.reply_to_message_id in self.refuses:
            raise fleet.ObjectPushError("part", run_id, "a session of before")
        self.sent.append((reply.metadata.reply_to_message_id, fleet.join(reply.content)))

    def confirm(self, _run_id, _tree):
        pass


def at_work(link, folder):
    """A client over that link, in a thread; ``stop`` ends it."""
    stop = threading.Event()
    worker = fleet.FleetWorker(link, lambda order: b"did " + order, "pinned", folder, stop)
    thread = threading.Thread(target=worker.loop)
    thread.start()
    return thread, stop


def wait_for_replies(link, thread, count):
    until = time.monotonic() + 30
    while len(link.sent) < count and thread.is_alive() and time.monotonic() < until:
        time.sleep(0.02)


@pytest.mark.parametrize("trouble", ["without", "refuses"])
def test_an_order_that_is_gone_does_not_end_the_client_and_is_told_as_lost(tmp_path, trouble):
    gone, next_one = a_message("1"), a_message("2")
    ids = gone[1].object_id, next_one[1].object_id
    questions = [a_message(f"q{i}", id_.encode(), MessageType.QUERY) for i, id_ in enumerate(ids)]
    link = Forgetful([gone, next_one], **{trouble: [ids[0]]})
    thread, stop = at_work(link, tmp_path)
    wait_for_replies(link, thread, 1)
    link.messages |= {tree.object_id: message for _, tree, message in questions}
    link.waiting += [(head, tree) for head, tree, _ in questions]
    wait_for_replies(link, thread, 3)
    stop.set()
    thread.join(30)
    asked = [tree.object_id for _, tree, _ in questions]
    assert dict(link.sent) == {ids[1]: b"did an order", asked[0]: b"lost", asked[1]: b"held"}


def test_a_client_that_died_after_its_answer_and_before_its_note_of_it_starts_again(tmp_path):
    done, next_one = a_message("1"), a_message("2")
    fleet.Journal(tmp_path / "in-flight.pb").add(done[0], done[1])  # the SuperLink has let go of its parts
    link = Forgetful([next_one], without=[done[1].object_id])
    thread, stop = at_work(link, tmp_path)
    wait_for_replies(link, thread, 1)
    stop.set()
    thread.join(30)
    assert dict(link.sent) == {next_one[1].object_id: b"did an order"}
    assert fleet.Journal(tmp_path / "in-flight.pb").load() == []


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


def failing(status):
    return httpx.HTTPStatusError(
        "", request=httpx.Request("POST", "https://fed"), response=httpx.Response(status)
    )


@pytest.mark.parametrize(
    ("fault", "is_held"),
    [
        (failing(500), False),
        (httpx.ReadError("away"), False),
        (failing(413), True),
        (ValueError("no order"), True),
        (None, True),
    ],
    ids=["500", "away", "refused", "malformed", "answered"],
)
def test_an_order_that_the_network_or_the_superlink_failed_at_is_not_held_and_comes_again(
    tmp_path, monkeypatch, fault, is_held
):
    """One that is no order would come again for ever, and fail each time: it is held until its deadline."""
    worker = fleet.FleetWorker(
        link_to(Admitting(), tmp_path, monkeypatch), bytes, "", tmp_path, threading.Event()
    )

    def handle(_head, _tree):
        if fault is not None:
            raise fault

    monkeypatch.setattr(worker, "_handle", handle)
    head = SimpleNamespace(metadata=SimpleNamespace(message_id="m-1", message_type=MessageType.TRAIN))
    worker._enqueue(head, SimpleNamespace(object_id="m-1"))
    worker._handle_or_drop(head, SimpleNamespace(object_id="m-1"))
    assert ("m-1" in worker._taken) == is_held

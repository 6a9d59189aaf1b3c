"""One suite over every grid: clients inline, in worker processes, and over a SuperLink with its gateway."""

import dataclasses
import datetime
import json
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import httpx
import pytest
from flwr.app import Message, MetricRecord, RecordDict

import client.fleet
import coordinator.engine.flower_grid
from client.keys import init_key, load_key
from client.protect import grant, refuse
from client.sealing import sealed
from client.service import load_join_file, serve
from coordinator.authority import ensure_authority
from coordinator.engine.flower_grid import FlowerGrid
from coordinator.engine.flower_link import FlowerLink, marker_sha256
from coordinator.engine.grid import GridClient, GridFailure
from coordinator.engine.local_grid import LocalGrid, WorkerPool, WorkerSpec
from coordinator.engine.superlink import start_gateway, start_superlink
from coordinator.registration import register
from coordinator.storage.store import Store
from coordinator.tls import ensure_certificates, write_private
from motet.abandoned import Abandoned, order_key
from motet.ports import free_port
from motet.wire.leave import Leave, leave_from_json
from motet.wire.messages import TrainOrder, TrainReply

pytestmark = pytest.mark.xdist_group("grid")
ROOT = Path(__file__).resolve().parents[2]
SLOW_S = 1.5
SECRET = "a line of somebody's data"


def answer(order, home=None):
    """A client without a model: ``recipe_json`` says how it behaves, ``home`` is its own folder."""
    if order.asks_leave:
        return grant(order, Leave(answer="pending", clause="approval", message=order.recipe_json))
    until = time.monotonic() + (60 if order.recipe_json == "long" else 0)
    key = order_key(order.run_id, order.round_index, order.attempt)
    while not (is_taken_back := home is not None and Abandoned(home).holds(key)) and time.monotonic() < until:
        time.sleep(0.01)
    if is_taken_back:
        return refuse(order, "cancelled", "taken back")
    if order.recipe_json == "crash":
        raise ValueError(SECRET)
    if order.recipe_json == "slow":
        time.sleep(SLOW_S)
    return TrainReply(
        run_id=order.run_id,
        round_index=order.round_index,
        attempt=order.attempt,
        client_id=order.client_id,
        payload=order.payload,
        payload_sha256=order.payload_sha256,
        num_steps=3,
    )


def build_answer(spec):
    return partial(answer, home=Path(spec["state_dir"]))


def serve_client(home, join):
    """A client process, as ``motet client start`` is one, with ``answer`` in place of training."""
    serve(Path(home), load_join_file(Path(join)), partial(answer, home=Path(home)))


def an_order(client_id="a", how="echo", *, round_index=0, payload=b"start", run_id="r-1"):
    return TrainOrder(
        run_id=run_id,
        round_index=round_index,
        attempt=0,
        client_id=client_id,
        recipe_json=how,
        recipe_sha256="",
        lora_rank=1,
        reservation_id="",
        payload=payload,
        payload_sha256="",
    )


def wait_for(grid, message_ids, within_s=60.0):
    """Outcomes by id, once all are there."""
    found, until = {}, time.monotonic() + within_s
    while set(found) < set(message_ids):
        assert time.monotonic() < until, f"{len(found)} of {len(message_ids)} came"
        for message_id, outcome in grid.collect([m for m in message_ids if m not in found]):
            assert message_id not in found
            found[message_id] = outcome
        time.sleep(0.02)
    return found


class LocalSite:
    """Two clients in this process, or in worker processes."""

    def __init__(self, home, pool):
        specs = {c: WorkerSpec(client_id=c, data_path=home / c, state_dir=home / c) for c in ("a", "b")}
        self.pool = pool
        self.new_grid = lambda: LocalGrid(specs, factory=f"{__name__}:build_answer", pool=pool)
        self.grid = self.new_grid()

    def close(self):
        self.grid.close()
        if self.pool is not None:
            self.pool.close()


class FlowerSite:
    """A SuperLink, its gateway, and two client processes."""

    def __init__(self, home):
        self.home, self.children = home, []
        self.store = Store.open(home / "motet.db")
        for name in ("a", "b"):
            register(home, name, init_key(home / name))
        ensure_certificates(home / "tls", ["127.0.0.1"], datetime.datetime.now(datetime.UTC))
        (home / "superlink").mkdir(mode=0o700)
        write_private(home / "superlink" / "secret", b"0" * 64)
        inside, outside = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
        try:
            self.children.append(start_superlink(inside, home, tls=home / "tls", in_memory=True))
            self.children.append(start_gateway(outside, inside, home, tls=home / "tls"))
            self.ca = (home / "tls" / "ca.crt").read_text()
            joined = {"address": outside, "ca": self.ca, "bundle_sha256": marker_sha256()}
            self.join = home / "join.json"
            self.join.write_text(json.dumps(joined))
            self.link = FlowerLink(inside, b"0" * 64, self.ca.encode())
            self.link.open()
            self.federation = ensure_authority(home).federation
            self.new_grid = lambda: FlowerGrid(self.link, self.store, federation=self.federation)
            self.grid = self.new_grid()
            self.grid.online()
            self.clients = [self.start_client(name) for name in ("a", "b")]
            until = time.monotonic() + 90
            while set(self.grid.online()) != {"a", "b"}:
                assert time.monotonic() < until
                time.sleep(0.1)
        except BaseException:
            self.close()
            raise

    def start_client(self, name):
        code = f"from {__name__} import serve_client; serve_client({str(self.home / name)!r}, {str(self.join)!r})"
        with (self.home / f"{name}.log").open("ab") as log:
            return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=log, stderr=log)

    def close(self):
        processes = getattr(self, "clients", [])
        for process in processes:
            process.terminate()
        ended = [process.wait(15) for process in processes]
        if hasattr(self, "grid"):
            self.grid.close()
        for child in reversed(self.children):
            child.stop()
        self.store.close()
        assert set(ended) <= {0}, ended


@pytest.fixture(
    scope="module", params=["inline", "processes", pytest.param("flower", marks=pytest.mark.integration)]
)
def site(request, tmp_path_factory):
    home = tmp_path_factory.mktemp(request.param)
    if request.param == "flower":
        made = FlowerSite(home)
    else:
        made = LocalSite(home, WorkerPool(2) if request.param == "processes" else None)
    yield made
    made.close()


@pytest.fixture
def grid(site):
    return site.grid


def test_online_names_the_clients_that_can_be_reached(grid):
    assert dict(grid.online()) == {c: GridClient(client_id=c) for c in ("a", "b")}


def test_an_order_comes_back_as_one_reply_with_the_same_bytes(grid):
    order = an_order("b", round_index=7, payload=bytes(range(256)))
    message_id = grid.send(order, deadline_s=30)
    assert wait_for(grid, [message_id]) == {message_id: answer(order)}
    assert grid.collect([message_id]) == []


def test_many_orders_each_come_back_to_their_own_message(grid):
    orders = [an_order(client, round_index=i) for i in range(3) for client in ("a", "b")]
    sent = {grid.send(order, deadline_s=30): order for order in orders}
    assert len(sent) == len(orders)
    assert wait_for(grid, list(sent)) == {message_id: answer(order) for message_id, order in sent.items()}


def test_the_same_order_sent_twice_is_two_messages(grid):
    first, second = (grid.send(an_order(), deadline_s=30) for _ in range(2))
    assert first != second
    assert set(wait_for(grid, [first, second])) == {first, second}


def test_ids_that_are_not_known_are_passed_over(grid):
    assert grid.collect([]) == []
    assert grid.collect(["nobody-sent-this"]) == []
    message_id = grid.send(an_order(), deadline_s=30)
    assert set(wait_for(grid, ["nobody-sent-this", message_id][1:])) == {message_id}


def test_what_was_not_asked_for_stays_until_it_is(grid):
    first, second = (grid.send(an_order(c), deadline_s=30) for c in ("a", "b"))
    assert set(wait_for(grid, [second])) == {second}
    time.sleep(0.5)
    assert grid.collect([second]) == []
    assert set(wait_for(grid, [first])) == {first}


def test_a_message_is_known_from_its_sending_to_its_reply(grid):
    assert not grid.is_known("nobody-sent-this")
    message_id = grid.send(an_order(), deadline_s=30)
    assert grid.is_known(message_id)
    wait_for(grid, [message_id])
    assert not grid.is_known(message_id)


def test_what_an_earlier_grid_sent_is_not_known_to_a_new_one(site, grid):
    message_id = grid.send(an_order(), deadline_s=30)
    assert not site.new_grid().is_known(message_id)
    wait_for(grid, [message_id])


def test_collect_does_not_wait_for_a_client_at_work(site, grid):
    if isinstance(site, LocalSite) and site.pool is None:
        pytest.skip("inline the work is done within collect")
    warm = grid.send(an_order("a"), deadline_s=30)
    wait_for(grid, [warm])
    order = an_order("a", "long", run_id="r-at-work")
    message_id = grid.send(order, deadline_s=120)
    started = time.monotonic()
    assert grid.collect([message_id]) == []
    assert time.monotonic() - started < 30  # the work itself takes a minute
    grid.cancel("a", order_key(order.run_id, 0, 0))
    assert isinstance(wait_for(grid, [message_id])[message_id], TrainReply)


def test_a_crash_is_told_by_its_kind_and_the_client_works_on(grid):
    crash, after = (grid.send(an_order("a", how), deadline_s=30) for how in ("crash", "echo"))
    found = wait_for(grid, [crash, after])
    assert found[crash] == GridFailure(code="client_crashed", message="ValueError in the client")
    assert SECRET not in str(found[crash])
    assert isinstance(found[after], TrainReply)


def test_a_large_adapter_arrives_whole(grid):
    payload = bytes(range(256)) * (9 << 12)  # 9 MiB: more than one part, less than two gateway bodies
    message_id = grid.send(an_order(payload=payload), deadline_s=30)
    outcome = wait_for(grid, [message_id])[message_id]
    assert isinstance(outcome, TrainReply)
    assert outcome.payload == payload


# -- orders that are taken back, and questions beside orders ----------------------------------------------------------


def test_an_order_at_work_that_is_taken_back_ends_as_cancelled_within_seconds(site, grid):
    if isinstance(site, LocalSite) and site.pool is None:
        pytest.skip("inline the work is done within collect")
    order = an_order("a", "long", run_id="r-long")
    message_id = grid.send(order, deadline_s=120)
    until = time.monotonic() + 1.5  # the client is at work
    while time.monotonic() < until:
        assert grid.collect([message_id]) == []
        time.sleep(0.05)
    asked = time.monotonic()
    grid.cancel("a", order_key(order.run_id, 0, 0))
    outcome = wait_for(grid, [message_id])[message_id]
    assert time.monotonic() - asked < 40
    assert (outcome.error_code, outcome.payload) == ("cancelled", b"")
    after = grid.send(an_order("a"), deadline_s=60)
    assert wait_for(grid, [after])[after].error_code == ""  # the client works on


def test_an_order_that_waits_for_its_turn_and_is_taken_back_is_not_begun(grid):
    beside = grid.send(an_order("b", "slow"), deadline_s=60)  # of two worker processes none is free
    first = grid.send(an_order("a", "long", run_id="r-first"), deadline_s=60)
    second = grid.send(an_order("a", "echo", run_id="r-second"), deadline_s=60)
    other = grid.send(an_order("a", "echo", run_id="r-other"), deadline_s=60)
    for run_id in ("r-second", "r-first"):  # in this order, so that the second is still waiting
        grid.cancel("a", order_key(run_id, 0, 0))
    found = wait_for(grid, [beside, first, second, other])
    assert [found[m].error_code for m in (first, second, other)] == ["cancelled", "cancelled", ""]


def test_a_word_to_abandon_what_nobody_ordered_changes_nothing(grid):
    grid.cancel("a", order_key("r-none", 3, 1))
    grid.cancel("nobody", order_key("r-none", 3, 1))
    message_id = grid.send(an_order("a", round_index=3), deadline_s=60)
    assert wait_for(grid, [message_id])[message_id].error_code == ""


def test_a_question_for_leave_is_answered_by_a_client_at_work(site, grid):
    if isinstance(site, LocalSite) and site.pool is None:
        pytest.skip("inline the work is done within collect")
    at_work = grid.send(an_order("a", "long", run_id="r-at-work"), deadline_s=120)
    question = dataclasses.replace(an_order("a", "may I?", run_id="r-asks"), asks_leave=True)
    asked = grid.send(question, deadline_s=60)
    leave = leave_from_json(wait_for(grid, [asked])[asked].leave_json)
    assert (leave.answer, leave.message) == ("pending", "may I?")
    assert grid.is_known(at_work)
    grid.cancel("a", order_key("r-at-work", 0, 0))
    assert wait_for(grid, [at_work])[at_work].error_code == "cancelled"


def test_two_runs_in_two_threads_share_a_grid(grid):
    outcomes = {}

    def run(name, client_id):
        ids = [grid.send(an_order(client_id, run_id=name, round_index=i), deadline_s=60) for i in range(3)]
        outcomes[name] = wait_for(grid, ids)

    threads = [threading.Thread(target=run, args=pair) for pair in (("r-x", "a"), ("r-y", "b"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert {name: {o.run_id for o in found.values()} for name, found in outcomes.items()} == {
        "r-x": {"r-x"},
        "r-y": {"r-y"},
    }


# -- what only a network has ------------------------------------------------------------------------------------------


@pytest.fixture
def stranger(site):
    """A registered client, driven by the test: its link, and the next message with its content."""
    register(site.home, "stranger", init_key(site.home / "stranger"))
    site.grid.online()
    stop = threading.Event()
    key = (site.home / "stranger" / "client.key").read_bytes()
    address = json.loads(site.join.read_text())["address"]
    link = client.fleet.FleetLink(address, site.ca.encode(), key, site.home / "stranger", stop)
    with link:
        client.fleet.FleetWorker(link, bytes, "", site.home / "stranger", stop)  # it sets who replies

        def receive():
            until = time.monotonic() + 60
            while (item := link.receive()) is None:
                assert time.monotonic() < until
                time.sleep(0.05)
            head, tree = item
            return link.content(head.metadata.run_id, tree), head.metadata.run_id

        yield link, receive


@pytest.mark.parametrize("site", ["flower"], indirect=True)
def test_a_reply_that_is_announced_and_never_uploaded_holds_nobody_up(site, grid, stranger, monkeypatch):
    link, receive = stranger
    silent = grid.send(an_order("stranger"), deadline_s=60)
    message, run_id = receive()
    with monkeypatch.context() as patch:
        patch.setattr(client.fleet, "push_objects", lambda *_args, **_kwargs: None)
        link.send(Message(client.fleet.split(b"never"), reply_to=message), run_id, 0.0)
    other = grid.send(an_order("a"), deadline_s=60)
    started, found = time.monotonic(), []
    while not found:
        found = grid.collect([silent, other])
        assert time.monotonic() - started < 40
    assert [message_id for message_id, _ in found] == [other]
    assert grid.is_known(silent)


@pytest.mark.parametrize("site", ["flower"], indirect=True)
@pytest.mark.parametrize(
    "content",
    [
        RecordDict({"x": MetricRecord({"v": 1.0})}),
        RecordDict({"part-00000": MetricRecord({"data": 1.0})}),
        client.fleet.split(b"\xff\xff these bytes are no reply"),
    ],
    ids=["no parts", "parts of numbers", "no reply"],
)
def test_a_reply_that_can_not_be_read_is_a_failure_of_that_client(site, grid, stranger, content):
    link, receive = stranger
    message_id = grid.send(an_order("stranger"), deadline_s=60)
    message, run_id = receive()
    link.send(Message(content, reply_to=message), run_id, 0.0)
    outcome = wait_for(grid, [message_id])[message_id]
    assert isinstance(outcome, GridFailure)
    assert outcome.code == "malformed_reply"


@pytest.fixture
def worker(site):
    """Client ``stranger`` with ``answer``, at work from the call to the end of the test."""
    stop, threads = threading.Event(), []

    def start(link):
        handler = sealed(answer, load_key(site.home / "stranger"), site.ca)
        made = client.fleet.FleetWorker(link, handler, marker_sha256(), site.home / "stranger", stop)
        threads.append(threading.Thread(target=made.loop))
        threads[-1].start()

    yield start
    stop.set()
    for thread in threads:
        thread.join(10)


@pytest.mark.parametrize("site", ["flower"], indirect=True)
def test_an_order_that_was_lost_on_its_way_is_asked_after_and_sent_again(grid, stranger, worker, monkeypatch):
    monkeypatch.setattr(coordinator.engine.flower_grid, "ASK_AFTER_S", 0.3)
    link, receive = stranger
    message_id = grid.send(an_order("stranger"), deadline_s=60)
    receive()  # and die before the journal
    worker(link)
    assert wait_for(grid, [message_id])[message_id] == answer(an_order("stranger"))


def forget_key(home):
    for name in ("client.key", "client.pub", "node-id"):
        (home / name).unlink(missing_ok=True)


@pytest.mark.parametrize("site", ["flower"], indirect=True)
def test_an_order_for_a_client_that_has_not_signed_on_is_offered_until_it_does(site, grid, worker):
    (site.home / "stranger").mkdir(exist_ok=True)
    forget_key(site.home / "stranger")
    register(site.home, "late", init_key(site.home / "stranger"))
    message_id = grid.send(an_order("late"), deadline_s=60)
    assert grid.collect([message_id]) == []
    assert grid.is_known(message_id)
    key = (site.home / "stranger" / "client.key").read_bytes()
    address = json.loads(site.join.read_text())["address"]
    stop = threading.Event()
    with client.fleet.FleetLink(address, site.ca.encode(), key, site.home / "stranger", stop) as link:
        worker(link)
        assert wait_for(grid, [message_id])[message_id] == answer(an_order("late"))
    forget_key(site.home / "stranger")  # it is late's; the next stranger makes its own


@pytest.mark.parametrize("site", ["flower"], indirect=True)
def test_an_order_that_is_being_worked_on_stays_known_however_often_it_is_asked_after(grid, monkeypatch):
    monkeypatch.setattr(coordinator.engine.flower_grid, "ASK_AFTER_S", 0.1)
    asked = []
    ask = grid._link.ask_after
    monkeypatch.setattr(grid._link, "ask_after", lambda *a, **k: asked.append(a) or ask(*a, **k))
    slow, next_one = grid.send(an_order("a", "slow"), deadline_s=30), grid.send(an_order("a"), deadline_s=30)
    found = {}
    until = time.monotonic() + 20
    while len(found) < 2:
        for message_id, outcome in grid.collect([slow, next_one]):
            found[message_id] = outcome
        assert all(grid.is_known(m) for m in (slow, next_one) if m not in found)
        assert time.monotonic() < until
        time.sleep(0.02)
    assert len(asked) >= 3
    assert all(isinstance(outcome, TrainReply) for outcome in found.values())


@pytest.mark.parametrize("site", ["flower"], indirect=True)
def test_a_revoked_client_reaches_no_fleet_route_and_gets_no_order(site, grid, stranger):
    link, _ = stranger
    assert link._beat()  # positive control: until now it is a node like others
    message_id = grid.send(an_order("stranger"), deadline_s=60)
    site.store.identities.revoke_name("stranger", "stolen")
    assert "stranger" not in grid.online()
    assert not link._beat()
    with pytest.raises((httpx.HTTPError, RuntimeError)):
        link.receive()
    refused = dict(grid.collect([message_id]))[message_id]
    assert (refused.code, grid.is_known(message_id)) == ("revoked", False)
    assert "stranger" not in site.new_grid().online()

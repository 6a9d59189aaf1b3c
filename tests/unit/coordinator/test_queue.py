"""Several runs at once: order, places, and a fault that stays with its run."""

import threading
import time

import pytest
from small_federation import RECIPE

from coordinator.engine.queue import RunQueue
from coordinator.engine.round_engine import EngineStoppedError
from coordinator.errors import LeadLostError, RunFailedError
from motet.recipe import parse_recipe


class Works:
    """Runs that end when the test lets them; ``faults``: run -> what it meets then."""

    def __init__(self, store):
        self.store, self.begun, self.gates, self.faults = store, [], {}, {}

    def __call__(self, run_id):
        self.store.start_run(run_id)
        self.gates.setdefault(run_id, threading.Event())
        self.begun.append(run_id)
        assert self.gates[run_id].wait(60)
        if run_id in self.faults:
            raise self.faults[run_id]
        self.store.end_run(run_id, "FINISHED")

    def end(self, queue, run_id):
        thread = queue._threads[run_id]
        self.gates[run_id].set()
        thread.join(30)


@pytest.fixture
def store(federation):
    return federation.store


@pytest.fixture
def works(store):
    made = Works(store)
    yield made
    for gate in made.gates.values():
        gate.set()


def submit(federation, run_id, priority=0):
    federation.clock.time += 1
    federation.store.submit_run(parse_recipe(RECIPE), run_id=run_id, priority=priority)


def begun(queue, works, number):
    queue.step()
    until = time.monotonic() + 30
    while len(works.begun) < number:
        assert time.monotonic() < until
        time.sleep(0.01)
    return works.begun


def state(store, run_id):
    row = store.get_run(run_id)
    return row.state, row.reason


def test_higher_priority_goes_first_then_the_older_one(federation, store, works):
    for run_id, priority in (("r-old", 0), ("r-new", 0), ("r-high", 5)):
        submit(federation, run_id, priority)
    queue = RunQueue(store, works)
    assert begun(queue, works, 1) == ["r-high"]
    works.end(queue, "r-high")
    assert begun(queue, works, 2) == ["r-high", "r-old"]
    works.end(queue, "r-old")
    assert begun(queue, works, 3)[-1] == "r-new"
    works.end(queue, "r-new")
    assert not queue.step()


def test_as_many_runs_as_asked_are_at_work_and_the_others_say_why_they_wait(federation, store, works):
    for i in range(3):
        submit(federation, f"r-{i}")
    queue = RunQueue(store, works, max_runs=2)
    begun(queue, works, 2)
    assert queue.at_work == ["r-0", "r-1"]
    assert state(store, "r-2") == ("QUEUED", "waits for a place: r-0, r-1 are at work")
    works.end(queue, "r-0")
    begun(queue, works, 3)
    assert state(store, "r-2") == ("RUNNING", "")
    assert state(store, "r-0") == ("FINISHED", "")


def test_one_run_at_a_time_by_default(federation, store, works):
    submit(federation, "r-0")
    submit(federation, "r-1")
    queue = RunQueue(store, works)
    begun(queue, works, 1)
    queue.step()
    assert queue.at_work == ["r-0"]


def test_a_fault_in_one_runs_thread_fails_that_run_only(federation, store, works, caplog):
    for i in range(2):
        submit(federation, f"r-{i}")
    works.faults["r-0"] = ZeroDivisionError("somebody's figure")
    queue = RunQueue(store, works, max_runs=2)
    begun(queue, works, 2)
    works.end(queue, "r-0")
    assert queue.step()
    told = state(store, "r-0")
    assert told[0] == "FAILED"
    assert "ZeroDivisionError" in told[1]
    assert "somebody" not in told[1]
    assert "Traceback" in caplog.text
    assert state(store, "r-1")[0] == "RUNNING"
    works.end(queue, "r-1")
    assert not queue.step()
    assert state(store, "r-1")[0] == "FINISHED"


def test_a_run_that_fails_says_why(federation, store, works):
    submit(federation, "r-0")
    works.faults["r-0"] = RunFailedError("too few")
    queue = RunQueue(store, works)
    begun(queue, works, 1)
    works.end(queue, "r-0")
    queue.step()
    assert state(store, "r-0") == ("FAILED", "too few")


@pytest.mark.parametrize("stop", [EngineStoppedError(), LeadLostError("another leads")])
def test_what_ends_the_service_leaves_the_run_as_it_is(federation, store, works, stop):
    submit(federation, "r-0")
    works.faults["r-0"] = stop
    queue = RunQueue(store, works)
    begun(queue, works, 1)
    works.end(queue, "r-0")
    if isinstance(stop, LeadLostError):
        with pytest.raises(LeadLostError):
            queue.step()
    assert state(store, "r-0")[0] == "RUNNING"


def test_a_queued_run_that_is_cancelled_never_starts(federation, store, works):
    submit(federation, "r-0")
    submit(federation, "r-1")
    queue = RunQueue(store, works)
    begun(queue, works, 1)
    store.request_cancel("r-1")
    queue.step()
    assert state(store, "r-1")[0] == "CANCELLED"
    works.end(queue, "r-0")
    assert not queue.step()
    assert works.begun == ["r-0"]

"""A federation without models: handlers that answer at once, a clock that tests move."""

import dataclasses
import threading

import pytest
from small_federation import PRIVATE, RECIPE, SHAPE, honest_reply

from coordinator.engine.grid import GridClient, GridFailure
from coordinator.storage.artifacts import ArtifactStore
from coordinator.storage.store import Store
from motet.recipe import parse_recipe


class FakeClock:
    """Sleeping moves it; threads do not wait."""

    def __init__(self) -> None:
        self.time = 1_000.0
        self.on_sleep = lambda: None

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds
        self.on_sleep()


class FakeGrid:
    """Answers at ``collect``; ``handlers`` may replace a client's behaviour; None never answers."""

    def __init__(self, clients=("a", "b", "c")) -> None:
        self.clients = list(clients)
        self.handlers = {}
        self.pending = {}
        self.sent = []
        self.cancelled = []
        self.on_send = lambda order: None

    def online(self):
        return {c: GridClient(client_id=c) for c in self.clients}

    def send(self, order, *, deadline_s):
        self.on_send(order)
        message_id = f"m{len(self.sent)}"
        self.sent.append(order)
        self.pending[message_id] = order
        return message_id

    def collect(self, message_ids):
        found = []
        for message_id in message_ids:
            order = self.pending.get(message_id)
            if order is None:
                continue
            handler = self.handlers.get(order.client_id, honest_reply)
            if handler is None:
                continue
            del self.pending[message_id]
            found.append((message_id, handler(order)))
        return found

    def is_known(self, message_id):
        return message_id in self.pending

    def cancel(self, client_id, key):
        self.cancelled.append((client_id, key))

    def close(self):
        pass


@dataclasses.dataclass
class Federation:
    """Store, artifacts and clock in a folder; ``engine`` makes a fresh engine, as a restart would."""

    store: Store
    artifacts: ArtifactStore
    clock: FakeClock
    grid: FakeGrid

    def engine(self, **options):
        from coordinator.engine.round_engine import RoundEngine

        return RoundEngine(self.grid, self.store, self.artifacts, self.clock, shape=SHAPE, **options)

    def submit(self, text=RECIPE, run_id="r-1"):
        return self.store.submit_run(parse_recipe(text), run_id=run_id)


@pytest.fixture
def federation(tmp_path):
    clock = FakeClock()
    store = Store.open(tmp_path / "motet.db", clock=clock)
    yield Federation(
        store=store, artifacts=ArtifactStore(tmp_path / "artifacts"), clock=clock, grid=FakeGrid()
    )
    store.close()
    assert threading.active_count() < 50


@pytest.fixture
def failure():
    return GridFailure(code="client_crashed", message="gone")


@pytest.fixture
def recipes():
    return {"plain": RECIPE, "private": PRIVATE}


@pytest.fixture
def honest():
    return honest_reply

"""A federation without models: handlers that answer at once, a clock that tests move."""

import dataclasses
import threading

import pytest
import torch

from aggregation.adapter import AdapterState
from aggregation.initial import fresh_factors
from aggregation.serialize import sha256_hex, to_bytes
from coordinator.engine.grid import GridClient, GridFailure
from coordinator.engine.shape import ModelShape
from coordinator.storage.artifacts import ArtifactStore
from coordinator.storage.store import Store
from motet.recipe import from_canonical_json, parse_recipe
from motet.wire.messages import TrainReply

SHAPE = ModelShape(
    layer_shapes={"x.query": (12, 8), "x.value": (8, 12)}, dense={"head.weight": torch.zeros(2, 8)}
)
RECIPE = """
name: tiny
base_model: {tiny: tiny-bert}
task: {kind: sequence-classification, num_labels: 2}
data: {path: none.jsonl}
adapter: {lora_rank: {a: 1, b: 2, c: 3}}
method: {name: flora}
cohort: {clients: [a, b, c], minimum: 2, deadline_s: 5}
training: {rounds: 3, local_steps: 2}
"""
PRIVATE = RECIPE + "privacy: {noise_multiplier: 1.0, sampling_rate: 0.1, epsilon_limit: 20}\n"


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


def honest_reply(order):
    """What a client of the order's rank would send, from the order alone."""
    recipe = from_canonical_json(order.recipe_json)
    seed = order.round_index * 100 + sum(order.client_id.encode())
    lora = fresh_factors(SHAPE.layer_shapes, order.lora_rank, recipe.scale_of(order.lora_rank), seed)
    generator = torch.Generator().manual_seed(seed)
    lora = {k: dataclasses.replace(p, B=torch.randn(p.B.shape, generator=generator)) for k, p in lora.items()}
    payload = to_bytes(AdapterState(lora=lora, dense={"head.weight": torch.randn(2, 8, generator=generator)}))
    private = recipe.privacy is not None
    return TrainReply(
        run_id=order.run_id,
        round_index=order.round_index,
        attempt=order.attempt,
        client_id=order.client_id,
        payload=payload,
        payload_sha256=sha256_hex(payload),
        num_steps=2,
        num_examples=0 if private else 10,
        is_private=private,
    )


class FakeGrid:
    """Answers at ``collect``; ``handlers`` may replace a client's behaviour; None never answers."""

    def __init__(self, clients=("a", "b", "c")) -> None:
        self.clients = list(clients)
        self.handlers = {}
        self.pending = {}
        self.sent = []
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

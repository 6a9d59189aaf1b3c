"""What 1,000 registered clients cost the coordinator: 100 of them a round, answered at once by fake clients.

Engine, store, ledger, artifact store and accountant are the product's, on disk; the grid alone is not: it reads the
table of clients as the real one does, and answers each order at once with a valid small update. So what is measured
is the coordinator's own time, and what a round still costs after many rounds. Three runs on SQLite and on PostgreSQL:
without privacy, private by example (each of the 100 charged before its order leaves), and private by client (the
whole roster of 1,000 charged every round, about 100 drawn).

Run: python benchmarks/thousand_clients.py [--rounds 20] [--profile]. Writes benchmarks/results/thousand_clients.json.
"""

from __future__ import annotations

import argparse
import contextlib
import cProfile
import dataclasses
import gc
import itertools
import json
import os
import platform
import pstats
import statistics
import sys
import tempfile
import time
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]
os.environ.setdefault("OMP_NUM_THREADS", "1")

import psutil  # noqa: E402
import torch  # noqa: E402
from databases import Place, postgresql_server, schema_in  # noqa: E402
from small_federation import SHAPE  # noqa: E402

from aggregation.adapter import AdapterState  # noqa: E402
from aggregation.initial import fresh_factors  # noqa: E402
from aggregation.serialize import sha256_hex, to_bytes  # noqa: E402
from coordinator.engine.grid import GridClient  # noqa: E402
from coordinator.engine.round_engine import RoundEngine  # noqa: E402
from coordinator.storage.artifacts import ArtifactStore  # noqa: E402
from motet.clock import SystemClock  # noqa: E402
from motet.recipe import from_canonical_json, parse_recipe  # noqa: E402
from motet.wire.messages import TrainReply  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from coordinator.storage.store import Store
    from motet.wire.messages import TrainOrder

RESULT = ROOT / "benchmarks" / "results" / "thousand_clients.json"
TARGET_S, RANK = 2.0, 2
RECIPE = """
name: thousand
base_model: {{tiny: tiny-bert}}
task: {{kind: sequence-classification, num_labels: 2}}
data: {{path: none.jsonl}}
adapter: {{lora_rank: {rank}}}
method: {{name: fedit}}
cohort: {{minimum: 1, deadline_s: 600{cohort}}}
training: {{rounds: {rounds}, local_steps: 2}}
"""
EXAMPLE = "privacy: {noise_multiplier: 1.0, sampling_rate: 0.01, epsilon_limit: 20}\n"
CLIENT = "privacy: {{unit: client, noise_multiplier: 1.0, sampling_rate: {rate}, clipping_norm: 1}}\n"
KINDS = ("plain", "private by example", "private by client")


def an_answer(order: TrainOrder, memory: dict[str, AdapterState]) -> TrainReply:
    """A valid update of a few numbers that no other client and no other round has; cheap to make."""
    recipe = from_canonical_json(order.recipe_json) if "scale" not in memory else None
    if recipe is not None:
        lora = fresh_factors(SHAPE.layer_shapes, RANK, recipe.scale_of(RANK), 1)
        memory["scale"] = AdapterState(lora=lora, dense={})
    generator = torch.Generator().manual_seed(zlib.crc32(f"{order.client_id}/{order.round_index}".encode()))
    lora = {
        layer: dataclasses.replace(pair, B=0.01 * torch.randn(pair.B.shape, generator=generator))
        for layer, pair in memory["scale"].lora.items()
    }
    dense = {"head.weight": 0.01 * torch.randn(2, 8, generator=generator)}
    payload = to_bytes(AdapterState(lora=lora, dense=dense))
    is_private = '"privacy":null' not in order.recipe_json
    return TrainReply(
        run_id=order.run_id,
        round_index=order.round_index,
        attempt=order.attempt,
        client_id=order.client_id,
        payload=payload,
        payload_sha256=sha256_hex(payload),
        num_steps=2,
        num_examples=0 if is_private else 10,
        is_private=is_private,
    )


@dataclass(slots=True)
class AnsweringGrid:
    """Everybody is online, and every order is answered at once.

    ``waited``: seconds and CPU-seconds that went into the clients' answers, which are none of the coordinator's.
    """

    store: Store
    waited: tuple[float, float] = (0.0, 0.0)
    _orders: dict[str, TrainOrder] = field(default_factory=dict)
    _memory: dict[str, AdapterState] = field(default_factory=dict)
    _sent: int = 0

    def online(self) -> Mapping[str, GridClient]:
        """The table of clients, as the real grid reads it."""
        return {row.client_id: GridClient(client_id=row.client_id) for row in self.store.clients()}

    def send(self, order: TrainOrder, *, deadline_s: float) -> str:
        """Keep it."""
        self._sent += 1
        self._orders[f"m-{self._sent}"] = order
        return f"m-{self._sent}"

    def collect(self, message_ids: Sequence[str]) -> list[tuple[str, TrainReply]]:
        """An answer to each."""
        began = time.perf_counter(), time.process_time()
        found = [(m, an_answer(self._orders.pop(m), self._memory)) for m in message_ids if m in self._orders]
        wall, cpu = self.waited
        self.waited = wall + time.perf_counter() - began[0], cpu + time.process_time() - began[1]
        return found

    def cancel(self, client_id: str, key: str) -> None:
        """Nobody is at work."""

    def is_known(self, message_id: str) -> bool:
        """Only what is not answered."""
        return message_id in self._orders

    def close(self) -> None:
        """Nothing to let go of."""


@contextlib.contextmanager
def a_place(dialect: str, folder: Path) -> Iterator[Place]:
    """An empty database of that kind; the files of the other parts are in ``folder``."""
    with contextlib.ExitStack() as stack:
        where: Any = folder / "motet.db"
        if dialect == "postgresql":
            where = stack.enter_context(schema_in(stack.enter_context(postgresql_server())))
        yield Place(dialect=dialect, where=where, ledger=folder / "ledger")


def measure(dialect: str, kind: str, options: argparse.Namespace) -> dict[str, Any]:
    """One run; figures of its rounds."""
    with tempfile.TemporaryDirectory(dir=options.folder) as folder, a_place(dialect, Path(folder)) as place:
        store = place.open()
        try:
            return measured_run(store, Path(folder), kind, options)
        finally:
            store.close()


def measured_run(store: Store, folder: Path, kind: str, options: argparse.Namespace) -> dict[str, Any]:
    """Submit, run, read the clock after every round."""
    names = [f"client-{i:04d}" for i in range(options.clients)]
    for name in names:
        store.register_client(name, name.encode())
    grid = AnsweringGrid(store)
    ticks, resident, me = [(0.0, 0.0)], list[float](), psutil.Process()

    def on_round(_round_index: int, _state: object) -> None:
        wall, cpu = grid.waited
        ticks.append((time.perf_counter() - wall, time.process_time() - cpu))
        resident.append(me.memory_info().rss / 2**20)

    artifacts = ArtifactStore(folder / "artifacts")
    engine = RoundEngine(grid, store, artifacts, SystemClock(), shape=SHAPE, on_round=on_round)
    run_id = store.submit_run(parse_recipe(recipe_text(kind, names, options)))
    gc.collect()
    ticks[0] = (time.perf_counter(), time.process_time())
    profile = cProfile.Profile() if options.profile else None
    if profile is not None:
        profile.enable()
    engine.run(run_id)
    if profile is not None:
        profile.disable()
        pstats.Stats(profile).sort_stats("cumulative").print_stats(70)
        pstats.Stats(profile).sort_stats("tottime").print_stats(30)
    rows = store.contributions(run_id)
    pairs = list(itertools.pairwise(ticks))
    seconds = [after[0] - before[0] for before, after in pairs]
    cpu = [after[1] - before[1] for before, after in pairs]
    return {
        "updates_a_round": round(sum(c.state == "RECEIVED" for c in rows) / len(pairs), 1),
        "charges_a_round": 0 if kind == "plain" else round(len(rows) / len(pairs), 1),
        "seconds_median": round(statistics.median(seconds), 3),
        "seconds_most": round(max(seconds), 3),
        "cpu_seconds_median": round(statistics.median(cpu), 3),
        "seconds_a_round_more_each_round": round(slope(seconds[1:]), 5),
        "cpu_seconds_a_round_more_each_round": round(slope(cpu[1:]), 5),
        "resident_mb_more_each_round": round(slope(resident[len(resident) // 4 :]), 3),
        "seconds": [round(s, 3) for s in seconds],
        "cpu_seconds": [round(s, 3) for s in cpu],
    }


def recipe_text(kind: str, names: Sequence[str], options: argparse.Namespace) -> str:
    """A recipe of that kind for this fleet."""
    by_client, rate = kind == "private by client", options.cohort / options.clients
    cohort = f", clients: [{', '.join(names)}]" if by_client else f", draw_rate: {rate}"
    text = RECIPE.format(cohort=cohort, rounds=options.rounds, rank=RANK)
    if kind == "private by example":
        text += EXAMPLE
    return text + CLIENT.format(rate=rate) if by_client else text


def slope(values: Sequence[float]) -> float:
    """By least squares, a round."""
    if len(values) < 2:
        return 0.0
    return statistics.linear_regression(range(len(values)), values).slope


def main() -> None:
    """All runs, a line each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--cohort", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--databases", nargs="+", default=["sqlite", "postgresql"])
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--folder", type=Path, help="where the databases are made; a disk, not memory")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    found: dict[str, Any] = {}
    for dialect in options.databases:
        for kind in options.kinds:
            seen = found.setdefault(dialect, {})[kind] = measure(dialect, kind, options)
            told = {k: v for k, v in seen.items() if not isinstance(v, list)}
            print(f"{dialect}, {kind}: {json.dumps(told)}", flush=True)
    head = {
        "clients": options.clients,
        "cohort": options.cohort,
        "rounds": options.rounds,
        "target_seconds_a_round": TARGET_S,
        "cores": psutil.cpu_count(),
        "python": platform.python_version(),
        "load_at_the_end": [round(x, 1) for x in os.getloadavg()],
    }
    if not options.profile:
        options.out.write_text(json.dumps({**head, "runs": found}, indent=1) + "\n")
        print(f"wrote {options.out}")


if __name__ == "__main__":
    main()

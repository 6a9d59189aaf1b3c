"""A coordinator that charges, orders and closes rounds as fast as it can until somebody kills it.

The engine, the store, the ledger and the artifacts are the product's; the grid answers at once from memory. Each order
that leaves is first written to a witness file, synced: what a client would have trained, whatever the coordinator
remembers of it.

Started once, it loads everything, and then forks one coordinator for each line that it reads, so that a campaign of
hundreds does not wait for imports: ``URL-or-path LEDGER WITNESS ARTIFACTS MODE``.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from pathlib import Path

import torch
from small_federation import RECIPE, SHAPE, honest_reply
from sqlalchemy import make_url

from coordinator.engine.grid import GridClient
from coordinator.engine.round_engine import RoundEngine
from coordinator.storage.artifacts import ArtifactStore
from coordinator.storage.ledger import StoredLedger
from coordinator.storage.store import Store
from motet.clock import SystemClock
from motet.recipe import parse_recipe

_PR_SET_PDEATHSIG = 1
CHARGED = RECIPE.replace("rounds: 3", "rounds: 8") + "privacy: {noise_multiplier: 1.0, sampling_rate: 0.01}\n"


class WitnessedGrid:
    """Answers from memory; knows nothing of what an earlier process sent."""

    def __init__(self, witness: Path, begun: float) -> None:
        self._witness = os.open(witness, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._begun = begun
        self._replies = {}
        self._is_first = True

    def online(self):
        return {c: GridClient(client_id=c) for c in "abc"}

    def send(self, order, *, deadline_s):
        took = f"{time.monotonic() - self._begun:.4f}" if self._is_first else ""
        self._is_first = False
        os.write(self._witness, f"{order.reservation_id} {took}\n".encode())
        os.fsync(self._witness)
        message_id = f"{os.getpid()}-{len(self._replies)}"
        self._replies[message_id] = honest_reply(order)
        return message_id

    def collect(self, message_ids):
        return [(m, self._replies[m]) for m in message_ids if self._replies.get(m) is not None]

    def is_known(self, message_id):
        return message_id in self._replies

    def close(self):
        pass


def work(where: str, ledger: str, witness: str, artifacts: str, mode: str) -> None:
    """One coordinator, from its start to its death."""
    begun = time.monotonic()
    if mode == "forgetful":  # the mistake that the campaign must find: orders leave before they are signed
        StoredLedger.publish = lambda self: None
    place = make_url(where).set(drivername="postgresql+psycopg") if "://" in where else Path(where)
    store = Store.open(place, ledger=Path(ledger))
    store.ledger.reconcile()
    grid = WitnessedGrid(Path(witness), begun)
    engine = RoundEngine(
        grid, store, ArtifactStore(Path(artifacts)), SystemClock(), shape=SHAPE, poll_s=0.001
    )
    while True:
        run = store.next_run()
        engine.run(run.run_id if run is not None else store.submit_run(parse_recipe(CHARGED)))


def main() -> None:
    """Fork a coordinator a line; tell its process id, then how it ended."""
    torch.set_num_threads(1)
    print("ready", flush=True)
    for line in sys.stdin:
        parent = os.getpid()
        child = os.fork()
        if child == 0:
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # it never ends by itself
            if os.getppid() != parent:
                os._exit(1)
            with contextlib.suppress(KeyboardInterrupt):
                work(*line.split())
            os._exit(0)
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()

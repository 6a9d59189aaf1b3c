"""Processes that want the last of a budget; what became of each is written down by mode.

Modes: ``right``; ``apart``, the mistake of a look before the transaction and a charge within it; ``unlocked``, a store
that forgot its lock, so that the table alone stands between two who look at the same moment.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import time
from pathlib import Path

from sqlalchemy import make_url
from sqlalchemy.sql import Select

from coordinator.errors import StorageError
from coordinator.storage.database import Database
from coordinator.storage.store import Store
from privacy.accounting import would_exceed
from privacy.errors import PrivacyError
from privacy.events import PoissonGaussianEvent

EVENT = PoissonGaussianEvent(noise_multiplier=1.0, sampling_rate=0.1, num_steps=10)
DELTA = 1e-5
MODES = ("right", "apart", "unlocked")


def forget_the_lock() -> None:
    """Neither a lock of writers nor of the budget's row."""

    @contextlib.contextmanager
    def transaction(self):
        with self.translated(), self._reads.begin() as session:  # a plain BEGIN
            yield session

    Database.transaction = transaction
    Select.with_for_update = lambda self, *_args, **_options: self


def race(where: str, ledger: str, run: str, limit: float, mode: str, start, said) -> None:
    """One racer, in a process of its own; the budget is that of a client with the mode's name."""
    if mode == "unlocked":
        forget_the_lock()
    place = make_url(where).set(drivername="postgresql+psycopg") if "://" in where else Path(where)
    store = Store.open(place, ledger=Path(ledger))

    def may_spend(_client_id, spent) -> None:
        if would_exceed(spent, EVENT, limit, DELTA):
            raise PrivacyError("spent")
        if mode != "right":
            time.sleep(0.5)  # everybody looks at the same state

    plan = {"start_sha256": "0" * 64, "deadline_s": 5, "ranks": {mode: 2}, "event": EVENT}
    start.wait(60)
    try:
        if mode == "apart":
            may_spend(mode, store.spent_events(mode))
            store.plan_round(run, 0, 0, **plan)
        else:
            store.plan_round(run, 0, 0, **plan, may_spend=may_spend)
        said.put("won")
    except PrivacyError:
        said.put("refused")
    except StorageError as e:
        said.put(f"stopped: {e.message}")
    finally:
        store.close()


def race_all(where: str, ledger: str, told_path: str, limit: float, *runs: str) -> None:
    """In a process that has imported everything: each racer is a fork, and all of one mode start at one moment.

    Args:
      where: URL or path of the database.
      ledger: folder of the signed ledger.
      told_path: gets what became of each racer, by mode, as JSON.
      limit: of epsilon.
      *runs: MODE-NUMBER each.
    """
    for count in range(len(runs)):  # what the accountant keeps of earlier sums is there before the race
        would_exceed([EVENT] * count, EVENT, limit, DELTA)
    context = multiprocessing.get_context("fork")
    told = {}
    for mode in MODES:
        mine = [run for run in runs if run.startswith(mode)]
        start, said = context.Barrier(len(mine)), context.SimpleQueue()
        racers = [
            context.Process(target=race, args=(where, ledger, run, limit, mode, start, said)) for run in mine
        ]
        for racer in racers:
            racer.start()
        for racer in racers:
            racer.join()
        told[mode] = sorted(said.get() for _ in mine if not said.empty())
    Path(told_path).write_text(json.dumps(told))

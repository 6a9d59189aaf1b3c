"""A grid in this process group: clients are handlers, in worker processes with the base model loaded, or inline."""

from __future__ import annotations

import importlib
import itertools
import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from coordinator.engine.grid import GridClient, GridFailure
from motet.abandoned import Abandoned
from motet.wire.messages import TrainOrder, TrainReply

if TYPE_CHECKING:
    from pathlib import Path

Handler = Callable[[TrainOrder], TrainReply]
Factory = Callable[[Mapping[str, Any]], Handler]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSpec:
    """A simulated client: its name, its file of examples, its own folder, its owner's policy and capacity class."""

    client_id: str
    data_path: Path
    state_dir: Path
    policy_path: Path | None = None
    capacity_class: str = ""


_handlers: dict[tuple[str, str], Handler] = {}  # one process's clients; lives in worker processes


def _handle(factory: str, spec: dict[str, Any], order: TrainOrder) -> TrainReply:
    key = (factory, repr(sorted(spec.items(), key=str)))
    if key not in _handlers:
        _handlers[key] = _resolve(factory)(spec)
    return _handlers[key](order)


def _resolve(factory: str) -> Factory:
    module, name = factory.split(":")
    found: Factory = getattr(importlib.import_module(module), name)
    return found


def _start_worker() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A pool whose owner was killed would wait for orders for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


class WorkerPool:
    """Processes that stay up from run to run, each with its base model loaded; a broken pool is made anew.

    Args:
      processes: how many.
      preload: modules that are imported once and shared, where the system can fork; importing torch and transformers
        costs five CPU-seconds.
    """

    def __init__(self, processes: int, preload: Sequence[str] = ()) -> None:
        self._processes = processes
        can_fork = "forkserver" in multiprocessing.get_all_start_methods()
        self._context = multiprocessing.get_context("forkserver" if can_fork else "spawn")
        if can_fork:
            self._context.set_forkserver_preload(list(preload))
        self._lock = threading.Lock()
        self._pool = self._new()

    def _new(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(self._processes, mp_context=self._context, initializer=_start_worker)

    def submit(self, factory: str, spec: dict[str, Any], order: TrainOrder) -> Future[TrainReply]:
        """Hand one order to a worker. If one has died, its orders became failures; this one gets a new pool."""
        with self._lock:
            try:
                return self._pool.submit(_handle, factory, spec, order)
            except BrokenProcessPool:
                self._pool.shutdown(wait=False)
                self._pool = self._new()
                return self._pool.submit(_handle, factory, spec, order)

    def close(self) -> None:
        """End the processes."""
        self._pool.shutdown(wait=True, cancel_futures=True)


class LocalGrid:
    """Clients as handlers made by ``factory`` (``module:function``), in the processes of ``pool``.

    Without a pool a handler runs inline, at ``collect``. The pool outlives the grid; its owner closes it.
    A handler that raises becomes a ``GridFailure``, as a crash would over a network. Nothing survives this process.
    """

    def __init__(
        self,
        specs: Mapping[str, WorkerSpec],
        *,
        factory: str,
        pool: WorkerPool | None = None,
    ) -> None:
        self._specs = dict(specs)
        self._factory = factory
        self._numbers = itertools.count()
        self._futures: dict[str, Future[TrainReply]] = {}
        self._waiting: deque[tuple[str, TrainOrder]] = deque()
        self._pool = pool

    def online(self) -> Mapping[str, GridClient]:
        """All of them."""
        return {
            c: GridClient(client_id=c, capacity_class=spec.capacity_class) for c, spec in self._specs.items()
        }

    def send(self, order: TrainOrder, *, deadline_s: float) -> str:
        """Hand an order to a worker; ``deadline_s`` is the engine's business."""
        message_id = f"local-{os.getpid()}-{id(self)}-{next(self._numbers)}"
        if self._pool is None:
            self._waiting.append((message_id, order))
        else:
            self._futures[message_id] = self._pool.submit(self._factory, self._plain(order.client_id), order)
        return message_id

    def collect(self, message_ids: Sequence[str]) -> list[tuple[str, TrainReply | GridFailure]]:
        """Finished replies."""
        wanted = set(message_ids)
        place = next((i for i, (m, _) in enumerate(self._waiting) if m in wanted), None)
        if place is not None:
            message_id, order = self._waiting[place]
            del self._waiting[place]
            future: Future[TrainReply] = Future()
            try:
                future.set_result(_handle(self._factory, self._plain(order.client_id), order))
            except Exception as e:  # noqa: BLE001 - a client's crash is a failure, not ours
                future.set_exception(e)
            self._futures[message_id] = future
        done = [m for m in message_ids if m in self._futures and self._futures[m].done()]
        return [(m, _outcome(self._futures.pop(m))) for m in done]

    def cancel(self, client_id: str, key: str) -> None:
        """Mark the order in the client's folder; its handler looks there."""
        if client_id in self._specs:
            Abandoned(self._specs[client_id].state_dir).mark(key)

    def is_known(self, message_id: str) -> bool:
        """Only what this object sent and has not handed out."""
        return message_id in self._futures or any(message_id == m for m, _ in self._waiting)

    def close(self) -> None:
        """Withdraw what no worker has begun."""
        for future in self._futures.values():
            future.cancel()

    def _plain(self, client_id: str) -> dict[str, Any]:
        return {k: str(v) for k, v in asdict(self._specs[client_id]).items() if v is not None}


def _outcome(future: Future[TrainReply]) -> TrainReply | GridFailure:
    if future.cancelled():
        return GridFailure(code="client_crashed", message="the worker processes were ended")
    error = future.exception()
    if error is None:
        return future.result()
    return GridFailure(code="client_crashed", message=f"{type(error).__name__} in the client")

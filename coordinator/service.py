"""The coordinator as a service: keeps SuperLink and gateway up, takes runs from the store's queue.

Its home folder holds all state: ``motet.db``, ``artifacts/``, ``tls/``, ``superlink/``, logs, and
``join.json``, which is what clients need.
Killed at any moment and started again it resumes each run in the round it was in.
"""

from __future__ import annotations

import fcntl
import json
import logging
import secrets
import signal
import threading
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING

from coordinator.authority import ensure_authority
from coordinator.control import serving_control
from coordinator.engine.flower_grid import FlowerGrid
from coordinator.engine.flower_link import FlowerLink, LinkError, marker_sha256
from coordinator.engine.queue import RunQueue
from coordinator.engine.reply_size import ReplySizes
from coordinator.engine.round_engine import RoundEngine
from coordinator.engine.shape import ModelShape
from coordinator.engine.superlink import Child, ChildError, start_gateway, start_superlink
from coordinator.errors import DatabaseAwayError, LeadLostError
from coordinator.leadership import LEASE_S, Leadership, candidate_of
from coordinator.memory import Heap
from coordinator.observing.server import observed
from coordinator.observing.status import Status
from coordinator.open_files import allow_many_open_files
from coordinator.presence import Presence, watching_presence
from coordinator.recording.recorder import Recorder
from coordinator.storage.artifacts import ArtifactStore, open_artifacts
from coordinator.storage.sharing import check_may_lead
from coordinator.storage.where import open_store
from coordinator.tls import write_private
from motet.addresses import as_others_see
from motet.clock import SystemClock
from motet.errors import MotetError
from motet.ports import check_port_is_free, free_port
from motet.recipe import canonical_json, from_canonical_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path
    from typing import IO

    from coordinator.control import ControlAddress
    from coordinator.dashboard.server import Dashboard
    from coordinator.storage.leases import Leader
    from coordinator.storage.store import Store
    from motet.recipe import Recipe

log = logging.getLogger(__name__)
IDLE_S = 0.5
LOOK_S = 0.5  # at the queue, while runs are at work; sooner when one of them ends
POLL_S = 0.15
DATABASE_PAUSE_S = 2.0


class AlreadyRunningError(MotetError):
    """Another coordinator works in this home folder."""

    exit_code = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceConfig:
    """Where the service listens and lives.

    ``listen`` is ``host:port`` of the gateway; ``names`` go into its certificate. ``lease_s``: after so many seconds a
    standby takes the place of this coordinator, should it vanish. ``control`` is ``host:port`` of the control API;
    port 0 takes a free one, ``enrolment`` of where clients without a certificate enrol. ``reflection``: whether the API
    tells operators its contract. ``metrics``: ``host:port`` for Prometheus; None for no one. ``max_runs``: how many
    runs are worked on at once; a client works for one of them at a time, unless its owner allows more.
    ``approves_runs``: a researcher's run waits for an operator's approval. ``dashboard``: ``host:port`` of it; port
    0 takes a free one, None serves none.
    """

    home: Path
    listen: str = "127.0.0.1:8443"
    names: tuple[str, ...] = ()
    in_memory_link_state: bool = False
    artifact_key: Path | None = None
    lease_s: float = LEASE_S
    control: str = "127.0.0.1:0"
    enrolment: str = "127.0.0.1:0"
    reflection: bool = False
    metrics: str | None = None
    max_runs: int = 1
    approves_runs: bool = False
    dashboard: str | None = None


def model_shape(recipe: Recipe) -> ModelShape:
    """Shapes from the model's configuration; torch and transformers load when the first run starts."""
    return _shape_of(canonical_json(recipe))


@lru_cache(maxsize=2)  # asked for by the engine and for the sizes of replies
def _shape_of(recipe_json: str) -> ModelShape:
    from motet.modeling import initial_dense, layer_shapes

    recipe = from_canonical_json(recipe_json)
    return ModelShape(
        layer_shapes=layer_shapes(recipe) if recipe.method.train_adapter else {}, dense=initial_dense(recipe)
    )


def serve(
    config: ServiceConfig,
    *,
    on_ready: Callable[[ControlAddress], None] = lambda _control: None,
    on_standby: Callable[[Leader], None] = lambda _leader: None,
    until_idle: bool = False,
) -> None:
    """Run the service until SIGTERM or SIGINT; with ``until_idle`` until no run is left.

    While another coordinator leads the database it stands by: it opens no port and takes no run.

    Raises:
      MotetError: the home folder is in use or not writable, lacks what the leader's has, a port is taken, or a child
        process does not start.
    """
    allow_many_open_files()  # SuperLink and gateway inherit it
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    with _exclusive(config.home) as lock:
        _check_may_listen(config.listen)
        open_artifacts(config.home, config.artifact_key)
        candidate = candidate_of(config.home, lock)
        is_over, status = False, Status()
        while not is_over:
            store = open_store(config.home)
            lead = Leadership(store, candidate, config.lease_s)
            try:
                check_may_lead(store, ArtifactStore(config.home / "artifacts"), config.home)
                with observed(config.metrics, config.home, status):
                    if lead.wait(partial(_has_no_work, store, stopping, until_idle=until_idle), on_standby):
                        _lead(config, store, lead, stopping, on_ready, status, until_idle=until_idle)
                is_over = True
            except LeadLostError as e:
                log.warning("%s", e.message)
            finally:
                lead.give_back()
                store.close()


def _check_may_listen(address: str) -> None:
    try:
        check_port_is_free(address)
    except OSError as e:
        raise ChildError(
            f"{address} can not be used: {e.strerror or e}",
            hint="choose another --listen, or stop who holds it",
        ) from e


def _has_no_work(store: Store, stopping: threading.Event, *, until_idle: bool) -> bool:
    return stopping.is_set() or (until_idle and store.next_run() is None)


def _lead(
    config: ServiceConfig,
    store: Store,
    lead: Leadership,
    stopping: threading.Event,
    on_ready: Callable[[ControlAddress], None],
    status: Status,
    *,
    until_idle: bool,
) -> None:
    """Keep SuperLink and gateway up and work on runs, until the end or until another leads."""
    store.ledger.reconcile()
    tls = config.home / "tls"
    served = (config.listen, config.control, config.enrolment, config.dashboard)
    hosts = [a.rpartition(":")[0].strip("[]") for a in served if a is not None]
    authority = ensure_authority(config.home, names=[*config.names, *hosts])
    secret = _secret(config.home)
    children: list[Child] = []
    status.is_leading, status.children = True, children
    link: FlowerLink | None = None
    control = ExitStack()
    try:
        upstream = f"127.0.0.1:{free_port()}"
        children.append(
            start_superlink(upstream, config.home, tls=tls, in_memory=config.in_memory_link_state)
        )
        children.append(start_gateway(config.listen, upstream, config.home, tls=tls))
        link = FlowerLink(
            upstream,
            secret,
            (tls / "ca.crt").read_bytes(),
            is_over=lambda: stopping.is_set() or _ended(children) is not None,
        )
        link.open()
        sizes = ReplySizes(model_shape)
        grid = FlowerGrid(link, store, federation=authority.federation, most_reply_bytes=sizes)
        grid.online()
        write_join_file(config)
        status.grid = grid
        dashboard = control.enter_context(_dashboard(config, status, authority.federation))
        serving = serving_control(
            config.home,
            config.control,
            reflection=config.reflection,
            enrolment=config.enrolment,
            names=config.names,
            approves_runs=config.approves_runs,
            dashboard=dashboard,
            presence=status.presence,
        )
        api = control.enter_context(serving)
        status.refused_calls = api.counts.refusals
        control.enter_context(watching_presence(Presence(grid, store.sightings)))
        on_ready(api)
        _work(config, grid, store, stopping, children, until_idle=until_idle, lead=lead)
    finally:
        status.ended()
        control.close()
        if link is not None:
            link.close()
        for child in reversed(children):
            child.stop()


def _dashboard(
    config: ServiceConfig, status: Status, federation: str
) -> AbstractContextManager[Dashboard | None]:
    """The dashboard as a context; nothing of it is loaded where none is wanted."""
    if config.dashboard is None:
        return nullcontext()
    from coordinator.dashboard.server import serving_dashboard

    return serving_dashboard(
        config.home, config.dashboard, status=status, names=config.names, federation=federation
    )


def _work(
    config: ServiceConfig,
    grid: FlowerGrid,
    store: Store,
    stopping: threading.Event,
    children: list[Child],
    *,
    until_idle: bool,
    lead: Leadership | None = None,
) -> None:
    leaving = threading.Event()
    engine = RoundEngine(
        grid,
        store,
        ArtifactStore(config.home / "artifacts"),
        SystemClock(),
        shape=model_shape,
        poll_s=POLL_S,
        is_stopping=lambda: bool(
            leaving.is_set() or stopping.is_set() or _ended(children) or (lead and lead.lost)
        ),
        asks_leave=True,
    )
    recorder = Recorder(store, config.home / "trackers")
    recorder.catch_up()
    queue = RunQueue(
        store,
        recorder.around(engine.run),
        max_runs=config.max_runs,
        ends_service=(DatabaseAwayError, LeadLostError, LinkError),
    )
    heap = Heap()
    try:
        while not stopping.is_set():
            _check_all_is_well(children, lead)
            heap.look()
            try:
                if queue.step():
                    queue.wait(LOOK_S)
                elif until_idle:
                    return
                else:
                    grid.online()
                    stopping.wait(IDLE_S)
            except DatabaseAwayError as e:  # the run stays as it is; it goes on when the database is back
                log.warning("%s; trying again", e.message)
                stopping.wait(DATABASE_PAUSE_S)
            except LinkError:
                if stopping.is_set() or _ended(children) is not None:
                    continue  # a consequence; the loop says of what
                raise
    finally:
        leaving.set()
        queue.join()


def _check_all_is_well(children: Sequence[Child], lead: Leadership | None) -> None:
    """Raise when another leads, or a child is no longer there."""
    if lead is not None and lead.lost is not None:
        raise lead.lost
    child = _ended(children)
    if child is not None:
        raise LinkError(
            f"{child.name} ended by itself",
            hint=f"see {child.log_path}, then start the coordinator again",
        )


def _ended(children: Sequence[Child]) -> Child | None:
    """The first child that is no longer there."""
    return next((c for c in children if c.process.poll() is not None), None)


def write_join_file(config: ServiceConfig) -> Path:
    """``join.json``: address, authority and pinned bundle. It holds no secret; who enrols with a token gets it."""
    path = config.home / "join.json"
    ca = (config.home / "tls" / "ca.crt").read_text(encoding="ascii")
    address = as_others_see(config.listen, config.names)
    path.write_text(
        json.dumps({"address": address, "ca": ca, "bundle_sha256": marker_sha256()}, indent=2) + "\n"
    )
    return path


def _secret(home: Path) -> bytes:
    path = home / "superlink" / "secret"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_private(path, secrets.token_hex(32).encode())
    return path.read_bytes()


@contextmanager
def _exclusive(home: Path) -> Iterator[IO[str]]:
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)  # database, adapters and logs are the owner's
        file = (home / "coordinator.lock").open("w")
    except OSError as e:
        raise AlreadyRunningError(
            f"{home} can not be used: {e.strerror}", hint="choose another --home"
        ) from e
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            raise AlreadyRunningError(
                f"another coordinator works in {home}", hint="stop it, or choose another --home"
            ) from e
        yield file

"""Run one recipe as a real federation on this machine: a coordinator, one process a client, TLS between them.

For demonstrations and for tests of a whole deployment; in production each part is started where it belongs, by
the same commands that are started here.
"""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from aggregation.adapter import AdapterState
from client.evaluation import score
from client.keys import init_key
from coordinator.engine.results import run_result
from coordinator.engine.superlink import Child, start
from coordinator.registration import register
from coordinator.rounds.table import ENDED
from coordinator.storage.artifacts import ArtifactStore
from coordinator.storage.store import Store
from motet.errors import MotetError
from motet.exporting import epsilons_of, export_run
from motet.ports import free_port
from motet.simulate import CURVE_EXAMPLES, client_rows, model_shape, prepare_shards

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from coordinator.storage.models import RunRow
    from motet.recipe import Recipe

READY_TIMEOUT_S = 180.0
POLL_S = 0.3
MOTET = (sys.executable, "-m", "motet.cli.main")
ONE_THREAD = {"OMP_NUM_THREADS": "1"}


class DeploymentError(MotetError):
    """A process of the federation ended by itself or did not start; the message quotes the end of its log."""

    exit_code = 7


@contextmanager
def federation(home: Path, data: Mapping[str, Path]) -> Iterator[list[Child]]:
    """A coordinator in ``home/coordinator`` and a client in ``home/clients/<name>`` for each file of ``data``.

    All processes end with the context, whatever happens in it.

    Raises:
      DeploymentError: a process did not come up.
    """
    place, address = home / "coordinator", f"127.0.0.1:{free_port()}"
    place.mkdir(parents=True, exist_ok=True)
    for name in data:
        register(place, name, init_key(home / "clients" / name))
    with ExitStack() as stack:
        children: list[Child] = []

        def run(name: str, *arguments: str) -> Child:
            child = start(name, [*MOTET, *arguments], home / f"{name}.log", ONE_THREAD)
            stack.callback(child.stop)
            children.append(child)
            return child

        expected: dict[Path, int] = {}
        join = place / "join.json"
        join.unlink(missing_ok=True)
        run("coordinator", "coordinator", "start", "--home", str(place), "--listen", address)
        _wait_until(join.exists, children, "the coordinator did not come up")
        for name, path in data.items():
            own = str(home / "clients" / name)
            where = ("--home", own, "--data", str(path), "--join", str(join))
            log_path = home / f"client-{name}.log"
            expected[log_path] = _connections(log_path) + 1  # a log goes on from run to run
            run(f"client-{name}", "client", "start", "--name", name, *where)
        _wait_until(
            lambda: all(_connections(path) >= count for path, count in expected.items()),
            children,
            "not all clients connected",
        )
        yield children


def run_deployed(
    recipe: Recipe, out_dir: Path, *, on_step: Callable[[str, int, int], None] | None = None
) -> dict[str, Any]:
    """Run ``recipe`` over a federation of its own; the result has the shape of ``motet.simulate.simulate``'s.

    Baselines are not run: ``metrics`` holds ``start`` and ``federated``, and an empty ``local_only``.

    Args:
      recipe: what to run; its data are dealt to the clients as files, as a simulation would.
      out_dir: gets ``adapter/``, ``data/``, ``deployment/`` (homes and logs).
      on_step: as in ``simulate``.

    Raises:
      DeploymentError: a process ended by itself.
      MotetError: bad data, a failed run, or an export that can not be written.
    """
    started = time.monotonic()
    shards = prepare_shards(recipe, out_dir / "data")
    cohort = recipe.cohort.model_copy(update={"clients": sorted(shards.train)})
    recipe = recipe.model_copy(update={"cohort": cohort})
    home = out_dir / "deployment"
    with federation(home, shards.train) as children:
        store = Store.open(home / "coordinator" / "motet.db")
        try:
            run_id = store.submit_run(recipe)
            _follow(store, run_id, recipe.training.rounds, children, on_step)
            result = run_result(store, run_id)
            adapters = [row.adapter_sha256 for row in store.closed_rounds(run_id)]
            epsilons = epsilons_of(store, run_id, recipe, shards.train)
        finally:
            store.close()
    exported = export_run(home / "coordinator", run_id, out_dir / "adapter")
    artifacts = ArtifactStore(home / "coordinator" / "artifacts")
    *between, last = [artifacts.load_state(sha256) for sha256 in adapters]
    curve = [score(recipe, AdapterState(dense=model_shape(recipe).dense), shards.test).metric()]
    curve += [score(recipe, state, shards.test[:CURVE_EXAMPLES]).metric() for state in between]
    curve.append(score(recipe, last, shards.test).metric())
    return {
        "run_id": run_id,
        "recipe_name": recipe.name,
        "adapter_dir": exported["out_dir"],
        "adapter_sha256": exported["adapter_sha256"],
        "method": recipe.method.name,
        "rounds": recipe.training.rounds,
        "metrics": {"start": curve[0], "local_only": {}, "federated": curve[-1]},
        "gains": {},
        "clients": client_rows(recipe, shards, result, epsilons),
        "aggregation_error": [row["relative_error"] for row in result.rounds],
        "curves": {"federated": curve},
        "seconds": round(time.monotonic() - started, 1),
    }


def _follow(
    store: Store,
    run_id: str,
    total: int,
    children: list[Child],
    on_step: Callable[[str, int, int], None] | None,
) -> None:
    def look() -> RunRow:
        if on_step is not None:
            on_step("federated, deployed", len(store.closed_rounds(run_id)), total)
        return store.get_run(run_id)

    while (run := look()).state not in ENDED:
        _check_alive(children)
        time.sleep(POLL_S)
    if run.state != "FINISHED":
        raise DeploymentError(f"run {run_id} {run.state.lower()}: {run.reason}")


def _wait_until(is_ready: Callable[[], bool], children: list[Child], what: str) -> None:
    until = time.monotonic() + READY_TIMEOUT_S
    while not is_ready():
        _check_alive(children)
        if time.monotonic() > until:
            raise DeploymentError(f"{what} in {READY_TIMEOUT_S:.0f} s", hint=f"see {children[-1].log_path}")
        time.sleep(0.1)


def _connections(log_path: Path) -> int:
    if not log_path.exists():
        return 0
    return log_path.read_text(encoding="utf-8", errors="replace").count("is connected to")


def _check_alive(children: list[Child]) -> None:
    for child in children:
        if child.process.poll() is not None:
            tail = child.log_path.read_text(encoding="utf-8", errors="replace")[-400:].strip()
            raise DeploymentError(f"{child.name} ended by itself: {tail}", hint=f"see {child.log_path}")

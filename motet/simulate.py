"""Run one recipe in this process group, without servers: the embedded way.

The same ``RoundEngine`` as in a deployment drives an in-process grid; each simulated client reads its own
file and keeps its own state folder. Beside the federated run stand the runs that it has to beat: nobody
trained, the head alone, each client alone. All of them are the same engine with another cohort or another
recipe.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aggregation.methods import get_method
from client.evaluation import evaluate
from coordinator.engine.local_grid import LocalGrid, WorkerSpec
from coordinator.engine.round_engine import RoundEngine, RunResult
from coordinator.engine.shape import ModelShape
from coordinator.export import CardFacts, export_merged, export_peft
from coordinator.storage.artifacts import ArtifactStore
from coordinator.storage.store import Store
from motet.clock import SystemClock
from motet.data import Example, partition, write_shards
from motet.exporting import epsilon_of, learned_product
from motet.modeling import initial_dense, layer_shapes

if TYPE_CHECKING:
    from pathlib import Path

    from aggregation.adapter import AdapterState
    from motet.recipe import Recipe

Metric = dict[str, float]
CURVE_EXAMPLES = 300
"""Held-out examples behind a point of the learning curve before the last; the last, and every table, uses all."""

OnStep = Callable[[str, int, int], None]
"""Called as ``on_step(stage, done, total)``: stage is a name for people, done and total count rounds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shards:
    """Where each simulated client's examples lie, and the held-out ones."""

    train: Mapping[str, Path]
    sizes: Mapping[str, int]
    test: Sequence[Example]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One engine run: its result, the final state, and the metric after each round (index 0 is before training)."""

    result: RunResult
    state: AdapterState
    curve: Sequence[Metric]


def prepare_shards(recipe: Recipe, folder: Path) -> Shards:
    """Deal the recipe's data to clients and write one JSONL file each, so that a deployment can use the same files.

    Raises:
      motet.errors.MotetError: the data is missing, empty, or can not be dealt as asked.
    """
    dealt = partition(recipe)
    sizes = {client: len(examples) for client, examples in dealt.train.items()}
    return Shards(train=write_shards(dealt, folder), sizes=sizes, test=tuple(dealt.test))


def model_shape(recipe: Recipe) -> ModelShape:
    """Layer shapes and initial heads from the model's configuration; no weights are read."""
    train_adapter = recipe.method.train_adapter
    return ModelShape(layer_shapes=layer_shapes(recipe) if train_adapter else {}, dense=initial_dense(recipe))


def run_engine(
    recipe: Recipe,
    shards: Shards,
    folder: Path,
    *,
    stage: str,
    processes: int,
    on_step: OnStep | None = None,
    run_id: str | None = None,
    with_curve: bool = True,
) -> Outcome:
    """One run of the engine over an in-process grid, its state in ``folder/motet.db``.

    Args:
      recipe: what to run; its cohort decides who takes part.
      shards: files of the clients and the held-out examples.
      folder: state of this run; made if missing. An interrupted run in it is continued.
      stage: name for ``on_step``.
      processes: worker processes; 0 runs the clients in this process.
      on_step: progress.
      run_id: of the run; made from the recipe when absent.
      with_curve: evaluate after every round, not only at the end; on ``CURVE_EXAMPLES`` before the end.

    Raises:
      motet.errors.MotetError: the run failed; the message says why.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shape = model_shape(recipe)
    clients = recipe.cohort.clients or sorted(shards.train)
    specs = {
        client: WorkerSpec(
            client_id=client, data_path=shards.train[client], state_dir=folder / "clients" / client
        )
        for client in clients
    }
    store = Store.open(folder / "motet.db")
    artifacts = ArtifactStore(folder / "artifacts")
    method = get_method(recipe.method.name, ridge=recipe.method.ridge)
    total = recipe.training.rounds
    curve: list[Metric] = []

    def on_round(round_index: int, state: AdapterState) -> None:
        if round_index + 1 == total:
            curve.append(evaluate(recipe, state, shards.test))
        elif with_curve:
            curve.append(evaluate(recipe, state, shards.test[:CURVE_EXAMPLES]))
        if on_step is not None:
            on_step(stage, round_index + 1, total)

    if on_step is not None:
        on_step(stage, 0, total)
    grid = LocalGrid(specs, factory="client.worker:build_handler", processes=processes)
    try:
        if with_curve:
            start = method.initial_state(
                shape.layer_shapes,
                lora_rank=max((recipe.lora_rank_of(c) for c in clients), default=1),
                scale=recipe.scale_of(recipe.lora_rank_of(clients[0])),
                dense=shape.dense,
                seed=recipe.seed,
            )
            curve.append(evaluate(recipe, start, shards.test))
        run = store.submit_run(recipe, run_id=run_id)
        engine = RoundEngine(grid, store, artifacts, SystemClock(), shape=shape, on_round=on_round)
        result = engine.run(run)
    finally:
        grid.close()
        store.close()
    return Outcome(result=result, state=artifacts.load_state(result.adapter_sha256), curve=tuple(curve))


def alone(recipe: Recipe, client: str) -> Recipe:
    """The same recipe with one client and nobody else: what it reaches without the federation."""
    cohort = recipe.cohort.model_copy(update={"clients": [client], "minimum": 1})
    return recipe.model_copy(update={"cohort": cohort})


def without_privacy(recipe: Recipe) -> Recipe:
    """The same recipe without the privacy section."""
    return recipe.model_copy(update={"privacy": None})


def head_only(recipe: Recipe) -> Recipe:
    """The same recipe, not private, that trains the classification head and no adapter."""
    method = recipe.method.model_copy(update={"train_adapter": False})
    return recipe.model_copy(update={"method": method, "privacy": None})


def simulate(
    recipe: Recipe,
    out_dir: Path,
    *,
    baselines: bool = True,
    merged: bool = False,
    processes: int = 2,
    on_step: OnStep | None = None,
) -> dict[str, Any]:
    """Run ``recipe`` and what it has to beat; export the adapter; return one JSON-able result.

    Args:
      recipe: what to run.
      out_dir: gets ``adapter/`` (a PEFT folder), ``data/`` (one file a client), ``runs/`` (databases, artifacts).
      baselines: also run each client alone, the head alone, and, for a private recipe, the same without privacy.
      merged: write ``merged/`` as well, a whole model.
      processes: worker processes, one torch thread each; 0 runs the clients in this process.
      on_step: progress.

    Returns:
      ``run_id``, ``adapter_dir``, ``adapter_sha256``, ``method``, ``rounds``, ``metrics`` (start, local_only,
      federated, and head_only, federated_no_privacy where run), ``clients`` (client_id, lora_rank,
      num_examples, bytes_up, bytes_down, epsilon or None), ``curves``, ``seconds``, ``recipe_name``.

    Raises:
      motet.errors.MotetError: bad data, a failed run, or an export that can not be written.
    """
    started = time.monotonic()
    shards = prepare_shards(recipe, out_dir / "data")
    if recipe.cohort.clients is None:
        recipe = recipe.model_copy(
            update={"cohort": recipe.cohort.model_copy(update={"clients": sorted(shards.train)})}
        )
    runs = out_dir / "runs"
    main = run_engine(
        recipe, shards, runs / "federated", stage="federated", processes=processes, on_step=on_step
    )
    metrics: dict[str, Any] = {"start": main.curve[0]}
    curves: dict[str, Any] = {"federated": list(main.curve)}
    if baselines:
        _run_baselines(recipe, shards, runs, metrics, curves, processes, on_step)
    metrics["federated"] = main.curve[-1]

    facts = CardFacts(
        run_id=main.result.run_id,
        rounds=recipe.training.rounds,
        clients=len(shards.train),
        adapter_sha256=main.result.adapter_sha256,
        epsilons={c: e for c in sorted(shards.train) if (e := epsilon_of(recipe)) is not None},
    )
    product = learned_product(recipe, main.state)
    adapter_dir = export_peft(recipe, product, main.state.dense, out_dir / "adapter", facts)
    if merged:
        export_merged(recipe, product, main.state.dense, out_dir / "merged", facts)
    return {
        "run_id": main.result.run_id,
        "recipe_name": recipe.name,
        "adapter_dir": str(adapter_dir),
        "adapter_sha256": main.result.adapter_sha256,
        "method": recipe.method.name,
        "rounds": recipe.training.rounds,
        "metrics": metrics,
        "clients": client_rows(recipe, shards, main.result),
        "aggregation_error": [row["relative_error"] for row in main.result.rounds],
        "curves": curves,
        "seconds": round(time.monotonic() - started, 1),
    }


def _run_baselines(
    recipe: Recipe,
    shards: Shards,
    runs: Path,
    metrics: dict[str, Any],
    curves: dict[str, Any],
    processes: int,
    on_step: OnStep | None,
) -> None:
    """Fill ``metrics`` and ``curves`` with the runs that the federated one has to beat."""
    clients = sorted(shards.train)

    def one_alone(client: str) -> Metric:
        outcome = run_engine(
            without_privacy(alone(recipe, client)),
            shards,
            runs / "alone" / client,
            stage=f"{client} alone",
            processes=min(processes, 1),
            on_step=on_step,
            with_curve=False,
        )
        return outcome.curve[-1]

    with ThreadPoolExecutor(max(1, processes)) as pool:
        metrics["local_only"] = dict(zip(clients, pool.map(one_alone, clients), strict=True))
    if recipe.privacy is not None:
        plain = run_engine(
            without_privacy(recipe),
            shards,
            runs / "no-privacy",
            stage="federated, no privacy",
            processes=processes,
            on_step=on_step,
        )
        metrics["federated_no_privacy"], curves["federated_no_privacy"] = plain.curve[-1], list(plain.curve)
    if recipe.task.kind == "sequence-classification":
        head = run_engine(
            head_only(recipe),
            shards,
            runs / "head-only",
            stage="head alone",
            processes=processes,
            on_step=on_step,
        )
        metrics["head_only"], curves["head_only"] = head.curve[-1], list(head.curve)


def client_rows(recipe: Recipe, shards: Shards, result: RunResult) -> list[dict[str, Any]]:
    """One row a client: rank, examples (the simulator knows them), bytes over the whole run, epsilon."""
    epsilon = epsilon_of(recipe)
    rows = []
    for client in sorted(shards.train):
        rounds = [row["clients"][client] for row in result.rounds if client in row["clients"]]
        rows.append(
            {
                "client_id": client,
                "lora_rank": recipe.lora_rank_of(client),
                "num_examples": shards.sizes[client],
                "bytes_up": sum(r["bytes_up"] for r in rounds),
                "bytes_down": sum(r["bytes_down"] for r in rounds),
                "epsilon": epsilon,
            }
        )
    return rows

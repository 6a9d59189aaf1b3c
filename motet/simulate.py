"""Run one recipe in this process group, without servers: the embedded way.

The same ``RoundEngine`` as in a deployment drives an in-process grid; each simulated client reads its own
file and keeps its own state folder. Beside the federated run stand the runs that it has to beat: nobody
trained, the head alone, each client alone. All of them are the same engine with another cohort or another
recipe.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from aggregation.adapter import AdapterState
from client.evaluation import Scores, mean_scores, paired_gain, score
from client.personal import PersonalParts
from coordinator.engine.local_grid import LocalGrid, WorkerPool, WorkerSpec
from coordinator.engine.round_engine import RoundEngine
from coordinator.engine.shape import ModelShape
from coordinator.export import CardFacts
from coordinator.recording.recorder import Recorder
from coordinator.storage.artifacts import ArtifactStore
from coordinator.storage.store import Store
from motet.clock import SystemClock
from motet.data import Example, partition, write_shards
from motet.exporting import (
    cut_of,
    epsilons_of,
    export_personal,
    has_personal_part,
    learned_product,
    write_export,
)
from motet.modeling import initial_dense, layer_shapes
from motet.trackers.needs import check_trackers

if TYPE_CHECKING:
    from pathlib import Path

    from coordinator.engine.results import RunResult
    from motet.recipe import Recipe

Metric = dict[str, float]
CURVE_EXAMPLES = 200
"""Held-out examples behind a point within the learning curve; its ends, and every table, use all."""

ALONE = "alone/"
"""Prefix of a client's own run among the other ways of training."""

OnStep = Callable[[str, int, int], None]
"""Called as ``on_step(stage, done, total)``: stage is a name for people, done and total count rounds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shards:
    """Where each simulated client's examples lie, and the held-out ones.

    ``policies`` and ``classes`` hold the policy file and the capacity class of those clients that have one.
    """

    train: Mapping[str, Path]
    sizes: Mapping[str, int]
    test: Sequence[Example]
    policies: Mapping[str, Path] = field(default_factory=dict)
    classes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One engine run: its result and final state, the metric after each round, and what each client was charged.

    Attributes:
      result: rounds and the adapter's hash.
      state: the final one.
      curve: one metric a round; all but the last are of ``CURVE_EXAMPLES`` examples.
      scores: of the final state, on all held-out examples.
      epsilons: client id -> epsilon from the recorded events; empty without privacy.
    """

    result: RunResult
    state: AdapterState
    curve: Sequence[Metric]
    scores: Scores
    epsilons: Mapping[str, float]


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
    pool: WorkerPool | None = None,
    on_step: OnStep | None = None,
    run_id: str | None = None,
    with_curve: bool = True,
    num_threads: int | None = None,
    trackers: Path | None = None,
) -> Outcome:
    """One run of the engine over an in-process grid, its state in ``folder/motet.db``.

    Args:
      recipe: what to run; its cohort decides who takes part.
      shards: files of the clients and the held-out examples.
      folder: state of this run; made if missing. An interrupted run in it is continued.
      stage: name for ``on_step``.
      pool: worker processes; None runs the clients in this one.
      on_step: progress.
      run_id: of the run; made from the recipe when absent.
      with_curve: evaluate after every round; else after the last alone.
      num_threads: of an evaluation; all cores when None.
      trackers: folder for what the recipe's trackers record; None records nothing.

    Raises:
      motet.errors.MotetError: the run failed; the message says why.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shape = model_shape(recipe)
    clients = recipe.cohort.clients or sorted(shards.train)
    specs = {
        client: WorkerSpec(
            client_id=client,
            data_path=shards.train[client],
            state_dir=folder / "clients" / client,
            policy_path=shards.policies.get(client),
            capacity_class=shards.classes.get(client, ""),
        )
        for client in clients
    }
    store = Store.open(folder / "motet.db")
    artifacts = ArtifactStore(folder / "artifacts")
    total = recipe.training.rounds
    curve: list[Metric] = []

    def judge(state: AdapterState, examples: Sequence[Example]) -> Scores:
        states = _models(recipe, run, state, {c: spec.state_dir for c, spec in specs.items()})
        return mean_scores(
            [score(recipe, s, examples, num_threads=num_threads or os.cpu_count()) for s in states]
        )

    def on_round(round_index: int, state: AdapterState) -> None:
        if with_curve and round_index + 1 < total:
            curve.append(judge(state, shards.test[:CURVE_EXAMPLES]).metric())
        if on_step is not None:
            on_step(stage, round_index + 1, total)

    if on_step is not None:
        on_step(stage, 0, total)
    grid = LocalGrid(specs, factory="client.worker:build_handler", pool=pool)
    run = store.submit_run(recipe, run_id=run_id)
    try:
        engine = RoundEngine(
            grid,
            store,
            artifacts,
            SystemClock(),
            shape=shape,
            on_round=on_round,
            asks_leave=bool(shards.policies),
            may_wait=False,
        )
        work = engine.run if trackers is None else Recorder(store, trackers).around(engine.run)
        result = work(run)
        epsilons = epsilons_of(store, run, recipe, clients)
    finally:
        grid.close()
        store.close()
    state = artifacts.load_state(result.adapter_sha256)
    scores = judge(state, shards.test)
    curve.append(scores.metric())
    return Outcome(result=result, state=state, curve=tuple(curve), scores=scores, epsilons=epsilons)


def _models(
    recipe: Recipe, run_id: str, state: AdapterState, homes: Mapping[str, Path]
) -> list[AdapterState]:
    """What to judge: the global state, or each client's own where a part of it stays there."""
    if not has_personal_part(recipe):
        return [state]
    parts = [PersonalParts(home / "personal") for _, home in sorted(homes.items())]
    kept = [part.model(run_id)[0] for part in parts if part.before(run_id, recipe.training.rounds)]
    return kept or [_before(recipe)]


def _before(recipe: Recipe) -> AdapterState:
    """What everyone's model is before training: the base and fresh heads. B = 0, so factors do nothing yet."""
    return AdapterState(dense=model_shape(recipe).dense)


def alone(recipe: Recipe, client: str) -> Recipe:
    """The same recipe with one client and nobody else: what it reaches without the federation."""
    cohort = recipe.cohort.model_copy(update={"clients": [client], "minimum": 1})
    robust = recipe.robust.model_copy(update={"rule": "none"})  # one client can not be compared
    return recipe.model_copy(update={"cohort": cohort, "robust": robust})


def without_privacy(recipe: Recipe) -> Recipe:
    """The same recipe without the privacy section."""
    return recipe.model_copy(update={"privacy": None})


def head_only(recipe: Recipe) -> Recipe:
    """The same recipe that trains the classification head and no adapter."""
    method = recipe.method.model_copy(update={"train_adapter": False})
    return recipe.model_copy(update={"method": method})


def simulate(
    recipe: Recipe,
    out_dir: Path,
    *,
    baselines: bool = True,
    merged: bool = False,
    processes: int = 2,
    on_step: OnStep | None = None,
    policies: Path | None = None,
    classes: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Run ``recipe`` and what it has to beat; export the adapter; return one JSON-able result.

    Args:
      recipe: what to run.
      out_dir: gets ``adapter/`` (a PEFT folder; ``adapters/<client>`` where a part stays with each client),
        ``data/`` (one file a client), ``runs/`` (databases, artifacts), ``trackers/`` if the recipe names any.
      baselines: also run each client alone, the head alone, and, for a private recipe, the same without privacy.
      merged: write ``merged/`` as well, a whole model.
      processes: worker processes, one torch thread each; 0 runs the clients in this process.
      on_step: progress.
      policies: folder with ``<client>.toml`` for each owner who has a policy. With one, leave is asked of every client
        as a deployed engine asks it; nobody is waited for.
      classes: capacity class by client, as a coordinator would register it.

    Returns:
      ``run_id``, ``adapter_dir``, ``adapter_sha256``, ``method``, ``rounds``, ``metrics`` (start, local_only,
      federated, and head_only, head_only_private, federated_no_privacy where run), ``gains`` (how much better
      a federated run is than each other way, paired, with its standard error), ``clients`` (client_id,
      lora_rank, num_examples, bytes_up, bytes_down, epsilon or None), ``curves``, ``seconds``, ``recipe_name``;
      ``privacy_unit``: what is protected, or None;
      ``learned_rank`` and ``truncation_error`` where a serving cap cut the adapter, else 0.

    Raises:
      motet.errors.MotetError: bad data, a failed run, or an export that can not be written.
    """
    started = time.monotonic()
    check_trackers(recipe)
    shards = prepare_shards(recipe, out_dir / "data")
    files = {} if policies is None else {c: policies / f"{c}.toml" for c in shards.train}
    shards = replace(
        shards, policies={c: f for c, f in files.items() if f.is_file()}, classes=dict(classes or {})
    )
    if recipe.cohort.clients is None:
        recipe = recipe.model_copy(
            update={"cohort": recipe.cohort.model_copy(update={"clients": sorted(shards.train)})}
        )
    runs = out_dir / "runs"
    pool = WorkerPool(processes, preload=("client.worker",)) if processes else None
    try:
        start = score(recipe, _before(recipe), shards.test, num_threads=os.cpu_count()).metric()
        main = run_engine(
            recipe,
            shards,
            runs / "federated",
            stage="federated",
            pool=pool,
            on_step=on_step,
            trackers=out_dir / "trackers",
        )
        outcomes = {"federated": main}
        if baselines:
            outcomes |= _other_ways(recipe, shards, runs, pool, on_step)
    finally:
        if pool is not None:
            pool.close()

    facts = CardFacts(
        run_id=main.result.run_id,
        rounds=recipe.training.rounds,
        clients=len(shards.train),
        adapter_sha256=main.result.adapter_sha256,
        epsilons=main.epsilons,
    )
    if has_personal_part(recipe):
        adapter_dir = out_dir / "adapters"
        for client in sorted(shards.train):
            home = runs / "federated" / "clients" / client
            export_personal(home, main.result.run_id, adapter_dir / client)
            if merged:
                export_personal(home, main.result.run_id, out_dir / "merged" / client, merged=True)
    else:
        product = learned_product(recipe, main.state)
        adapter_dir = out_dir / "adapter"
        if merged:
            write_export(recipe, product, main.state.dense, out_dir / "merged", facts, merged=True)
        facts = write_export(recipe, product, main.state.dense, adapter_dir, facts)
    return {
        "run_id": main.result.run_id,
        "recipe_name": recipe.name,
        "adapter_dir": str(adapter_dir),
        "adapter_sha256": main.result.adapter_sha256,
        "method": recipe.method.name,
        "privacy_unit": None if recipe.privacy is None else recipe.privacy.unit,
        "rounds": recipe.training.rounds,
        "metrics": _metrics(start, outcomes),
        "gains": _gains(outcomes),
        "clients": client_rows(recipe, shards, main.result, main.epsilons),
        "aggregation_error": [row["relative_error"] for row in main.result.rounds],
        "curves": {n: [start, *o.curve] for n, o in outcomes.items() if n.startswith("federated")},
        "seconds": round(time.monotonic() - started, 1),
    } | cut_of(facts)


def _other_ways(
    recipe: Recipe, shards: Shards, runs: Path, pool: WorkerPool | None, on_step: OnStep | None
) -> dict[str, Outcome]:
    """The runs beside the federated one, by name; clients alone are ``alone/<client>``, none of those private."""

    def one_alone(client: str) -> Outcome:
        return run_engine(
            without_privacy(alone(recipe, client)),
            shards,
            runs / "alone" / client,
            stage=f"{client} alone",
            pool=pool,
            on_step=on_step,
            with_curve=False,
        )

    def together(name: str, stage: str, other: Recipe) -> Outcome:
        return run_engine(
            other,
            shards,
            runs / name,
            stage=stage,
            pool=pool,
            on_step=on_step,
            with_curve=other.method.train_adapter,
        )

    found: dict[str, Outcome] = {}
    clients = sorted(shards.train)
    with ThreadPoolExecutor(1 if pool is None else len(clients)) as threads:
        for client, outcome in zip(clients, threads.map(one_alone, clients), strict=True):
            found[ALONE + client] = outcome
    private = recipe.privacy is not None
    if private:
        found["federated_no_privacy"] = together(
            "no-privacy", "federated, no privacy", without_privacy(recipe)
        )
    if recipe.task.has_classes:
        found["head_only"] = together("head-only", "head alone", without_privacy(head_only(recipe)))
        if private:
            found["head_only_private"] = together(
                "head-only-private", "head alone, private", head_only(recipe)
            )
    return found


def _metrics(start: Metric, outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
    """``start``, ``local_only`` (by client) and one metric for each other way of training."""
    metrics: dict[str, Any] = {"start": start}
    last = {name: outcome.curve[-1] for name, outcome in outcomes.items()}
    metrics["local_only"] = {n.removeprefix(ALONE): m for n, m in last.items() if n.startswith(ALONE)}
    return metrics | {name: metric for name, metric in last.items() if not name.startswith(ALONE)}


def _gains(outcomes: Mapping[str, Outcome]) -> dict[str, dict[str, dict[str, float]]]:
    """Federated name -> other way -> ``client.evaluation.paired_gain`` on the same held-out examples."""
    return {
        ours: {
            name: paired_gain(outcomes[ours].scores, other.scores)
            for name, other in outcomes.items()
            if name != ours
        }
        for ours in ("federated", "federated_no_privacy")
        if ours in outcomes
    }


def client_rows(
    recipe: Recipe, shards: Shards, result: RunResult, epsilons: Mapping[str, float]
) -> list[dict[str, Any]]:
    """One row a client: rank, examples (the simulator knows them), bytes over the whole run, epsilon."""
    rows = []
    for client in sorted(shards.train):
        rounds = [row["clients"][client] for row in result.rounds if client in row["clients"]]
        rows.append(
            {
                "client_id": client,
                "lora_rank": rounds[-1]["lora_rank"] if rounds else recipe.lora_rank_of(client),
                "num_examples": shards.sizes[client],
                "bytes_up": sum(r["bytes_up"] for r in rounds),
                "bytes_down": sum(r["bytes_down"] for r in rounds),
                "epsilon": epsilons.get(client),
            }
        )
    return rows

"""Every method on real weights and real data: accuracy, bytes and seconds, beside the head alone.

Four tasks, each with the same recipe for all methods but for what a method needs (``needs``):

* ``news-dirichlet``: MiniLM, eight close topics of 20 Newsgroups, four clients, labels by Dirichlet(0.3).
* ``news-groups``: MiniLM, 20 Newsgroups, four clients with a group of topics each: no class in two places.
* ``fashion``: DINOv2-small, Fashion-MNIST through four cameras, one a client.
* ``tales``: SmolLM2, Grimm's tales, a kind of tale a client; loss in place of accuracy, and no head.

A cell is one run of the round engine, in this process: a task, a method, equal or mixed ranks, a seed. The seed draws
the split, the start and the batches, so that cells of one seed see the same clients and the same held-out
examples. Layers below the first adapted one are the same for all cells: what they make of an example is kept
(``frozen_prefix``), which changes no value and leaves seconds to what methods differ in.

Each finished cell is a line of benchmarks/results/methods.jsonl; cells that stand there are not run again, so an
interrupted campaign goes on where it was, and ``--only`` and ``--seeds`` let several processes share it.

Run: python benchmarks/methods.py [--quick] [--only TASK ...] [--seeds 1 2 3] [--methods NAME ...] [--report].
Writes methods.jsonl as it goes, and methods.json, methods.md and methods.png at the end (or at once with ``--report``).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import methods_reading  # noqa: E402
import torch  # noqa: E402
from frozen_prefix import FrozenPrefix  # noqa: E402

from aggregation.methods import METHODS  # noqa: E402
from aggregation.table import refusal  # noqa: E402
from client.base import loaded_base  # noqa: E402
from motet.data import partition, write_shards  # noqa: E402
from motet.recipe import parse_recipe  # noqa: E402
from motet.simulate import Shards, run_engine  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from motet.recipe import Recipe

RESULTS = ROOT / "benchmarks" / "results"
SEEDS = (1, 2, 3)
HEAD = "head alone"
EQUAL_RANK, MIXED_RANKS = 8, (4, 4, 8, 16)
CORE_RANK = 32
"""Of Fed-SB's square core: 1,024 numbers a layer, fewer than any other method's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """The part of a recipe that all methods share, as YAML; ``clients`` in the order that ranks are dealt."""

    clients: Sequence[str]
    text: str
    targets: str
    layers: str
    training: str
    rate: float
    head_rate: float | None


_NEWS = "base_model: {material: minilm}\n"
_CLOSE_TOPICS = (
    "[comp.graphics, comp.os.ms-windows.misc, comp.sys.ibm.pc.hardware, comp.sys.mac.hardware, comp.windows.x, "
    "sci.electronics, sci.crypt, misc.forsale]"
)
TASKS = {
    "news-dirichlet": Task(
        clients=("client-1", "client-2", "client-3", "client-4"),
        text=_NEWS + "task: {kind: sequence-classification, num_labels: 8, max_length: 24}\n"
        f"data: {{material: newsgroups, classes: {_CLOSE_TOPICS}, test_examples: 300,\n"
        "  partition: {by: dirichlet, alpha: 0.3, examples_per_client: 400}}\n",
        targets="[query, key, value, dense]",
        layers="[3, 4, 5]",
        training="rounds: 4, local_steps: 4, expected_batch_size: 10, learning_rate_decay: 0.8",
        rate=3e-3,
        head_rate=5e-2,
    ),
    "news-groups": Task(
        clients=("computers", "recreation", "religion", "science"),
        text=_NEWS + "task: {kind: sequence-classification, num_labels: 20, max_length: 24}\n"
        "data: {material: newsgroups, test_examples: 300,\n"
        "  partition: {by: natural, examples_per_client: 400}}\n",
        targets="[query, key, value, dense]",
        layers="[3, 4, 5]",
        training="rounds: 4, local_steps: 4, expected_batch_size: 10, learning_rate_decay: 0.8",
        rate=3e-3,
        head_rate=5e-2,
    ),
    "fashion": Task(
        clients=("blurred", "inverted", "rotated", "upright"),
        text="base_model: {material: dinov2-small}\n"
        "task: {kind: image-classification, num_labels: 10, image_size: 56}\n"
        "data: {material: fashion-domains, test_examples: 240,\n"
        "  partition: {by: natural, examples_per_client: 300}}\n",
        targets="[q_proj, v_proj, fc1, fc2]",
        layers="[9, 10, 11]",
        training="rounds: 4, local_steps: 6, expected_batch_size: 6, learning_rate_decay: 0.8",
        rate=1e-3,
        head_rate=5e-3,
    ),
    "tales": Task(
        clients=("anecdotes", "animals", "magic", "realistic"),
        text="base_model: {material: smollm2}\ntask: {kind: causal-lm, max_length: 24}\n"
        "data: {material: tales, test_examples: 24,\n"
        "  partition: {by: natural, examples_per_client: 100}}\n",
        targets="[q_proj, v_proj]",
        layers="[25, 26, 27, 28, 29]",
        training="rounds: 2, local_steps: 2, expected_batch_size: 4",
        rate=4e-3,
        head_rate=None,
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One run."""

    task: str
    method: str
    ranks: str
    seed: int

    @property
    def key(self) -> tuple[str, str, str, int]:
        """What a line of the results is found by."""
        return self.task, self.method, self.ranks, self.seed


def cells(tasks: Sequence[str], methods: Sequence[str], seeds: Sequence[int]) -> Iterator[Cell]:
    """All cells, task by task and method by method: what an interrupted campaign has measured has all its seeds."""
    for task in tasks:
        for method in methods:
            if method == HEAD:
                kinds = ["none"] if TASKS[task].head_rate is not None else []
            else:
                kinds = ["equal", "mixed"] if refusal(method, "mixed_ranks") is None else ["equal"]
            for ranks in kinds:
                for seed in seeds:
                    yield Cell(task=task, method=method, ranks=ranks, seed=seed)


def needs(method: str) -> tuple[int, str, float]:
    """(equal rank, alpha, factor on the adapter's rate): what a method is run with, not tuned to this data.

    Fed-SB starts from R = 0 at scale 1 and takes larger steps; FFA trains B alone against orthonormal A. The factors
    are those found on other data (VADER): 6e-2 and 1e-2 where FedIT had 1e-2, here between these and one.
    """
    if method == "fed-sb":
        return CORE_RANK, "1r", 6.0
    return EQUAL_RANK, "2r", 2.0 if method == "ffa" else 1.0


def recipe_text(cell: Cell, *, quick: bool = False) -> str:
    """The recipe of a cell, as YAML."""
    task = TASKS[cell.task]
    head = cell.method == HEAD
    rank, alpha, factor = needs(cell.method)
    ranks = str(rank)
    if cell.ranks == "mixed":
        ranks = "{" + ", ".join(f"{c}: {r}" for c, r in zip(task.clients, MIXED_RANKS, strict=True)) + "}"
    method = "{name: fedit, train_adapter: false}" if head else f"{{name: {cell.method}}}"
    rates = f"learning_rate: {task.rate * factor:.6f}"
    rates += "" if task.head_rate is None else f", head_learning_rate: {task.head_rate}"
    training = task.training if not quick else "rounds: 1, local_steps: 2, expected_batch_size: 4"
    return (
        f"name: {cell.task}-{cell.method.replace(' ', '-')}\n{task.text}"
        f"adapter: {{lora_rank: {ranks}, alpha: {alpha}, targets: {task.targets}, layers: {task.layers}}}\n"
        f"method: {method}\ntraining: {{{training}, {rates}}}\n"
        f"cohort: {{clients: [{', '.join(task.clients)}], minimum: 4}}\nseed: {cell.seed}\n"
    )


def sha256_of(cell: Cell, *, quick: bool) -> str:
    """Of the recipe's text: a line that was measured with another recipe is not this cell's."""
    return hashlib.sha256(recipe_text(cell, quick=quick).encode()).hexdigest()[:16]


class Splits:
    """Dealt data by task and seed, written once: a method does not change the split."""

    def __init__(self, folder: Path, *, quick: bool) -> None:
        self._folder, self._quick = folder, quick
        self._dealt: dict[tuple[str, int], Shards] = {}

    def of(self, cell: Cell, recipe: Recipe) -> Shards:
        """Files of the clients and the held-out examples."""
        key = (cell.task, cell.seed)
        if key not in self._dealt:
            dealt = partition(recipe)
            files = write_shards(dealt, self._folder / "data" / f"{cell.task}-{cell.seed}")
            test = tuple(dealt.test)[: 12 if self._quick else None]
            sizes = {client: len(examples) for client, examples in dealt.train.items()}
            self._dealt[key] = Shards(train=files, sizes=sizes, test=test)
        return self._dealt[key]


_prefixes: dict[int, FrozenPrefix] = {}


def keep_prefix(recipe: Recipe) -> None:
    """What lies below the first adapted layer is computed once for each example, whatever the cell."""
    model: Any = loaded_base(recipe).model
    backbone = getattr(model, "backbone", None) or model.model
    if id(backbone) not in _prefixes:
        layers = backbone.encoder.layer if hasattr(backbone, "encoder") else backbone.layers
        _prefixes[id(backbone)] = FrozenPrefix(backbone, layers, min(recipe.adapter.layers or [0]))


def run_cell(cell: Cell, splits: Splits, folder: Path, *, quick: bool) -> dict[str, Any]:
    """One cell's line."""
    recipe = parse_recipe(recipe_text(cell, quick=quick))
    shards = splits.of(cell, recipe)
    keep_prefix(recipe)
    wall, cpu = time.monotonic(), time.process_time()
    outcome = run_engine(recipe, shards, folder / "run", stage="", with_curve=False, num_threads=1)
    cpu, wall = time.process_time() - cpu, time.monotonic() - wall
    shutil.rmtree(folder / "run")
    clients = [row for one in outcome.result.rounds for row in one["clients"].values()]
    per_reply = len(clients)
    scores = outcome.scores
    line = {
        "task": cell.task,
        "method": cell.method,
        "ranks": cell.ranks,
        "seed": cell.seed,
        **{k: round(v, 5) for k, v in scores.metric().items()},
        "bytes_up": round(sum(c["bytes_up"] for c in clients) / per_reply),
        "bytes_down": round(sum(c["bytes_down"] for c in clients) / per_reply),
        "aggregation_error": round(float(outcome.result.rounds[-1]["relative_error"]), 5),
        "cpu_s": round(cpu, 2),
        "wall_s": round(wall, 2),
        "recipe_text_sha256": sha256_of(cell, quick=quick),
    }
    if scores.correct is not None and all(v in (0.0, 1.0) for v in scores.correct.tolist()):
        bits = "".join(str(int(v)) for v in scores.correct.tolist())
        line["correct_hex"] = f"{int(bits, 2):0{-(-len(bits) // 4)}x}"
    else:
        judged = scores.losses if scores.correct is None else scores.correct
        line["judged"] = [round(v, 4) for v in judged.tolist()]
    return line


def campaign(todo: Sequence[Cell], path: Path, *, quick: bool) -> None:
    """Run cells and append a line for each; says what is left and about how long it takes."""
    started, spent = time.monotonic(), 0
    with tempfile.TemporaryDirectory(prefix="motet-methods-") as scratch:
        splits = Splits(Path(scratch), quick=quick)
        for number, cell in enumerate(todo, start=1):
            line = run_cell(cell, splits, Path(scratch), quick=quick)
            with path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(line) + "\n")
            spent = time.monotonic() - started
            left = spent / number * (len(todo) - number)
            value = line.get("accuracy", line["loss"])
            print(
                f"[{number}/{len(todo)}, {left / 60:.0f} min left] seed {cell.seed} {cell.task} {cell.method} "
                f"({cell.ranks}): {value:.3f}, {line['cpu_s']:.1f} CPU-s",
                flush=True,
            )


def measured(path: Path, *, quick: bool) -> dict[tuple[str, str, str, int], methods_reading.Line]:
    """Lines of cells that are as they are now, by key."""
    found = {}
    for line in methods_reading.read_lines(path):
        cell = Cell(task=line["task"], method=line["method"], ranks=line["ranks"], seed=line["seed"])
        if cell.task in TASKS and line["recipe_text_sha256"] == sha256_of(cell, quick=quick):
            found[cell.key] = line
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=TASKS, default=list(TASKS), help="these tasks")
    known = [HEAD, *METHODS]
    parser.add_argument("--methods", nargs="+", choices=known, default=known, help="these methods")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS), help="these seeds")
    parser.add_argument("--quick", action="store_true", help="two steps a cell, to a folder of its own")
    parser.add_argument("--report", action="store_true", help="read what has been measured; run nothing")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folder = RESULTS / "quick" if arguments.quick else RESULTS
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "methods.jsonl"
    if not arguments.report:
        wanted = list(cells(arguments.only, arguments.methods, arguments.seeds))
        done = measured(path, quick=arguments.quick)
        todo = [cell for cell in wanted if cell.key not in done]
        print(f"{len(wanted) - len(todo)} of {len(wanted)} cells are measured already", flush=True)
        campaign(todo, path, quick=arguments.quick)
    done = measured(path, quick=arguments.quick)
    result = {
        "what": "every method on real weights and data; CPU seconds of one thread, on a machine with other work",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "missing": [list(c.key) for c in cells(list(TASKS), known, SEEDS) if c.key not in done],
        **methods_reading.summary(list(done.values())),
    }
    (folder / "methods.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    methods_reading.draw(result, folder / "methods.png")
    whole = methods_reading.table(result)
    (folder / "methods.md").write_text(
        f"# Every method, by task and seed\n\nMade by `python benchmarks/methods.py --report`.\n{whole}\n",
        encoding="utf-8",
    )
    print(whole + "\n\n" + methods_reading.short_table(result))


if __name__ == "__main__":
    main()

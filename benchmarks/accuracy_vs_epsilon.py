"""What a privacy budget costs in accuracy: LoRA methods, Fed-SB and the head alone, at no budget and at 8, 3 and 1.

MiniLM and eight close topics of 20 Newsgroups, four clients by Dirichlet(0.3): there adapters are worth more than the
head alone, so methods can separate. Budgets are of one example at a client, over the whole run. Every cell has the same
steps, sampling rate and clipping norm; nothing is tuned to a budget, so that what is lost is lost to noise. The
seed draws the split, the start and (without a budget) the batches; noise and private batches are fresh each time.

Each finished cell is a line of benchmarks/results/accuracy_vs_epsilon.jsonl and is not run again: an interrupted
campaign goes on where it was.

Run: python benchmarks/accuracy_vs_epsilon.py [--seeds 1 2 3] [--methods NAME ...] [--report]. About three quarters
of an hour on one core. Writes the lines as it goes, and accuracy_vs_epsilon.json and .png at the end (or at once
with ``--report``).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import methods  # noqa: E402
import torch  # noqa: E402
from methods_reading import paired  # noqa: E402

from motet.data import partition, write_shards  # noqa: E402
from motet.recipe import parse_recipe  # noqa: E402
from motet.simulate import Shards, run_engine  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Mapping

RESULTS = methods.RESULTS
BUDGETS = (None, 8, 3, 1)
WAYS = ("flora", "ffa", "fed-sb", methods.HEAD)
TASK = methods.TASKS["news-dirichlet"]
EXAMPLES, TEST, SAMPLING_RATE = 1500, 600, 0.03
Line = dict[str, Any]
Key = tuple[str, float | None, int]


def recipe_text(way: str, budget: float | None, seed: int) -> str:
    """The recipe of a cell, as YAML: the task of ``methods.py`` with more examples, so that 3 % are a batch."""
    rank, alpha, factor = methods.needs(way)
    method = "{name: fedit, train_adapter: false}" if way == methods.HEAD else f"{{name: {way}}}"
    task = TASK.text.replace("examples_per_client: 400", f"examples_per_client: {EXAMPLES}")
    task = task.replace("test_examples: 300", f"test_examples: {TEST}")
    privacy = f"{{target_epsilon: {budget}, sampling_rate: {SAMPLING_RATE}, clipping_norm: 1.0}}"
    return (
        f"name: budget\n{task}adapter: {{lora_rank: {rank}, alpha: {alpha}, targets: {TASK.targets}, "
        f"layers: {TASK.layers}}}\nmethod: {method}\n"
        "training: {rounds: 6, local_steps: 4, expected_batch_size: 36, learning_rate_decay: 0.8, "
        f"learning_rate: {TASK.rate * factor:.6f}, head_learning_rate: {TASK.head_rate}}}\n"
        + (f"privacy: {privacy}\n" if budget is not None else "")
        + f"cohort: {{clients: [{', '.join(TASK.clients)}], minimum: 4}}\nseed: {seed}\n"
    )


def sha256_of(key: Key) -> str:
    """Of the recipe's text: a line that was measured with another recipe is not this cell's."""
    return hashlib.sha256(recipe_text(*key).encode()).hexdigest()[:16]


def run_cell(key: Key, shards: Shards, folder: Path) -> Line:
    """One cell's line; ``epsilon`` is the largest of a client's, as its ledger has it."""
    recipe = parse_recipe(recipe_text(*key))
    methods.keep_prefix(recipe)
    started = time.process_time()
    outcome = run_engine(recipe, shards, folder / "run", stage="", with_curve=False, num_threads=1)
    shutil.rmtree(folder / "run")
    way, budget, seed = key
    epsilons = [e for e in outcome.epsilons.values() if e is not None]
    return {
        "method": way,
        "budget": budget,
        "seed": seed,
        "accuracy": round(outcome.scores.metric()["accuracy"], 5),
        "epsilon": round(max(epsilons), 4) if epsilons else None,
        "cpu_s": round(time.process_time() - started, 1),
        "recipe_text_sha256": sha256_of(key),
    }


def dealt(seed: int, folder: Path) -> Shards:
    """One seed's split, the same for all ways and budgets."""
    made = partition(parse_recipe(recipe_text("flora", None, seed)))
    files = write_shards(made, folder / f"data-{seed}")
    sizes = {client: len(examples) for client, examples in made.train.items()}
    return Shards(train=files, sizes=sizes, test=tuple(made.test))


def measured(path: Path) -> dict[Key, Line]:
    """Lines of cells that are as they are now."""
    found: dict[Key, Line] = {}
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        line = json.loads(text)
        key = (line["method"], line["budget"], line["seed"])
        if key[0] in WAYS and line["recipe_text_sha256"] == sha256_of(key):
            found[key] = line
    return found


def campaign(todo: list[Key], path: Path) -> None:
    """Run cells and append a line for each."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="motet-budget-") as scratch:
        splits: dict[int, Shards] = {}
        for number, key in enumerate(todo, start=1):
            if key[2] not in splits:
                splits[key[2]] = dealt(key[2], Path(scratch))
            line = run_cell(key, splits[key[2]], Path(scratch))
            with path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(line) + "\n")
            left = (time.monotonic() - started) / number * (len(todo) - number)
            print(f"[{number}/{len(todo)}, {left / 60:.0f} min left] {line}", flush=True)


def reading(lines: Mapping[Key, Line]) -> dict[str, Any]:
    """By way and budget: accuracy by seed, mean, and the paired gains over the head alone and over no budget."""
    found: dict[str, Any] = {}
    for way in WAYS:
        found[way] = {}
        for budget in BUDGETS:
            own = {
                s: line["accuracy"]
                for (w, b, s), line in sorted(lines.items(), key=str)
                if (w, b) == (way, budget)
            }
            if not own:
                continue
            row: dict[str, Any] = {"by_seed": own, "mean": round(statistics.mean(own.values()), 4)}
            for name, other in (("head alone", (methods.HEAD, budget)), ("no budget", (way, None))):
                gains = {s: own[s] - lines[*other, s]["accuracy"] for s in own if (*other, s) in lines}
                if gains and other != (way, budget):
                    row[f"beside {name}"] = paired(gains)
            spent = [line["epsilon"] for (w, b, _), line in lines.items() if (w, b) == (way, budget)]
            row["epsilon"] = max(spent) if budget is not None else None
            found[way][str(budget)] = row
    return found


def table(found: Mapping[str, Any]) -> str:
    """Markdown: a row a way, a column a budget: mean, and the paired gain over the head alone in brackets."""
    rows = ["| | no budget | 8 | 3 | 1 |", "|---|---|---|---|---|"]
    for way, by_budget in found.items():
        cells = []
        for budget in BUDGETS:
            row = by_budget.get(str(budget))
            text = "-" if row is None else f"{100 * row['mean']:.1f}"
            if row is not None and "beside head alone" in row:
                gain = row["beside head alone"]
                bold = "**" if gain["separates"] else ""
                half = "" if gain["half_interval"] is None else f" ± {100 * gain['half_interval']:.1f}"
                text += f" ({bold}{100 * gain['gain']:+.1f}{half}{bold})"
            cells.append(text)
        rows.append(f"| {way} | {' | '.join(cells)} |")
    return "\n".join(rows)


def draw(found: Mapping[str, Any], path: Path) -> None:
    """Accuracy against budget: a line through the means, a dot a seed."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.2))
    places = {str(budget): place for place, budget in enumerate(reversed(BUDGETS))}
    for number, (way, by_budget) in enumerate(found.items()):
        shift = 0.05 * (number - 1.5)
        known = [b for b in places if b in by_budget]
        color = f"C{number}"
        axes.plot(
            [places[b] + shift for b in known],
            [100 * by_budget[b]["mean"] for b in known],
            color=color,
            label=way,
        )
        for b in known:
            seeds = [100 * v for v in by_budget[b]["by_seed"].values()]
            axes.scatter([places[b] + shift] * len(seeds), seeds, s=14, color=color, alpha=0.6)
    axes.set_xticks(list(places.values()), [b if b != "None" else "no budget" for b in places])
    axes.set_xlabel("epsilon of one example at a client, whole run")
    axes.set_ylabel("held-out accuracy, %")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", choices=WAYS, default=list(WAYS), help="these ways")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(methods.SEEDS), help="these seeds")
    parser.add_argument("--report", action="store_true", help="read what has been measured; run nothing")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    path = RESULTS / "accuracy_vs_epsilon.jsonl"
    if not arguments.report:
        wanted = [(w, b, s) for s in arguments.seeds for w in arguments.methods for b in BUDGETS]
        done = measured(path)
        todo = [key for key in wanted if key not in done]
        print(f"{len(wanted) - len(todo)} of {len(wanted)} cells are measured already", flush=True)
        campaign(todo, path)
    lines = measured(path)
    found = reading(lines)
    wanted_keys = [(w, b, s) for w in WAYS for b in BUDGETS for s in methods.SEEDS]
    result = {
        "what": "held-out accuracy by privacy budget, MiniLM on eight close topics of 20 Newsgroups, four clients",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "examples_per_client": EXAMPLES,
        "test_examples": TEST,
        "sampling_rate": SAMPLING_RATE,
        "missing": [list(key) for key in wanted_keys if key not in lines],
        "ways": found,
    }
    (RESULTS / "accuracy_vs_epsilon.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    draw(found, RESULTS / "accuracy_vs_epsilon.png")
    print(table(found))


if __name__ == "__main__":
    main()

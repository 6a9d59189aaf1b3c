"""``motet demo``: the product's face. Real weights, real data, mixed ranks, privacy on."""

from __future__ import annotations

import shutil
import sys
from enum import StrEnum
from importlib import resources
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from motet.cli.progress import RoundProgress
from motet.cli.simulate import print_result


class DemoTask(StrEnum):
    """Which demo."""

    classification = "classification"
    causal_lm = "causal-lm"


MATERIALS_OF = {DemoTask.classification: ("minilm", "newsgroups"), DemoTask.causal_lm: ("smollm2", "tales")}


def demo_recipe_path(task: DemoTask) -> Path:
    """The packaged recipe of a demo."""
    return Path(str(resources.files("motet.cli") / "demos" / f"{task.value}.yaml"))


def demo_command(
    task: Annotated[DemoTask, typer.Option(help="What is learned.")] = DemoTask.classification,
    out: Annotated[Path, typer.Option("--out", help="Folder for everything that the demo writes.")] = Path(
        "demo-out"
    ),
    deployed: Annotated[
        bool, typer.Option("--deployed", help="A real coordinator and one process a client, on loopback.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, last.")] = False,
) -> None:
    """Fine-tune real weights on real data together, and see what it beats and what privacy costs.

    Example: motet demo --task causal-lm --out demo-out/tales
    """
    from motet.cli.materials import fetch_with_progress
    from motet.recipe import load_recipe

    console = Console(stderr=True, highlight=False)
    path = demo_recipe_path(task)
    recipe = load_recipe(path)
    out = out / task.value if out == Path("demo-out") else out
    fetch_with_progress(MATERIALS_OF[task], console)
    console.print(f"recipe: {path}")
    if deployed:
        from motet.deployed import run_deployed as run
    else:
        from motet.simulate import simulate as run

    with RoundProgress(console) as bars:
        result = run(recipe, out, on_step=bars.on_step)
    print_result(result, out, as_json=as_json)
    if not as_json:
        lines = [f"  {line}" for line in _next_commands(task, path, out, result["run_id"], deployed=deployed)]
        Console(highlight=False).print("\n".join(["", "next", *lines]), soft_wrap=True)


def _next_commands(task: DemoTask, path: Path, out: Path, run_id: str, *, deployed: bool) -> list[str]:
    """Three commands worth trying now, as they can be typed here."""
    motet = "motet" if shutil.which("motet") else sys.argv[0]
    other = next(t for t in DemoTask if t is not task).value
    if deployed:
        bundle = out / "audit.jsonl"
        return [
            f"{motet} audit export {run_id} --home {out / 'deployment' / 'coordinator'} --out {bundle}",
            f"{motet} audit verify {bundle}",
            f"{motet} demo --task {other}",
        ]
    return [
        f"{motet} plan {path}",
        f"{motet} demo --deployed" + (f" --task {task.value}" if task is not DemoTask.classification else ""),
        f"{motet} demo --task {other}",
    ]

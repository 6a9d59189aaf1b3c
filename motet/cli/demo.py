"""``motet demo``: the product's face. Real weights, real data, mixed ranks, privacy on."""

from __future__ import annotations

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
        adapter = result["adapter_dir"]
        Console(highlight=False).print(
            f"\nnext\n  ls {adapter}\n  motet plan {path}\n  motet demo --deployed", soft_wrap=True
        )

"""``motet simulate``: run a recipe here, without servers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from motet.cli.completing import recipes
from motet.cli.export import cut_words
from motet.cli.progress import RoundProgress
from motet.cli.report import clients_table, is_private, metrics_table, plot_learning_curve
from motet.cli.screen import console as made


def print_result(result: dict[str, Any], out_dir: Path, *, as_json: bool) -> None:
    """Tables and the picture for people; with ``as_json`` one JSON object, and nothing else, on standard output."""
    picture = plot_learning_curve(result, out_dir / "learning-curve.png")
    (out_dir / "result.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    if as_json:
        print(json.dumps(result))
        return
    console = made()
    console.print()
    console.print(metrics_table(result))
    console.print()
    console.print(clients_table(result))
    if is_private(result):
        console.print(
            "The noise of a private run is fresh every time: a second run gives another adapter, seed or no seed."
        )
    console.print(f"\nadapter          {result['adapter_dir']}", soft_wrap=True)
    if result.get("learned_rank"):
        console.print(f"                 {cut_words(result)}", soft_wrap=True)
    console.print(f"learning curve   {picture}", soft_wrap=True)
    if (out_dir / "trackers").is_dir():
        console.print(f"trackers         {out_dir / 'trackers'}", soft_wrap=True)
    console.print(f"took             {result['seconds']:.0f} s", soft_wrap=True)


def _class_of(text: str) -> tuple[str, str]:
    client, is_there, name = text.partition("=")
    if not (client and is_there and name):
        raise typer.BadParameter(f"{text!r} is not CLIENT=CLASS", param_hint="--class")
    return client, name


def simulate_command(
    recipe: Annotated[
        Path, typer.Argument(help="The recipe, a YAML file.", metavar="RECIPE", autocompletion=recipes)
    ],
    out: Annotated[
        Path, typer.Option("--out", help="Folder for the adapter, databases and pictures.")
    ] = Path("runs/simulation"),
    baselines: Annotated[bool, typer.Option(help="Also run each client alone, and the head alone.")] = True,
    merged: Annotated[bool, typer.Option("--merged", help="Write a whole merged model as well.")] = False,
    processes: Annotated[
        int, typer.Option(min=0, help="Worker processes; 0 runs the clients in this one.")
    ] = 2,
    policies: Annotated[
        Path | None, typer.Option("--policies", help="Folder with CLIENT.toml, the policy of an owner.")
    ] = None,
    classes: Annotated[
        list[str] | None, typer.Option("--class", help="CLIENT=CLASS, a capacity class; may be repeated.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, last.")] = False,
) -> None:
    """Run RECIPE in this process group: every client simulated, no servers.

    Example: motet simulate examples/recipes/newsgroups-flora.yaml --out runs/first
    """
    from motet.recipe import load_recipe

    parsed = load_recipe(recipe)
    from motet.simulate import simulate

    with RoundProgress() as bars:
        result = simulate(
            parsed,
            out,
            baselines=baselines,
            merged=merged,
            processes=processes,
            on_step=bars.on_step,
            policies=policies,
            classes=dict(_class_of(text) for text in classes or ()),
        )
    print_result(result, out, as_json=as_json)

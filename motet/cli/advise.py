"""``motet advise``: which aggregation method, and why."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path  # noqa: TC003 - typer reads the annotation
from typing import TYPE_CHECKING, Annotated, Any

import typer

from motet.cli.completing import recipes

if TYPE_CHECKING:
    from aggregation.table import Need
    from motet.advice import Advice

_Flag = bool | None


def advise_command(
    recipe: Annotated[
        Path | None,
        typer.Argument(
            help="A recipe whose needs to read; flags change them.", metavar="RECIPE", autocompletion=recipes
        ),
    ] = None,
    mixed_ranks: Annotated[
        _Flag, typer.Option("--mixed-ranks/--no-mixed-ranks", help="Clients may train different ranks.")
    ] = None,
    private: Annotated[
        _Flag, typer.Option("--private/--no-private", help="Differential privacy for each example.")
    ] = None,
    client_dp: Annotated[
        _Flag, typer.Option("--client-dp/--no-client-dp", help="A whole client's influence is bounded.")
    ] = None,
    secure_sums: Annotated[
        _Flag, typer.Option("--secure-sums/--no-secure-sums", help="The server sees sums only.")
    ] = None,
    constant_download: Annotated[
        _Flag,
        typer.Option(
            "--constant-download/--no-constant-download", help="Downloads do not grow with the cohort."
        ),
    ] = None,
    fixed_base: Annotated[
        _Flag,
        typer.Option("--fixed-base/--no-fixed-base", help="The base stays, as one of 8 or 4 bits must."),
    ] = None,
    exact: Annotated[
        _Flag, typer.Option("--exact/--no-exact", help="The next model is the mean of the clients' models.")
    ] = None,
    personal: Annotated[
        _Flag, typer.Option("--personal/--no-personal", help="Every client keeps a model of its own.")
    ] = None,
    control_variates: Annotated[
        _Flag, typer.Option("--control-variates/--no-control-variates", help="Clients train with SCAFFOLD.")
    ] = None,
    rank_changes: Annotated[
        _Flag, typer.Option("--rank-changes/--no-rank-changes", help="The rank changes between rounds.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and ask nothing.")] = False,
) -> None:
    """Name the aggregation method for what a federation needs, and say why.

    Without RECIPE and flags it asks, on a terminal.

    Example: motet advise --mixed-ranks --private
    """
    from aggregation.table import nearest
    from motet.advice import advise, ask, needs_of, refusals
    from motet.recipe import load_recipe

    said: dict[Need, bool | None] = {
        "mixed_ranks": mixed_ranks,
        "example_dp": private,
        "client_dp": client_dp,
        "secure_sums": secure_sums,
        "constant_download": constant_download,
        "fixed_base": fixed_base,
        "exact": exact,
        "personal_part": personal,
        "control_variates": control_variates,
        "rank_changes": rank_changes,
    }
    parsed = None if recipe is None else load_recipe(recipe, combinations=False)
    needs: frozenset[Need] = frozenset() if parsed is None else needs_of(parsed)
    if parsed is None and not as_json and _on_terminal() and all(v is None for v in said.values()):
        needs = ask(lambda question: typer.confirm(question, default=False))
    needs = (needs | {n for n, v in said.items() if v}) - {n for n, v in said.items() if v is False}
    advice = advise(needs)
    result: dict[str, Any] = _facts(advice)
    if parsed is not None:
        lacks = refusals(parsed.method.name, needs)
        result["recipe"] = {
            "path": str(recipe),
            "method": parsed.method.name,
            "fits": not lacks,
            "lacks": [asdict(item) for item in lacks],
            "nearest": nearest(parsed.method.name, needs),
        }
    if as_json:
        print(json.dumps(result))
        return
    _print(result)


def _on_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


def _facts(advice: Advice) -> dict[str, Any]:
    from aggregation.table import TABLE

    row = TABLE[advice.method]
    paper = {"title": row.title, "paper": row.paper, "url": row.url, "up": row.up, "down": row.down}
    return asdict(advice) | paper


def _print(result: dict[str, Any]) -> None:
    print(f"{result['method']}  ({result['title']}, {result['paper']}, {result['url']})")
    for reason in result["reasons"]:
        print(f"- {reason}")
    print(f"a layer (m, n), d = m + n: a client sends {result['up']} floats and receives {result['down']}")
    if result["also"]:
        print(f"what was asked for is met too by: {', '.join(result['also'])}")
    recipe = result.get("recipe")
    if recipe is None:
        print(f"in a recipe: method: {{name: {result['method']}}}")
    elif recipe["method"] == result["method"]:
        print(f"{recipe['path']} says so already")
    elif recipe["fits"]:
        print(f"{recipe['path']} says {recipe['method']}, which meets all of it too")
    else:
        for item in recipe["lacks"]:
            print(f"{recipe['path']} says {recipe['method']}, which does not fit: {item['reason']}")
        other = (
            "" if recipe["nearest"] == result["method"] else f", or the nearest to it, {recipe['nearest']}"
        )
        print(f"in the recipe, set method.name: {result['method']}{other}")

"""``motet deal``: a recipe's data as files, one for each client, as a simulation would deal them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer


def deal_command(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a YAML file.", metavar="RECIPE")],
    out: Annotated[Path, typer.Option("--out", help="Folder for <client>.jsonl and test.jsonl.")] = Path(
        "data"
    ),
    client: Annotated[
        str | None,
        typer.Option("--client", help="This client's file alone, so that nobody gets another's examples."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Deal a recipe's data to clients, for a federation that is tried out; real owners have their own.

    The same recipe deals the same files each time. The data have to be here: motet materials fetch.

    Example: motet deal examples/recipes/newsgroups-flora.yaml --out shards
    """
    from motet.cli.words import UsageError
    from motet.data import partition, write_shards
    from motet.recipe import load_recipe

    dealt = partition(load_recipe(recipe))
    sizes = {name: len(examples) for name, examples in sorted(dealt.train.items())}
    if client is not None:
        if client not in sizes:
            raise UsageError(f"{recipe} deals nothing to {client}", hint=f"it names {', '.join(sizes)}")
        sizes, dealt = {client: sizes[client]}, replace(dealt, train={client: dealt.train[client]})
    written = write_shards(dealt, out, with_test=client is None)
    files = {name: str(path) for name, path in written.items()}
    if as_json:
        print(json.dumps({"files": files, "examples": sizes}))
        return
    for name, path in files.items():
        print(f"{name}: {sizes[name]} examples in {path}")

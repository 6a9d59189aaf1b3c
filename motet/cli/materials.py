"""``motet materials``: what there is, what is here, bring it."""

from __future__ import annotations

import json
from pathlib import Path  # noqa: TC003 - typer reads the annotation
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from motet.cli.completing import materials
from motet.cli.progress import StepProgress
from motet.cli.report import format_bytes
from motet.cli.screen import console as made
from motet.cli.screen import listing
from motet.materials import MATERIALS, Material, fetch, is_fetched
from motet.materials.cache import cache_folder, find_material

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

app = typer.Typer(help="Real weights and texts: list them, bring them.", no_args_is_help=True)


@app.command("list")
def list_command(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the materials, their licences, and whether they are here.

    Example: motet materials list --json
    """
    rows = [_row(material) for material in MATERIALS.values()]
    if as_json:
        typer.echo(json.dumps({"cache": str(cache_folder()), "materials": rows}, indent=2))
        return
    console = made()
    console.print(f"materials, kept in {cache_folder()}", soft_wrap=True)
    console.print(materials_table(rows))


def materials_table(rows: Sequence[dict[str, Any]]) -> Table:
    """A row a material, as ``motet materials list --json`` has them."""
    columns = ("name", "here", "download", "licence", "what")
    table = listing(*columns, whole=("name",), right=("download",))
    for row in rows:
        here = "yes" if row["fetched"] else "no (optional)" if row["optional"] else "no"
        table.add_row(row["name"], here, format_bytes(row["bytes"]), row["licence"], row["what"])
    return table


@app.command("fetch")
def fetch_command(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Which; all but the optional ones when absent.", autocompletion=materials),
    ] = None,
    from_folder: Annotated[
        Path | None,
        typer.Option(
            "--from", help="Folder that already holds the downloaded files; uses no network.", exists=True
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, and no progress.")] = False,
) -> None:
    """Download materials, check their pinned hashes, and unpack them into the cache (once).

    Examples:
      motet materials fetch minilm vader
      motet materials fetch smollm2 --from /media/usb
    """
    wanted = names or [material.name for material in MATERIALS.values() if not material.optional]
    rows = fetch_with_progress(wanted, Console(stderr=True, quiet=as_json), from_folder=from_folder)
    if as_json:
        typer.echo(json.dumps({"cache": str(cache_folder()), "materials": rows}, indent=2))


def fetch_with_progress(
    names: Sequence[str], console: Console, *, from_folder: Path | None = None
) -> list[dict[str, Any]]:
    """Fetch materials one after the other with a bar on ``console``; all names are checked first.

    Returns:
      The rows of ``motet materials list --json``, each with ``downloaded``: whether it was not here before.

    Raises:
      MaterialError: an unknown name, or a fetch that failed.
    """
    chosen = list(dict.fromkeys(find_material(name).name for name in names))
    rows: list[dict[str, Any]] = []
    with StepProgress(console, unit="bytes") as progress:
        for name in chosen:
            material = MATERIALS[name]
            was_here = is_fetched(name)

            def tell_bytes(there: int, material: Material = material) -> None:
                progress.on_step(material.name, min(there, material.num_bytes), material.num_bytes)

            def tell(step: str, material: Material = material) -> None:
                there = 0 if step == "download" else material.num_bytes
                progress.on_step(material.name, there, material.num_bytes)

            path = fetch(name, from_folder=from_folder, on_step=tell, on_bytes=tell_bytes)
            progress.end(name)
            rows.append({**_row(material), "downloaded": not was_here})
            said = "was here" if was_here else "fetched"
            console.print(f"{name}: {said}, {path}", soft_wrap=True, highlight=False)
    return rows


def _row(material: Material) -> dict[str, Any]:
    return {
        "name": material.name,
        "fetched": is_fetched(material.name),
        "path": str(cache_folder() / material.name),
        "requirement": material.requirement,
        "sha256": material.sha256,
        "bytes": material.num_bytes,
        "licence": material.licence,
        "what": material.what,
        "optional": material.optional,
    }

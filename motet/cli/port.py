"""``motet port``: an adapter to a newer version of its base."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path  # noqa: TC003 - typer reads the annotation
from typing import TYPE_CHECKING, Annotated, Any

import typer

from motet.cli.screen import console, listing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.table import Table

_ROWS_SHOWN = 10


def port_command(
    adapter: Annotated[Path, typer.Argument(help="PEFT adapter folder.", metavar="ADAPTER")],
    old: Annotated[Path, typer.Option("--from", help="Folder of the base that it was trained on.")],
    new: Annotated[Path, typer.Option("--to", help="Folder of the newer version of that base.")],
    out: Annotated[
        Path, typer.Option("--out", help="Folder to write; made, or an earlier port that is replaced.")
    ],
    base_name: Annotated[
        str | None, typer.Option("--base-name", help="What the result calls its base; default: --to.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as one JSON object.")] = False,
) -> None:
    """Carry ADAPTER to a newer version of its base without training, and say how far the base has moved.

    Example: motet port adapter --from base-v1 --to base-v2 --out adapter-v2
    """
    from motet.cli.progress import StepProgress
    from motet.porting import port_adapter

    with StepProgress() as progress:
        report = port_adapter(
            adapter, old, new, out, base_name=base_name, on_layer=partial(progress.on_step, "layers")
        )
    if as_json:
        print(json.dumps(report))
        return
    _print(report, out)


def _print(report: Mapping[str, Any], out: Path) -> None:
    layers = report["layers"]
    console().print(layers_table(layers))
    if len(layers) > _ROWS_SHOWN:
        print(f"the {_ROWS_SHOWN} largest; all are in motet-port.json")
    print(f"all layers as one: ratio {_figure(report['ratio'])}, cosine {_figure(report['cosine'])}")
    for warning in report["warnings"]:
        print(f"warning: {warning}")
    print(f"written to {out}, report in motet-port.json")


def layers_table(layers: Mapping[str, Any]) -> Table:
    """A row a layer, those first whose base has moved most beside the adapter."""
    shown = sorted(layers, key=lambda name: -(layers[name]["ratio"] or 0.0))[:_ROWS_SHOWN]
    figures = ("base moved", "adapter", "ratio", "cosine")
    title = f"base's change beside the adapter's, {len(layers)} layers"
    table = listing("layer", *figures, title=title, right=figures)
    for name in shown:
        row = layers[name]
        table.add_row(
            name,
            f"{row['base_change_norm']:.3g}",
            f"{row['adapter_norm']:.3g}",
            _figure(row["ratio"]),
            _figure(row["cosine"]),
        )
    return table


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"

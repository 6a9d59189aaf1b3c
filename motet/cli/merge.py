"""``motet merge``: adapter folders into one, offline."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path  # noqa: TC003 - typer reads the annotation
from typing import TYPE_CHECKING, Annotated, Any

import typer

from motet.cli.completing import methods
from motet.cli.screen import console, listing
from motet.cli.words import UsageError, check_choice

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.table import Table


def merge_command(
    adapters: Annotated[list[Path], typer.Argument(help="PEFT adapter folders.", metavar="ADAPTER...")],
    out: Annotated[
        Path, typer.Option("--out", help="Folder to write; made, or an earlier merge that is replaced.")
    ],
    method: Annotated[
        str,
        typer.Option(
            "--method", help="How to combine; see docs/methods.md. flora is exact.", autocompletion=methods
        ),
    ] = "flora",
    weights: Annotated[
        str | None, typer.Option("--weights", help="One positive number an adapter: 3,2,1. Default: equal.")
    ] = None,
    lora_rank: Annotated[
        int | None, typer.Option("--lora-rank", help="Largest rank to write; what is more is cut by SVD.")
    ] = None,
    base: Annotated[
        str | None, typer.Option("--base", help="Their one base, if the folders name it differently.")
    ] = None,
    ridge: Annotated[float | None, typer.Option("--ridge", help="Of lora-fair: its ridge, 0.01.")] = None,
    energy: Annotated[
        float | None, typer.Option("--energy", help="Of florist: the share it keeps, 0.95.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as one JSON object.")] = False,
) -> None:
    """Combine PEFT adapters of any ranks into one that peft loads unchanged. No servers, no base weights.

    Example: motet merge --method flora --weights 3,2,1 --out merged site-a site-b site-c
    """
    from aggregation.table import TABLE

    check_choice("--method", method, list(TABLE))
    options = _method_options(method, ridge, energy)
    from motet.cli.progress import StepProgress
    from motet.merging import MergeOptions, merge_adapters

    chosen = MergeOptions(
        method=method,
        method_options=options,
        weights=_numbers(weights),
        lora_rank=lora_rank,
        base=base,
    )
    with StepProgress() as progress:
        report = merge_adapters(adapters, out, chosen, partial(progress.on_step, "layers"))
    if as_json:
        print(json.dumps(report))
        return
    _print(report, out)


def _numbers(text: str | None) -> list[float]:
    if text is None:
        return []
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as e:
        raise UsageError(f"--weights: {text!r} is not a list of numbers", hint="for example 3,2,1") from e


def _method_options(method: str, ridge: float | None, energy: float | None) -> dict[str, float]:
    options = {}
    for name, value, owner in (("ridge", ridge, "lora-fair"), ("energy", energy, "florist")):
        if value is None:
            continue
        if method != owner:
            raise UsageError(f"--{name} is read by {owner} only", hint=f"remove it, or use --method {owner}")
        options[name] = value
    if not options.get("ridge", 0.0) >= 0:
        raise UsageError(f"--ridge: {ridge} must not be negative")
    if not 0 < options.get("energy", 1.0) <= 1:
        raise UsageError(f"--energy: {energy} must be above 0 and at most 1")
    return options


def inputs_table(report: Mapping[str, Any]) -> Table:
    """A row an adapter that went in."""
    title = f"{report['method']} of {len(report['inputs'])} adapters"
    table = listing("adapter", "share", "ranks", title=title, right=("share",))
    for row in report["inputs"]:
        table.add_row(row["path"], f"{row['share']:.3f}", ", ".join(map(str, row["lora_ranks"])))
    return table


def _print(report: Mapping[str, Any], out: Path) -> None:
    console().print(inputs_table(report))
    error, cut = report["relative_error"], report["discarded_energy"]
    print(
        f"rank {report['lora_rank']}, {len(report['layers'])} layers, base {report['base_model'] or 'not named'}"
    )
    print(f"relative error against the exact weighted sum: {'unknown' if error is None else f'{error:.2e}'}")
    print(f"energy cut by the rank: {'unknown' if cut is None else f'{cut:.2e}'}")
    print(f"written to {out}, report in motet-merge.json")

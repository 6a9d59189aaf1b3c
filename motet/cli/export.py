"""``motet export``: what a run learned, as a PEFT folder or a whole model."""

from __future__ import annotations

import json
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import Annotated, Any

import typer

from motet.cli.completing import run_ids
from motet.cli.reach import Coordinator, Home, WhoAmI, reached


def cut_words(facts: dict[str, Any]) -> str:
    """What a serving cap cut, for people."""
    return f"cut from rank {facts['learned_rank']}: relative error {facts['truncation_error']:.3g}"


def export_command(
    run_id: Annotated[
        str, typer.Argument(help="The run; see `motet run list`.", metavar="RUN", autocompletion=run_ids)
    ],
    out: Annotated[
        Path, typer.Option("--out", help="Folder to write; made, or an earlier export that is replaced.")
    ],
    home: Home = None,
    coordinator: Coordinator = None,
    identity: WhoAmI = None,
    merged: Annotated[
        bool, typer.Option("--merged", help="Write a whole merged model instead of an adapter.")
    ] = False,
    lora_rank: Annotated[
        int | None,
        typer.Option("--lora-rank", min=1, help="The most that the adapter's server takes; the cut is told."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Write the adapter of RUN so that peft loads it unchanged, heads included.

    Example: motet export r-3f9a1c --home coordinator-home --out exported
    """
    from motet.cli.progress import StepProgress
    from motet.exporting import export_from

    with reached(home, coordinator, identity) as connection, StepProgress(unit="bytes") as progress:
        facts = export_from(
            connection,
            run_id,
            out,
            merged=merged,
            lora_rank=lora_rank,
            on_bytes=lambda came, of: progress.on_step("adapter", came, of),
        )
    if as_json:
        print(json.dumps(facts))
        return
    print(f"{'model' if merged else 'adapter'} of {facts['run_id']} written to {facts['out_dir']}")
    if facts["state"] != "FINISHED":
        print(
            f"the run is {facts['state']}: this is after {facts['rounds']} of {facts['rounds_total']} rounds"
        )
    if facts["learned_rank"]:
        print(cut_words(facts))
    print(f"sha256 of the run's adapter state: {facts['adapter_sha256']}")

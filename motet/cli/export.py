"""``motet export``: what a run learned, as a PEFT folder or a whole model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def export_command(
    run_id: Annotated[str, typer.Argument(help="The run; see `motet run list`.", metavar="RUN")],
    out: Annotated[
        Path, typer.Option("--out", help="Folder to write; made, or an earlier export that is replaced.")
    ],
    home: Annotated[Path, typer.Option("--home", help="The coordinator's state folder.")] = Path(
        "coordinator-home"
    ),
    merged: Annotated[
        bool, typer.Option("--merged", help="Write a whole merged model instead of an adapter.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Write the adapter of RUN so that peft loads it unchanged, heads included.

    Example: motet export r-3f9a1c --home coordinator-home --out exported
    """
    from motet.exporting import export_run

    facts = export_run(home, run_id, out, merged=merged)
    if as_json:
        print(json.dumps(facts))
        return
    print(f"{'model' if merged else 'adapter'} of {facts['run_id']} written to {facts['out_dir']}")
    print(f"sha256 of the run's adapter state: {facts['adapter_sha256']}")

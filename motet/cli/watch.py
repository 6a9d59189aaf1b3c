"""``motet watch``: one run, or all of a coordinator's, as they go."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from motet.cli.completing import run_ids
from motet.cli.reach import Coordinator, Home, WhoAmI, again

NOT_FINISHED, STOPPED = 9, 130


def watch_command(
    run_id: Annotated[
        str | None,
        typer.Argument(
            help="The run; by default all that wait or run.", metavar="[RUN]", autocompletion=run_ids
        ),
    ] = None,
    home: Home = None,
    coordinator: Coordinator = None,
    identity: WhoAmI = None,
    timeout_s: Annotated[
        float, typer.Option("--timeout", help="Stop looking after so many seconds; 0 looks on.")
    ] = 0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object a line, as it happens.")
    ] = False,
) -> None:
    """Watch a run: its rounds, clients, bytes, epsilon and time left. Lines where the output is no terminal.

    Ctrl-C ends the looking and nothing else. Exit code 0 only if the run finished.

    Example: motet watch r-3f9a1c --home fed
    """
    from motet.cli.following import Place
    from motet.cli.watching import watch_all, watch_one

    place = Place(home=home, coordinator=coordinator, identity=identity)
    where = again(home, coordinator, identity)
    try:
        if run_id is None:
            states = watch_all(place, timeout_s=timeout_s, as_json=as_json)
        else:
            states = [watch_one(place, run_id, timeout_s=timeout_s, as_json=as_json, where=where)]
    except KeyboardInterrupt:
        back = " ".join(w for w in ("motet watch", run_id, where) if w)
        what = f"{run_id} is" if run_id else "all runs are"
        print(f"{what} left alone; come back with: {back}", file=sys.stderr)
        raise typer.Exit(STOPPED) from None
    if any(state != "FINISHED" for state in states):
        raise typer.Exit(NOT_FINISHED)

"""``motet run``: submit, list, show, watch, cancel, resume, priority."""

from __future__ import annotations

import datetime
import json
import sys
from dataclasses import asdict
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import TYPE_CHECKING, Annotated, Any

import typer

from motet.cli.completing import recipes, run_ids
from motet.cli.reach import Coordinator, Home, WhoAmI, again, reached
from motet.cli.run_words import attempt_name, cancelled, next_step, progress, reasons

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from motet.connection.connection import Connection
    from motet.recipe import Recipe
    from motet.wire.control import Round, Run

app = typer.Typer(no_args_is_help=True, help="Submit runs to a coordinator and follow them.")
RunId = Annotated[
    str, typer.Argument(help="The run; see `motet run list`.", metavar="RUN", autocompletion=run_ids)
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_REASON = 60  # letters of why a run ended, in a list


def described(run: Run, rounds: Sequence[Round], held_out: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    """One run with its rounds, and the adapters that were judged, as plain values."""
    actions = [asdict(action) for action in run.actions]
    told = {"actions": actions, "rounds": [round_as_values(r) for r in rounds], "held_out": list(held_out)}
    return summary(run) | told


def summary(run: Run) -> dict[str, Any]:
    """One run as plain values."""
    return {
        "run_id": run.run_id,
        "name": run.name,
        "state": run.state,
        "reason": run.reason,
        "priority": run.priority,
        "approved_by": list(run.approved_by),
        "rounds_total": run.rounds_total,
        "rounds_closed": run.rounds_closed,
        "adapter_sha256": run.adapter_sha256,
        "recipe_sha256": run.recipe_sha256,
    }


def round_as_values(found: Round) -> dict[str, Any]:
    """One attempt at a round as plain values."""
    return {
        "round_index": found.round_index,
        "attempt": found.attempt,
        "state": found.state,
        "relative_error": found.relative_error,
        "truncation_error": found.truncation_error or 0.0,
        "seconds": round(found.closed_at - found.started_at, 2) if found.closed_at else None,
        "reason": found.reason,
        "clients": [
            {
                "client_id": c.client_id,
                "state": c.state,
                "lora_rank": c.lora_rank,
                "bytes_up": c.bytes_up,
                "bytes_down": c.bytes_down,
                "change_norm": c.change_norm,
                "share": c.share,
                "outcome": c.outcome,
                "compression_error": c.compression_error,
                "held_out_loss": c.held_out_loss,
                "held_out_accuracy": c.held_out_accuracy,
                "held_out_examples": c.held_out_examples,
                "error": c.error_message,
            }
            for c in found.contributions
        ],
    }


@app.command("submit")
def submit_command(
    recipe: Annotated[
        Path, typer.Argument(help="The recipe, a YAML file.", metavar="RECIPE", autocompletion=recipes)
    ],
    home: Home = None,
    coordinator: Coordinator = None,
    identity: WhoAmI = None,
    priority: Annotated[
        int, typer.Option("--priority", min=-1000, max=1000, help="Of the queue: higher goes first.")
    ] = 0,
    hold: Annotated[bool, typer.Option("--hold", help="Keep it until `motet run start`.")] = False,
    once: Annotated[
        bool, typer.Option("--once", help="Take the run of this recipe that is there, unless it failed.")
    ] = False,
    export_to: Annotated[
        Path | None,
        typer.Option(
            "--export-to", metavar="FOLDER", help="Follow the run to its end, then export it there."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Queue a run.

    Example: motet run submit examples/recipes/vader-flora.yaml
    """
    from motet.recipe import load_recipe

    parsed = load_recipe(recipe)
    with reached(home, coordinator, identity, create=True) as connection:
        found = _known(connection, parsed) if once else None
        run = found or connection.runs.submit(parsed, priority=priority, hold=hold)
    if export_to is not None:
        _export_at_end(run, export_to, home, coordinator, identity, as_json=as_json)
        return
    if as_json:
        print(json.dumps({"run_id": run.run_id}))
        return
    stands = "is queued" if run.state == "QUEUED" else run.reason or f"is {run.state}"
    print(f"{run.run_id} {stands}\nnext: motet run watch {run.run_id} {again(home, coordinator, identity)}")


def _known(connection: Connection, recipe: Recipe) -> Run | None:
    """The newest run of this recipe that waits, is at work or finished."""
    from motet.recipe import recipe_sha256

    sha256 = recipe_sha256(recipe)
    lost = {"FAILED", "CANCELLED"}
    runs = [r for r in connection.runs.list() if r.recipe_sha256 == sha256 and r.state not in lost]
    return max(runs, key=lambda run: run.created_at, default=None)


def _export_at_end(
    run: Run, out: Path, home: Path | None, coordinator: str | None, identity: Path | None, *, as_json: bool
) -> None:
    """Follow a run and write its adapter; exit code 9 when it ends without one."""
    from motet.cli.screen import printable
    from motet.exporting import export_from

    print(f"{run.run_id} {run.name}", file=sys.stderr, flush=True)
    _follow(run.run_id, home, coordinator, identity, timeout_s=0, is_quiet=as_json)
    with reached(home, coordinator, identity) as connection:
        ended = connection.runs.get(run.run_id)
        if ended.state != "FINISHED":
            print(f"{run.run_id} is {ended.state}: {printable(ended.reason)}", file=sys.stderr)
            raise typer.Exit(9)
        facts = export_from(connection, run.run_id, out)
    words = f"{run.run_id} has finished; its adapter is in {facts['out_dir']}"
    print(json.dumps(facts) if as_json else words, flush=True)


@app.command("list")
def list_command(
    home: Home = None, coordinator: Coordinator = None, identity: WhoAmI = None, as_json: Json = False
) -> None:
    """All runs of a coordinator.

    Example: motet run list --json
    """
    with reached(home, coordinator, identity) as connection:
        runs = connection.runs.list()
    if as_json:
        print(json.dumps([summary(run) for run in runs]))
        return
    from motet.cli.screen import console

    console().print(runs_table(runs) if runs else "no runs yet; submit one: motet run submit RECIPE")


def runs_table(runs: Sequence[Run]) -> Table:
    """A row a run; with priorities where one of those that have not ended has any."""
    from motet.cli.screen import listing, printable

    has_priorities = any(run.priority for run in runs if not run.has_ended)
    first = ("run", "name", "state", "rounds", *(["priority"] if has_priorities else []))
    table = listing(*first, "reason", whole=("state", "rounds", "priority"))
    for run in runs:
        cut = run.has_ended and len(run.reason) > _REASON  # what is waited for is told whole
        reason = printable(run.reason[:_REASON] + " ..." if cut else run.reason)
        cells = (run.run_id, run.name, run.state, f"{run.rounds_closed}/{run.rounds_total}")
        table.add_row(*cells, *([str(run.priority)] if has_priorities else []), reason)
    return table


def _action(action: dict[str, Any]) -> str:
    """Who did what, when, by which certificate."""
    when = f"{datetime.datetime.fromtimestamp(action['at'], datetime.UTC):%Y-%m-%d %H:%M:%S} UTC"
    certificate = f", certificate {action['serial'][:12]}" if action["serial"] else ""
    detail = f", {action['detail']}" if action["detail"] else ""
    return f"{when}  {action['action']} by {action['made_by']}{certificate}{detail}"


def _how(client: dict[str, Any]) -> str:
    """What became of a client's update, where it was not simply counted."""
    if client["state"] != "RECEIVED":
        return f" ({client['state'].lower()})"
    if not client["outcome"]:
        return ""
    counted = f", counts {client['share']:.2g}" if client["share"] else ""
    return f" ({client['outcome']}{counted})"


@app.command("show")
def show_command(
    run_id: RunId,
    home: Home = None,
    coordinator: Coordinator = None,
    identity: WhoAmI = None,
    as_json: Json = False,
) -> None:
    """One run: its rounds, and what each client did.

    Example: motet run show r-3f9a1c
    """
    with reached(home, coordinator, identity) as connection:
        row = _whole(connection, run_id)
    if as_json:
        print(json.dumps(row))
        return
    from motet.cli.screen import console, printable

    out = console()
    closed = f"{row['rounds_closed']} of {row['rounds_total']} rounds closed"
    out.print(f"{row['run_id']} {row['name']}: {row['state']}, {closed}")
    if row["reason"]:
        out.print(printable(row["reason"]))
    for action in row["actions"]:
        out.print(_action(action), soft_wrap=True)
    out.print(f"recipe {row['recipe_sha256']}")
    if row["rounds"]:
        out.print(rounds_table(row["rounds"]))
    for line in reasons(row["rounds"]):
        out.print(line)
    if row["held_out"]:
        from motet.cli.held_out import held_out_table

        out.print(held_out_table(row["held_out"]))
    for r in row["rounds"]:
        if r["truncation_error"]:
            out.print(
                f"before round {r['round_index']} the rank fell: relative error {r['truncation_error']:.3g}"
            )


def rounds_table(rounds: Sequence[dict[str, Any]]) -> Table:
    """A row an attempt at a round, of ``round_as_values``."""
    from motet.cli.screen import listing

    table = listing("round", "state", "seconds", "error", "clients", whole=("state", "seconds", "error"))
    for r in rounds:
        clients = ", ".join(c["client_id"] + _how(c) for c in r["clients"])
        label = attempt_name(r["round_index"], r["attempt"]).removeprefix("round ")
        error = "" if r["relative_error"] is None else f"{r['relative_error']:.1e}"
        table.add_row(
            label, r["state"], "" if r["seconds"] is None else f"{r['seconds']:.1f}", error, clients
        )
    return table


def _whole(connection: Connection, run_id: str) -> dict[str, Any]:
    from motet.cli.held_out import held_out_of

    run, rounds = connection.runs.get(run_id), connection.rounds.list(run_id)
    return described(
        run, rounds, held_out_of(connection.metrics.list(run_id), connection.metrics.scores(run_id))
    )


def _follow(
    run_id: str,
    home: Path | None,
    coordinator: str | None,
    identity: Path | None,
    *,
    timeout_s: float,
    is_quiet: bool,
) -> None:
    """Tell in lines what becomes of a run, until it ends or the time is over."""
    from motet.cli.following import Away, Place, followed

    place = Place(home=home, coordinator=coordinator, identity=identity)
    said: tuple[Any, ...] = ()
    for heard in followed(place, run_id, timeout_s=timeout_s):
        if not (isinstance(heard, Away) or heard.event.run is None or is_quiet):
            said = _say(heard.event.run, said)


@app.command("watch")
def watch_command(
    run_id: RunId,
    home: Home = None,
    coordinator: Coordinator = None,
    identity: WhoAmI = None,
    timeout_s: Annotated[
        float, typer.Option("--timeout", help="Give up after so many seconds; 0 waits for ever.")
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object at the end.")] = False,
) -> None:
    """Follow a run until it ends, in lines; exit code 0 only if it finished. `motet watch` shows more.

    Example: motet run watch r-3f9a1c
    """
    _follow(run_id, home, coordinator, identity, timeout_s=timeout_s, is_quiet=as_json)
    with reached(home, coordinator, identity) as connection:
        row = _whole(connection, run_id)
    if as_json:
        print(json.dumps(row))
    else:
        adapter = f"adapter {row['adapter_sha256']}\n" if row["state"] == "FINISHED" else ""
        print(adapter + next_step(run_id, row["state"], again(home, coordinator, identity)), end="")
    if row["state"] != "FINISHED":
        raise typer.Exit(9)


def _say(run: Run, said: tuple[Any, ...]) -> tuple[Any, ...]:
    """Print what is new of a run; what was said."""
    now = (run.state, run.rounds_closed, run.reason)
    if now != said:
        print(progress(run), flush=True)
    return now


@app.command("cancel")
def cancel_command(
    run_id: RunId,
    home: Home = None,
    coordinator: Coordinator = None,
    identity: WhoAmI = None,
    as_json: Json = False,
) -> None:
    """Ask for the end of a run; the coordinator obeys within a second.

    Example: motet run cancel r-3f9a1c
    """
    with reached(home, coordinator, identity) as connection:
        run = connection.runs.cancel(run_id)
    told = {"run_id": run_id, "state": run.state, "cancel_requested": run.cancel_requested}
    print(json.dumps(told) if as_json else cancelled(run))


@app.command("resume")
def resume_command(
    run_id: RunId,
    home: Home = None,
    coordinator: Coordinator = None,
    identity: WhoAmI = None,
    as_json: Json = False,
) -> None:
    """Let a failed run go on after its last closed round. New attempts are charged as any.

    Example: motet run resume r-3f9a1c
    """
    with reached(home, coordinator, identity) as connection:
        run = connection.runs.resume(run_id)
    if as_json:
        print(json.dumps(summary(run)))
        return
    print(f"{run_id} is queued again; {run.rounds_closed} of {run.rounds_total} rounds are closed")


@app.command("priority", context_settings={"ignore_unknown_options": True})  # or -5 were an option
def priority_command(
    run_id: RunId,
    priority: Annotated[
        int, typer.Argument(help="Higher goes first.", metavar="PRIORITY", min=-1000, max=1000)
    ],
    home: Home = None,
    coordinator: Coordinator = None,
    identity: WhoAmI = None,
    as_json: Json = False,
) -> None:
    """Change the priority of a run that waits or is at work.

    A run in the queue starts by it; one at work waits by it for clients that others want as well. No round that is
    open is disturbed.

    Example: motet run priority r-3f9a1c 5
    """
    with reached(home, coordinator, identity) as connection:
        run = connection.runs.set_priority(run_id, priority)
    print(json.dumps(summary(run)) if as_json else f"{run_id} has priority {run.priority}: {run.state}")


@app.command("start")
def start_command(
    run_id: RunId,
    home: Home = None,
    coordinator: Coordinator = None,
    identity: WhoAmI = None,
    as_json: Json = False,
) -> None:
    """Let a run go that was submitted with --hold; one that is further on stays as it is.

    Example: motet run start r-3f9a1c
    """
    with reached(home, coordinator, identity) as connection:
        run = connection.runs.start(run_id)
    print(json.dumps(summary(run)) if as_json else f"{run_id}: {run.state} {run.reason}".rstrip())


@app.command("approve")
def approve_command(
    run_id: RunId,
    recipe_sha256: Annotated[
        str, typer.Option("--recipe-sha256", help="Refuse when the run has another recipe than this one.")
    ] = "",
    home: Home = None,
    coordinator: Coordinator = None,
    identity: WhoAmI = None,
    as_json: Json = False,
) -> None:
    """An operator's yes to a run that a researcher proposed (`motet coordinator start --approve-runs`).

    Data owners decide apart from that, at their own clients: motet client approve.

    Example: motet run approve r-3f9a1c
    """
    with reached(home, coordinator, identity) as connection:
        run = connection.runs.approve(run_id, recipe_sha256=recipe_sha256)
    print(json.dumps(summary(run)) if as_json else f"{run_id} is approved: {run.state}")

"""``motet run``: submit, list, show, watch, cancel."""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from coordinator.storage.store import Store

app = typer.Typer(no_args_is_help=True, help="Submit runs to a coordinator and follow them.")
Home = Annotated[Path, typer.Option("--home", help="The coordinator's state folder.")]
Run = Annotated[str, typer.Argument(help="The run; see `motet run list`.", metavar="RUN")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DEFAULT_HOME = Path("coordinator-home")
ENDED = ("FINISHED", "FAILED", "CANCELLED")


@contextmanager
def _store(home: Path, *, create: bool = False) -> Iterator[Store]:
    from coordinator.storage.where import open_store

    store = open_store(home, create=create)
    try:
        yield store
    finally:
        store.close()


def describe(store: Store, run_id: str) -> dict[str, Any]:
    """One run as plain values."""
    run, cuts = store.get_run(run_id), store.figures(run_id, "truncation_error")
    total = json.loads(run.recipe_json)["training"]["rounds"]
    rounds = [
        {
            "round_index": r.round_index,
            "attempt": r.attempt,
            "state": r.state,
            "relative_error": r.relative_error,
            "truncation_error": cuts.get(r.round_index, 0.0),
            "seconds": round(r.closed_at - r.started_at, 2) if r.closed_at else None,
            "reason": r.reason,
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
                    "error": c.error_message,
                }
                for c in store.contributions(run_id, r.round_index, r.attempt)
            ],
        }
        for r in store.rounds(run_id)
    ]
    return {
        "run_id": run.run_id,
        "name": run.name,
        "state": run.state,
        "reason": run.reason,
        "rounds_total": total,
        "rounds_closed": sum(r["state"] == "CLOSED" for r in rounds),
        "adapter_sha256": run.adapter_sha256,
        "recipe_sha256": run.recipe_sha256,
        "rounds": rounds,
    }


@app.command("submit")
def submit_command(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a YAML file.", metavar="RECIPE")],
    home: Home = DEFAULT_HOME,
    as_json: Json = False,
) -> None:
    """Queue a run.

    Example: motet run submit examples/recipes/vader-flora.yaml
    """
    from motet.recipe import load_recipe

    parsed = load_recipe(recipe)
    with _store(home, create=True) as store:
        run_id = store.submit_run(parsed)
    print(
        json.dumps({"run_id": run_id})
        if as_json
        else f"{run_id} is queued\nnext: motet run watch {run_id} --home {home}"
    )


@app.command("list")
def list_command(home: Home = DEFAULT_HOME, as_json: Json = False) -> None:
    """All runs of a coordinator.

    Example: motet run list --json
    """
    with _store(home) as store:
        rows = [describe(store, run.run_id) for run in store.list_runs()]
    if as_json:
        print(json.dumps([{k: v for k, v in row.items() if k != "rounds"} for row in rows]))
        return
    table = Table("run", "name", "state", "rounds", "reason")
    for row in rows:
        table.add_row(
            row["run_id"],
            row["name"],
            row["state"],
            f"{row['rounds_closed']}/{row['rounds_total']}",
            row["reason"][:60],
        )
    Console().print(table if rows else "no runs yet; submit one: motet run submit RECIPE")


def _how(client: dict[str, Any]) -> str:
    """What became of a client's update, where it was not simply counted."""
    if client["state"] != "RECEIVED":
        return f" ({client['state'].lower()})"
    if not client["outcome"]:
        return ""
    counted = f", counts {client['share']:.2g}" if client["share"] else ""
    return f" ({client['outcome']}{counted})"


@app.command("show")
def show_command(run_id: Run, home: Home = DEFAULT_HOME, as_json: Json = False) -> None:
    """One run: its rounds, and what each client did.

    Example: motet run show r-3f9a1c
    """
    with _store(home) as store:
        row = describe(store, run_id)
    if as_json:
        print(json.dumps(row))
        return
    console = Console(highlight=False)
    console.print(
        f"{row['run_id']} {row['name']}: {row['state']}, {row['rounds_closed']} of {row['rounds_total']} rounds closed"
    )
    if row["reason"]:
        console.print(row["reason"], markup=False)
    table = Table("round", "state", "seconds", "error", "clients")
    for r in row["rounds"]:
        clients = ", ".join(c["client_id"] + _how(c) for c in r["clients"])
        label = str(r["round_index"]) + (f" (attempt {r['attempt'] + 1})" if r["attempt"] else "")
        error = "" if r["relative_error"] is None else f"{r['relative_error']:.1e}"
        table.add_row(
            label, r["state"], "" if r["seconds"] is None else f"{r['seconds']:.1f}", error, clients
        )
    console.print(table)
    for r in row["rounds"]:
        if r["truncation_error"]:
            console.print(
                f"before round {r['round_index']} the rank fell: relative error {r['truncation_error']:.3g}"
            )


@app.command("watch")
def watch_command(
    run_id: Run,
    home: Home = DEFAULT_HOME,
    timeout_s: Annotated[
        float, typer.Option("--timeout", help="Give up after so many seconds; 0 waits for ever.")
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object at the end.")] = False,
) -> None:
    """Follow a run until it ends; exit code 0 only if it finished.

    Example: motet run watch r-3f9a1c
    """
    until = time.monotonic() + timeout_s if timeout_s else None
    said: tuple[Any, ...] = ()
    with _store(home) as store:
        while True:
            row = describe(store, run_id)
            now = (row["state"], row["rounds_closed"], row["reason"])
            if now != said and not as_json:
                progress = f"{row['rounds_closed']} of {row['rounds_total']} rounds closed"
                print(f"{row['state']}: {progress} {row['reason']}".rstrip(), flush=True)
            said = now
            if row["state"] in ENDED or (until is not None and time.monotonic() > until):
                break
            time.sleep(0.5)
    if as_json:
        print(json.dumps(row))
    elif row["state"] == "FINISHED":
        print(f"adapter {row['adapter_sha256']}\nnext: motet export {run_id} --home {home} --out exported")
    if row["state"] != "FINISHED":
        raise typer.Exit(9)


@app.command("cancel")
def cancel_command(run_id: Run, home: Home = DEFAULT_HOME, as_json: Json = False) -> None:
    """Ask for the end of a run; the coordinator obeys within a second.

    Example: motet run cancel r-3f9a1c
    """
    with _store(home) as store:
        run = store.get_run(run_id)
        if run.state == "QUEUED":
            store.end_run(run_id, "CANCELLED", "cancelled before it started")
        store.request_cancel(run_id)
    print(json.dumps({"run_id": run_id, "cancel_requested": True}) if as_json else f"{run_id} will end")

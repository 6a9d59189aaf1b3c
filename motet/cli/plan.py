"""``motet plan``: what a run will cost, before it starts."""

from __future__ import annotations

import json
import math
from itertools import groupby
from pathlib import Path  # noqa: TC003 - typer reads the annotation
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from motet.cli.completing import recipes
from motet.cli.report import format_bytes
from motet.cli.screen import NARROW
from motet.cli.screen import console as made
from motet.errors import MotetError

if TYPE_CHECKING:
    from rich.console import Console

    from motet.plan import Plan

_NAMES_SHOWN = 6


class BudgetTooSmallError(MotetError):
    """The recipe's own epsilon limit would stop the run before its last round."""

    exit_code = 6


def plan_command(
    recipe: Annotated[
        Path, typer.Argument(help="The recipe, a YAML file.", metavar="RECIPE", autocompletion=recipes)
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
    probe: Annotated[bool, typer.Option(help="Read the data and time a few steps on this machine.")] = True,
) -> None:
    """Show bytes, trained parameters, epsilon and time of a recipe. Starts nothing, sends nothing.

    Exits with 6 when the recipe's epsilon limit would stop the run early.

    Example: motet plan examples/recipes/vader-flora-private.yaml --no-probe
    """
    from motet.recipe import load_recipe

    parsed = load_recipe(recipe)
    from motet.plan import plan

    result = plan(parsed, probe=probe)
    if as_json:
        typer.echo(json.dumps(result.to_dict()))
    else:
        console = made()
        console.width = min(NARROW, console.width)
        print_plan(result, console)
    if result.privacy is not None and not result.fits_budget:
        privacy = result.privacy
        raise BudgetTooSmallError(
            f"{recipe}: privacy.epsilon_limit {privacy.epsilon_limit:g} allows "
            f"{privacy.rounds_within_limit} of "
            f"{result.rounds} rounds; all would cost {privacy.epsilon:.3g}",
            hint="raise noise_multiplier or epsilon_limit, or take fewer rounds or local_steps",
        )


def print_plan(result: Plan, console: Console) -> None:
    """The plan for people, at most as wide as the console."""
    of_all = f" of {result.total_parameters:,}" if result.total_parameters is not None else ""
    facts = Table.grid(padding=(0, 2))
    facts.add_column(no_wrap=True)
    facts.add_column(overflow="fold")
    facts.add_row("recipe", f"{result.name}  (sha256 {result.recipe_sha256[:16]})")
    facts.add_row("method", f"{result.method}, {result.adapted_layers} adapted layers")
    facts.add_row("work", f"{result.rounds} rounds of {result.local_steps} local steps")
    most = max(client.trainable_parameters for client in result.clients)
    facts.add_row("parameters", f"at most {most:,}{of_all} are trained by a client")
    facts.add_row("privacy", _privacy_words(result))
    if result.seconds_per_step is not None and result.seconds_per_round is not None:
        facts.add_row(
            "time, here",
            f"about {result.seconds_per_step:.2g} s a step, {_duration(result.seconds_per_round)} a client "
            f"and round",
        )
    console.print(facts, highlight=False)
    console.print()
    console.print(_table(result), highlight=False)
    for note in result.notes:
        console.print(f"- {note}", highlight=False, markup=False)


def _privacy_words(result: Plan) -> str:
    from motet.recipe.units import TRUST_WORDS, UNIT_WORDS

    privacy = result.privacy
    if privacy is None:
        return "none: updates may reveal examples"
    cohort = "" if privacy.expected_cohort is None else f", sums divided by {privacy.expected_cohort:g}"
    limit = "" if privacy.epsilon_limit is None else f", limit {privacy.epsilon_limit:g}"
    expected = ""
    if result.asking is not None and privacy.expected_epsilon is not None:
        rounds = math.ceil(result.asking.expected_rounds - 1e-9)
        expected = f"\nthat is the most; asked in {rounds} rounds, as expected: epsilon {privacy.expected_epsilon:.3f}"
    return (
        f"epsilon {privacy.epsilon:.3f} at delta {privacy.target_delta:g} for {UNIT_WORDS[privacy.unit]}{limit}\n"
        f"{TRUST_WORDS[privacy.unit]}\n"
        f"noise multiplier {privacy.noise_multiplier:g}, {privacy.num_steps} steps at rate "
        f"{privacy.sampling_rate:g}" + cohort + expected
    )


def _table(result: Plan) -> Table:
    """One row for each group of clients that cost the same."""
    table = Table(title="bytes of one client", title_justify="left", show_footer=result.clients_are_known)
    total = format_bytes(round(result.expected_bytes))
    footer = f"all {len(result.clients)}" if result.asking is None else f"{len(result.clients)}, as expected"
    table.add_column("clients", footer=footer, overflow="fold")
    table.add_column("rank", justify="right")
    table.add_column("trains", justify="right")
    table.add_column("sends\na round", justify="right")
    table.add_column("receives\nfirst", justify="right")
    table.add_column("receives\nlast", justify="right")
    table.add_column("whole run", justify="right", footer=total)
    ordered = sorted(result.clients, key=lambda client: (client.lora_rank, client.client_id))
    for rank, group in groupby(ordered, lambda client: client.lora_rank):
        clients = list(group)
        names = ", ".join(client.client_id for client in clients[:_NAMES_SHOWN])
        more = f" and {len(clients) - _NAMES_SHOWN} more" if len(clients) > _NAMES_SHOWN else ""
        one = clients[0]
        table.add_row(
            names + more,
            str(rank),
            f"{one.trainable_parameters:,}",
            format_bytes(one.bytes_up),
            format_bytes(one.bytes_down[0]),
            format_bytes(one.bytes_down[-1]),
            format_bytes(one.total_bytes),
        )
    return table


def _duration(seconds: float) -> str:
    """``12 s`` or ``3 min``."""
    return f"{seconds:.2g} s" if seconds < 100 else f"{seconds / 60:.0f} min"

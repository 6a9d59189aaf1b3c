"""``motet budget``: the noise that a target needs, and what each client has spent."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from motet.errors import MotetError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from privacy.events import Event
    from privacy.ledger.entries import Body

app = typer.Typer(no_args_is_help=True, help="Calibrate noise; show what was spent and what is left.")
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
DEFAULT_DELTA = 1e-5


class CalibrationRefusedError(MotetError):
    """No noise reaches the target, or an argument has no meaning."""

    exit_code = 2


@app.command("calibrate")
def calibrate_command(
    epsilon: Annotated[float, typer.Option("--epsilon", help="Target for all steps together.")],
    sampling_rate: Annotated[
        float, typer.Option("--sampling-rate", help="Probability of each example in each step, in (0, 1].")
    ],
    steps: Annotated[int, typer.Option("--steps", help="Steps of the whole run: rounds times local steps.")],
    delta: Annotated[
        float, typer.Option("--delta", help="In (0, 1); well below 1 over the examples.")
    ] = DEFAULT_DELTA,
    as_json: Json = False,
) -> None:
    """The least noise multiplier that meets a target, checked with the very number printed.

    Example: motet budget calibrate --epsilon 8 --delta 1e-5 --sampling-rate 0.064 --steps 200
    """
    from privacy.accounting import epsilon_pld, epsilon_rdp
    from privacy.calibration import calibrate_noise_multiplier
    from privacy.errors import CalibrationError
    from privacy.events import PoissonGaussianEvent

    try:
        noise = calibrate_noise_multiplier(epsilon, delta, sampling_rate, steps)
    except (CalibrationError, ValueError) as e:
        raise CalibrationRefusedError(str(e), hint="see: motet budget calibrate --help") from e
    event = PoissonGaussianEvent(noise_multiplier=noise, sampling_rate=sampling_rate, num_steps=steps)
    result = {
        "noise_multiplier": noise,
        "epsilon_pld": epsilon_pld([event], delta),
        "epsilon_rdp": epsilon_rdp([event], delta),
        "target_epsilon": epsilon,
        "target_delta": delta,
        "sampling_rate": sampling_rate,
        "steps": steps,
    }
    if as_json:
        print(json.dumps(result))
        return
    print(f"noise_multiplier: {noise:g}")
    print(
        f"epsilon {result['epsilon_pld']:.4f} by PLD ({result['epsilon_rdp']:.4f} by Renyi DP) at delta {delta:g}, "
        f"for one example added or removed, {steps} steps at rate {sampling_rate:g}"
    )


@dataclass(slots=True, kw_only=True)
class _Account:
    """Events of one client, all and by run; what is settled apart."""

    settled: list[Event] = field(default_factory=list)
    every: list[Event] = field(default_factory=list)
    runs: dict[str, list[Event]] = field(default_factory=lambda: defaultdict(list))
    charges: int = 0
    open_charges: int = 0


def budget_of(bodies: Sequence[Body]) -> list[dict[str, Any]]:
    """One row a client and unit, from the entries of a ledger or a database.

    Returns:
      ``client_id``, ``unit``, ``target_delta``; ``spent`` (epsilon of what came back), ``reserved`` (how much more all
      charges together cost: it counts in full), ``total``, ``limit`` and ``remaining`` (None without a limit),
      ``charges``, ``open_charges``, and ``runs`` (run id, epsilon of that run by itself). Epsilons of runs do not add
      up to ``total``: composing is cheaper than adding.
    """
    from motet.audit.bundle import delta_of
    from privacy.accounting import epsilon_pld
    from privacy.events import units_of
    from privacy.ledger.entries import Reserve, RunDeclared, Settle
    from privacy.ledger.rules import LedgerState, charged_event

    state = LedgerState()
    accounts: dict[tuple[str, str], _Account] = defaultdict(_Account)
    limits: dict[tuple[str, str], float] = {}
    settled = {body.reservation_id for body in bodies if isinstance(body, Settle)}
    for body in bodies:
        if isinstance(body, RunDeclared):
            state.runs[body.run_id] = json.loads(body.recipe_json)
        if not isinstance(body, Reserve):
            continue
        state.reserves[body.reservation_id] = body
        event = charged_event(body.event)
        name = (body.client_id, units_of([event])[0])
        account = accounts[name]
        account.every.append(event)
        account.runs[body.run_id].append(event)
        account.charges += 1
        if body.reservation_id in settled:
            account.settled.append(event)
        else:
            account.open_charges += 1
        privacy = state.runs.get(body.run_id, {}).get("privacy") or {}
        if privacy.get("epsilon_limit") is not None:
            limit = float(privacy["epsilon_limit"])
            limits[name] = min(limit, limits.get(name, math.inf))
    rows = []
    for (client_id, unit), account in sorted(accounts.items()):
        delta = delta_of(state, client_id)
        total, spent = epsilon_pld(account.every, delta), epsilon_pld(account.settled, delta)
        limit_or_none = limits.get((client_id, unit))
        rows.append(
            {
                "client_id": client_id,
                "unit": unit,
                "target_delta": delta,
                "spent": spent,
                "reserved": 0.0 if total == spent else total - spent,
                "total": total,
                "limit": limit_or_none,
                "remaining": None if limit_or_none is None else max(0.0, limit_or_none - total),
                "charges": account.charges,
                "open_charges": account.open_charges,
                "runs": [
                    {"run_id": run_id, "epsilon": epsilon_pld(events, delta), "charges": len(events)}
                    for run_id, events in account.runs.items()
                ],
            }
        )
    return rows


@app.command("show")
def show_command(
    home: Annotated[Path, typer.Option("--home", help="The coordinator's state folder.")] = Path(
        "coordinator-home"
    ),
    as_json: Json = False,
) -> None:
    """What each client has spent, over all runs: settled, reserved, left. What is reserved counts in full.

    Example: motet budget show --home fed
    """
    from coordinator.storage.where import open_store

    store = open_store(home, create=False)
    try:
        rows = budget_of(store.charge_bodies())
    finally:
        store.close()
    if as_json:
        print(json.dumps({"clients": [_without_infinity(row) for row in rows]}))
        return
    console = Console()
    if not rows:
        console.print("nothing was charged: no run in this home had a privacy section", highlight=False)
        return
    table = Table(
        "client",
        "unit",
        "spent",
        "reserved",
        "total",
        "left",
        "delta",
        "by run",
        title="epsilon",
        title_justify="left",
    )
    for row in rows:
        table.add_row(
            row["client_id"],
            row["unit"],
            f"{row['spent']:.3f}",
            f"{row['reserved']:.3f}",
            f"{row['total']:.3f}",
            "no limit" if row["remaining"] is None else f"{row['remaining']:.3f} of {row['limit']:g}",
            f"{row['target_delta']:g}",
            "\n".join(f"{run['run_id']}: {run['epsilon']:.3f}" for run in row["runs"]),
        )
    console.print(table, highlight=False)
    console.print(
        "epsilon of all runs together is less than their sum; the limit is the lowest of a client's runs",
        highlight=False,
    )


def _without_infinity(value: Any) -> Any:  # noqa: ANN401 - JSON
    """JSON has no infinity: null."""
    if isinstance(value, dict):
        return {key: _without_infinity(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_infinity(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

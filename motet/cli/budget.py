"""``motet budget``: the noise that a target needs, and what each client has spent."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import TYPE_CHECKING, Annotated, Any

import typer

from motet.cli.reach import Coordinator, Home, WhoAmI, reached
from motet.cli.screen import console as made
from motet.cli.screen import listing
from motet.errors import MotetError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

app = typer.Typer(no_args_is_help=True, help="Calibrate noise; show what was spent and what is left.")
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
DEFAULT_DELTA = 1e-5
_EXAMPLE = "for example: motet budget calibrate --epsilon 8 --sampling-rate 0.064 --steps 200"


class ReceiptsUnreadableError(MotetError):
    """The file of a client's record can not be read."""

    exit_code = 2


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
    for option, value, holds, words in (
        ("--epsilon", epsilon, epsilon > 0, "above 0"),
        ("--delta", delta, 0 < delta < 1, "above 0 and below 1"),
        ("--sampling-rate", sampling_rate, 0 < sampling_rate <= 1, "above 0 and at most 1"),
        ("--steps", steps, steps >= 1, "at least 1"),
    ):
        if not holds:
            raise CalibrationRefusedError(f"{option}: {value:g} must be {words}", hint=_EXAMPLE)
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


@app.command("show")
def show_command(
    home: Home = None, coordinator: Coordinator = None, identity: WhoAmI = None, as_json: Json = False
) -> None:
    """What each client has spent, over all runs: settled, reserved, left. What is reserved counts in full.

    Example: motet budget show --home fed
    """
    with reached(home, coordinator, identity) as connection:
        rows = [asdict(budget) for budget in connection.budgets.list()]
    if as_json:
        print(json.dumps({"clients": [_without_infinity(row) for row in rows]}))
        return
    console = made()
    if not rows:
        console.print("nothing was charged: no run in this home had a privacy section", highlight=False)
        return
    console.print(budgets_table(rows))
    for row in rows:
        for part in row["data_sets"]:
            console.print(
                f"{row['client_id']}: data set {part['data_set'][:8]} has {part['epsilon']:.3f} of it, "
                f"{part['charges']} charges, as its owner signed",
                highlight=False,
                markup=False,
            )
        if row["witnessed_charges"]:
            console.print(
                f"{row['client_id']}: {row['witnessed_charges']} of {row['charges']} charges are known by its own "
                "signed record alone; they count in full",
                highlight=False,
                markup=False,
            )
    console.print(
        "epsilon of all runs together is less than their sum; the limit is the lowest of a client's runs",
        highlight=False,
    )


def budgets_table(rows: Sequence[dict[str, Any]]) -> Table:
    """A row a client and unit, as ``motet budget show --json`` has them."""
    deltas = sorted({row["target_delta"] for row in rows})
    is_one = len(deltas) == 1
    figures = ("spent", "reserved", "total", *([] if is_one else ["delta"]))
    title = f"epsilon at delta {deltas[0]:g}" if is_one else "epsilon"
    table = listing("client", "unit", *figures, "left", "by run", title=title, right=figures, is_open=True)
    for row in rows:
        limit = "no limit" if row["limit"] is None else f"{_epsilon(row['remaining'])}\nof {row['limit']:g}"
        table.add_row(
            row["client_id"],
            row["unit"],
            *(_epsilon(row[name]) for name in ("spent", "reserved", "total")),
            *([] if is_one else [f"{row['target_delta']:g}"]),
            limit,
            "\n".join(f"{run['run_id']}: {_epsilon(run['epsilon'])}" for run in row["runs"]),
        )
    return table


def _epsilon(value: float) -> str:
    """Three digits behind the point; what is beyond use shorter than that."""
    return f"{value:.3f}" if value < 1000 else f"{value:.4g}"


@app.command("take-receipts")
def take_receipts_command(
    file: Annotated[Path, typer.Argument(help="Made by the client: motet audit receipts.", metavar="FILE")],
    home: Home = None,
    coordinator: Coordinator = None,
    identity: WhoAmI = None,
    as_json: Json = False,
) -> None:
    """Take a client's own signed record: count what the coordinator lacks, and keep what it says of data sets.

    A count only grows: what the record lacks stays. After an older backup was put back every plan of a round looks at
    the higher count from then on. The newest record tells budgets by data set, where its owner named them.

    Example: motet budget take-receipts ward-a-receipts.json --home fed
    """
    try:
        document = file.read_bytes()
    except OSError as e:
        raise ReceiptsUnreadableError(f"{file}: {e.strerror}", hint="check the path") from e
    with reached(home, coordinator, identity) as connection:
        told = connection.budgets.take_receipts(document)
    if as_json:
        print(json.dumps(asdict(told)))
        return
    print(
        f"{told.client_id}: {told.charges} charges in its record, {told.added} were missing here and count now"
    )


def _without_infinity(value: Any) -> Any:  # noqa: ANN401 - JSON
    """JSON has no infinity: null."""
    if isinstance(value, dict):
        return {key: _without_infinity(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_infinity(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

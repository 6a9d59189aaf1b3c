"""Tables for the terminal and a picture of the learning curve, from a simulation's result.

A result is the JSON object that ``motet simulate --json`` prints; nothing here computes a figure of its own
beyond standard errors of the accuracies in it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from rich.table import Table

if TYPE_CHECKING:
    from pathlib import Path

Result = dict[str, Any]

ROWS = (
    ("start", "start (no training)"),
    ("head_only", "head alone, federated"),
    ("federated_no_privacy", "federated, without privacy"),
    ("federated", "federated"),
)


def standard_error(metric: dict[str, float], name: str) -> float:
    """Standard error of a metric over the held-out examples.

    Binomial for ``accuracy``; for ``loss`` the evaluation's own ``loss_standard_error``. NaN when it is not
    known.
    """
    count = metric.get("num_examples", 0)
    if name == "accuracy" and count:
        p = metric[name]
        return math.sqrt(max(p * (1 - p), 1e-12) / count)
    return metric.get(f"{name}_standard_error", math.nan)


def headline(result: Result) -> str:
    """The metric that the task is judged by: ``accuracy`` (higher is better) or ``loss`` (lower is better)."""
    return "accuracy" if "accuracy" in result["metrics"]["federated"] else "loss"


def format_metric(metric: dict[str, float], name: str) -> str:
    """``71.2 % +- 1.0`` for accuracies, ``3.412 +- 0.020 (perplexity 30.3)`` for losses."""
    error = standard_error(metric, name)
    if name == "accuracy":
        return f"{100 * metric[name]:.1f} % ± {100 * error:.1f}"
    tail = "" if math.isnan(error) else f" ± {error:.3f}"
    return f"{metric[name]:.3f}{tail} (perplexity {math.exp(metric[name]):.1f})"


def metrics_table(result: Result) -> Table:
    """One row for each way of training; the last column is the distance to the federated run."""
    name = headline(result)
    metrics = result["metrics"]
    better = 1.0 if name == "accuracy" else -1.0
    table = Table(title=f"{result['recipe_name']}: {name} on held-out data", title_justify="left")
    table.add_column("trained how")
    table.add_column(name, justify="right")
    table.add_column("federated is better by", justify="right")
    entries = [(label, metrics[key]) for key, label in ROWS[:2] if metrics.get(key)]
    entries += [
        (f"{client} alone", metric) for client, metric in sorted(metrics.get("local_only", {}).items())
    ]
    entries += [(ROWS[2][1], metrics["federated_no_privacy"])] if metrics.get("federated_no_privacy") else []
    private = " with privacy" if any(c["epsilon"] is not None for c in result["clients"]) else ""
    for label, metric in entries:
        gap = better * (metrics["federated"][name] - metric[name])
        spread = math.hypot(standard_error(metrics["federated"], name), standard_error(metric, name))
        unit = (f"{100 * gap:+.1f} points" if name == "accuracy" else f"{gap:+.3f}") + (
            "" if math.isnan(spread) or spread == 0 else f" ({gap / spread:+.1f} SE)"
        )
        table.add_row(label, format_metric(metric, name), unit)
    table.add_row(f"[bold]federated{private}[/]", f"[bold]{format_metric(metrics['federated'], name)}[/]", "")
    return table


def clients_table(result: Result) -> Table:
    """One row for each client: rank, examples, bytes up and down over the whole run, epsilon."""
    table = Table(title="clients", title_justify="left")
    for column in ("client", "rank", "examples", "sent", "received", "epsilon"):
        table.add_column(column, justify="left" if column == "client" else "right")
    for client in result["clients"]:
        epsilon = client["epsilon"]
        table.add_row(
            client["client_id"],
            str(client["lora_rank"]),
            str(client["num_examples"]),
            format_bytes(client["bytes_up"]),
            format_bytes(client["bytes_down"]),
            "not private" if epsilon is None else f"{epsilon:.2f}",
        )
    return table


def format_bytes(count: float) -> str:
    """``1.4 MB`` (powers of 1000)."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def plot_learning_curve(result: Result, path: Path) -> Path:
    """PNG of the headline metric on held-out data after each round, with the other ways of training as lines."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    name = headline(result)
    factor = 100.0 if name == "accuracy" else 1.0
    figure, axes = plt.subplots(figsize=(7.2, 4.2), dpi=150, layout="constrained")
    for key, label, colour in (
        ("federated_no_privacy", "federated, without privacy", "#7a869a"),
        ("head_only", "head alone, federated", "#c08a2d"),
        ("federated", "federated", "#1f6feb"),
    ):
        curve = result["curves"].get(key)
        if curve:
            axes.plot(
                range(len(curve)),
                [factor * m[name] for m in curve],
                marker="o",
                ms=4,
                color=colour,
                label=label,
            )
    local = result["metrics"].get("local_only", {})
    for index, metric in enumerate(local.values()):
        axes.axhline(
            factor * metric[name],
            color="#b0b0b0",
            lw=0.9,
            ls=":",
            label="each client alone" if index == 0 else None,
        )
    axes.set_xlabel("round")
    axes.set_ylabel(
        "accuracy on held-out data, %" if name == "accuracy" else "loss on held-out data, nats a token"
    )
    axes.set_title(f"{result['recipe_name']} ({result['method']})", loc="left", fontsize=11)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path)
    plt.close(figure)
    return path

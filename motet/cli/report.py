"""Tables for the terminal and a picture of the learning curve, from a simulation's result.

A result is the JSON object that ``motet simulate --json`` prints; nothing here computes a figure of its own
beyond standard errors of the accuracies in it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from motet.cli.screen import listing

if TYPE_CHECKING:
    from pathlib import Path

    from rich.table import Table

Result = dict[str, Any]
_MOST_NATS = 700.0  # of which a float holds the perplexity


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
    """``71.2 % +- 1.0`` for accuracies, ``3.412 +- 0.020 (30.3)``, with the perplexity, for losses."""
    error = standard_error(metric, name)
    if name == "accuracy":
        return f"{100 * metric[name]:.1f} % ± {100 * error:.1f}"
    tail = "" if math.isnan(error) else f" ± {error:.3f}"
    perplexity = math.exp(min(metric[name], _MOST_NATS))
    told = f"{perplexity:.1f}" if perplexity < 10000 else f"{perplexity:.0e}"
    return f"{metric[name]:.3f}{tail} ({told})"


def metrics_table(result: Result) -> Table:
    """One row for each way of training; for each federated run a column with its gain over that row.

    Gains are paired: both judged on the same held-out examples, with the standard error of the differences.
    """
    name = headline(result)
    metrics, gains = result["metrics"], result.get("gains", {})
    private = is_private(result)
    plain = "federated\ngains"
    ours = [("federated_no_privacy", plain)] if "federated_no_privacy" in gains else []
    ours += [("federated", "with\nprivacy" if private else plain)] if gains.get("federated") else []
    figures = (name if name == "accuracy" else f"{name}\n(perplexity)", *(title for _, title in ours))
    title = f"{result['recipe_name']}: {name} on held-out data"
    table = listing("trained how", *figures, title=title, right=figures)

    def row(key: str, label: str, metric: dict[str, float], *, bold: bool = False) -> None:
        cells = [label, format_metric(metric, name)]
        cells += [format_gain(gains[federated].get(key), name) for federated, _ in ours]
        table.add_row(*cells, style="bold" if bold else None)

    row("start", "start (no training)", metrics["start"])
    for key, label in (("head_only", "head alone"), ("head_only_private", "head alone, with privacy")):
        if key in metrics:
            row(key, label, metrics[key])
    for client, metric in sorted(metrics["local_only"].items()):
        row(f"alone/{client}", f"{client} alone", metric)
    if "federated_no_privacy" in metrics:
        row("federated_no_privacy", "federated", metrics["federated_no_privacy"], bold=True)
    label = "federated, with privacy" if private else "federated"
    row("federated", label, metrics["federated"], bold=True)
    return table


def is_private(result: Result) -> bool:
    """Whether the run was charged."""
    return any(client["epsilon"] is not None for client in result["clients"])


def format_gain(gain: dict[str, float] | None, name: str) -> str:
    """``+6.1 ± 1.2`` (points of accuracy, or nats); empty where there is none."""
    if gain is None:
        return ""
    if name == "accuracy":
        return f"{100 * gain['gain']:+.1f} ± {100 * gain['standard_error']:.1f}"
    return f"{gain['gain']:+.3f} ± {gain['standard_error']:.3f}"


def clients_table(result: Result) -> Table:
    """One row for each client: rank, examples, bytes up and down over the whole run, epsilon."""
    from motet.recipe.units import UNIT_WORDS

    unit = UNIT_WORDS.get(result.get("privacy_unit") or "")
    figures = ("rank", "examples", "sent", "received", "epsilon")
    table = listing("client", *figures, title="clients", right=figures)
    table.caption, table.caption_justify = f"epsilon is for {unit}" if unit else None, "left"
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
        ("federated_no_privacy", "federated", "#7a869a"),
        ("federated", "federated, with privacy" if is_private(result) else "federated", "#1f6feb"),
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
    for key, label, colour in (
        ("head_only", "head alone", "#c08a2d"),
        ("head_only_private", "head alone, with privacy", "#e2c185"),
    ):
        if key in result["metrics"]:
            height = factor * result["metrics"][key][name]
            axes.axhline(height, color=colour, lw=1.2, ls="--", label=label)
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

"""Held-out figures of a run, as clients told them: values for programs, a table and words for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from motet.wire.control import Metric, Score

MEANS = {"held_out_loss": "loss", "held_out_accuracy": "accuracy", "held_out_examples": "num_examples"}


def held_out_of(metrics: Sequence[Metric], scores: Sequence[Score]) -> list[dict[str, Any]]:
    """One dict for each adapter that was judged: rounds_done, loss, accuracy (may be None), num_examples, clients.

    Args:
      metrics: of a run; the means over clients are read.
      scores: of single clients.
    """
    found: dict[int, dict[str, Any]] = {}
    for metric in metrics:
        if metric.name in MEANS:
            row = found.setdefault(
                metric.round_index,
                {
                    "rounds_done": metric.round_index,
                    "loss": None,
                    "accuracy": None,
                    "num_examples": 0,
                    "clients": [],
                },
            )
            is_count = metric.name == "held_out_examples"
            row[MEANS[metric.name]] = int(metric.value) if is_count else metric.value
    for score in scores:
        if score.rounds_done in found:
            told = {"client_id": score.client_id, "loss": score.loss, "accuracy": score.accuracy}
            found[score.rounds_done]["clients"].append(told | {"num_examples": score.num_examples})
    return [found[rounds_done] for rounds_done in sorted(found)]


def held_out_table(rows: Sequence[dict[str, Any]]) -> Table:
    """The curve, a row for each adapter."""
    from rich.table import Table

    table = Table("rounds done", "held-out accuracy", "loss", "examples", "clients")
    for row in rows:
        table.add_row(
            str(row["rounds_done"]),
            "" if row["accuracy"] is None else f"{row['accuracy']:.1%}",
            f"{row['loss']:.4g}",
            str(row["num_examples"]),
            str(len(row["clients"])),
        )
    return table


def held_out_words(row: dict[str, Any]) -> str:
    """``accuracy 83.1%, loss 0.412 on 120 held-out examples of 3 clients``."""
    accuracy = "" if row["accuracy"] is None else f"accuracy {row['accuracy']:.1%}, "
    clients = len(row["clients"])
    of = f"{clients} client{'' if clients == 1 else 's'}"
    return f"{accuracy}loss {row['loss']:.4g} on {row['num_examples']} held-out examples of {of}"

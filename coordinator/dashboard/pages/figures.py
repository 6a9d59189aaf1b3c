"""A run's figures by round: what the coordinator has counted, and how well the model learns.

What is shown is what the record holds: figures of the coordinator's own; loss and accuracy on clients' held-out
examples where a recipe asks for them and owners share; and the scores of a simulation's ``result.json``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from coordinator.storage.scores import ACCURACY, LOSS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from coordinator.storage.models import MetricRow

TITLES = {
    "relative_error": "Aggregation error",
    "truncation_error": "Error of the cut in rank",
    "seconds": "Seconds a round",
    "clipped": "Updates clipped",
    "rejected": "Updates rejected",
    "late_replies": "Answers too late",
    "duplicate_replies": "Answers sent twice",
    "refused_replies": "Answers not admitted",
    "equivocations": "Clients that told two stories",
    "held_out_accuracy": "Accuracy, held out at clients",
    "held_out_loss": "Loss, held out at clients",
    "accuracy": "Accuracy",
    "loss": "Loss",
    "perplexity": "Perplexity",
    "macro_f1": "Macro F1",
}
HELD_OUT = (
    "examples that clients do not train on; the mean of those who tell, by examples; 0 is before training"
)
COUNTED = frozenset(
    {
        "relative_error", "truncation_error", "seconds", "clipped", "rejected", "late_replies",
        "duplicate_replies", "refused_replies", "equivocations",
    }
)  # fmt: skip
"""What the coordinator itself counts; everything else says how well the model learns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One figure over the rounds. ``points``: (round, value), rounds from 1; 0 is before training."""

    name: str
    title: str
    points: Sequence[tuple[int, float]]
    note: str = ""

    @property
    def is_learning(self) -> bool:
        """Whether it says how well the model learns."""
        return self.name not in COUNTED


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientFigure:
    """How the model of one way of training scores: each client alone, or all together."""

    client_id: str
    name: str
    value: float
    is_federated: bool = False


def title_of(name: str) -> str:
    """A figure's name for people."""
    return TITLES.get(name, name.replace("_", " ").replace("/", " / ").capitalize())


def figures_of(
    metrics: Iterable[MetricRow], result: Mapping[str, Any], held_out: Mapping[int, Mapping[str, float]]
) -> list[Figure]:
    """Figures of learning first, then those that were counted, each by name.

    Args:
      metrics: rows of the run.
      result: of a simulation; empty without one.
      held_out: rounds done -> means of what clients told of that adapter (``coordinator.storage.scores.means``).
    """
    points: dict[str, list[tuple[int, float]]] = {}
    for row in metrics:
        points.setdefault(row.name, []).append((row.round_index + 1, row.value))
    made = [Figure(name=n, title=title_of(n), points=sorted(p)) for n, p in points.items()]
    for name in (ACCURACY, LOSS):
        curve = [(rounds_done, told[name]) for rounds_done, told in held_out.items() if name in told]
        if curve:
            made.append(Figure(name=name, title=title_of(name), points=sorted(curve), note=HELD_OUT))
    for name, curve in _curves(result).items():
        if name not in points:
            note = "held-out examples, scored where the run was simulated"
            made.append(Figure(name=name, title=title_of(name), points=curve, note=note))
    return sorted(made, key=lambda f: (not f.is_learning, f.title))


def client_figures(result: Mapping[str, Any]) -> list[ClientFigure]:
    """The main score of each client's own model beside the federated one, where a simulation has measured them."""
    told = result.get("metrics")
    if not isinstance(told, dict) or not isinstance(told.get("federated"), dict):
        return []
    name = _main_score(told["federated"])
    alone = told.get("local_only")
    if not name or not isinstance(alone, dict) or not alone:
        return []
    rows = [
        ClientFigure(client_id=str(client), name=name, value=float(score[name]))
        for client, score in sorted(alone.items())
        if isinstance(score, dict) and isinstance(score.get(name), int | float)
    ]
    whole = ClientFigure(
        client_id="federated", name=name, value=float(told["federated"][name]), is_federated=True
    )
    return [*rows, whole] if rows else []


def _curves(result: Mapping[str, Any]) -> dict[str, list[tuple[int, float]]]:
    """Score -> its curve; round 0 is before training."""
    curves = result.get("curves")
    steps = curves.get("federated") if isinstance(curves, dict) else None
    found: dict[str, list[tuple[int, float]]] = {}
    for index, step in enumerate(steps if isinstance(steps, list) else []):
        for name, value in step.items() if isinstance(step, dict) else ():
            if isinstance(value, int | float) and name in TITLES:
                found.setdefault(name, []).append((index, float(value)))
    return found


def _main_score(scores: Mapping[str, Any]) -> str:
    return next((n for n in ("accuracy", "macro_f1", "loss") if isinstance(scores.get(n), int | float)), "")

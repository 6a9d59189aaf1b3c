"""What trackers record of one closed round."""

from __future__ import annotations

import json
from collections.abc import Mapping  # noqa: TC003 - part of the record
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundFigures:
    """One closed round.

    Attributes:
      run_id: of the run.
      round_index: from 0; the step.
      at: seconds since 1970 at which it closed; None where that is not released.
      figures: the coordinator's own, by name.
      clients: client id -> figures; empty where nothing of single clients is recorded.
    """

    run_id: str
    round_index: int
    at: float | None = None
    figures: Mapping[str, float] = field(default_factory=dict)
    clients: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def flat(self) -> dict[str, float]:
        """All of them, those of a client as ``client/ID/NAME``."""
        return dict(self.figures) | {
            f"client/{client_id}/{name}": value
            for client_id, own in self.clients.items()
            for name, value in own.items()
        }

    def to_json(self) -> str:
        """One line without its end; keys in order, so that equal rounds are equal lines."""
        told = {"run_id": self.run_id, "round": self.round_index, "figures": dict(self.figures)}
        told |= {} if self.at is None else {"at": self.at}
        told |= {"clients": {c: dict(own) for c, own in self.clients.items()}} if self.clients else {}
        return json.dumps(told, sort_keys=True, allow_nan=False)


def figures_from_json(text: str) -> RoundFigures:
    """What ``to_json`` wrote.

    Raises:
      ValueError: it is something else.
    """
    told = json.loads(text)
    try:
        return RoundFigures(
            run_id=told["run_id"],
            round_index=int(told["round"]),
            at=told.get("at"),
            figures=told["figures"],
            clients=told.get("clients", {}),
        )
    except (KeyError, TypeError) as e:
        raise ValueError("not a round's figures") from e


class Tracker(Protocol):
    """Where figures are written. What was recorded stays; each round is recorded once, whoever crashed in between."""

    def last_round(self) -> int:
        """The last round that is recorded; -1 before the first."""
        ...

    def record(self, figures: RoundFigures) -> None:
        """Write one round; whole and on disk when this returns, or not there at the next start."""
        ...

    def close(self, state: str) -> None:
        """The run stands so: FINISHED, FAILED, CANCELLED, or it goes on later (empty)."""
        ...


def step_time(figures: RoundFigures) -> float:
    """Seconds since 1970 for formats that need a time: a second a round where the true one is not released."""
    return float(figures.round_index) if figures.at is None else figures.at

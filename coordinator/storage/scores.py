"""Held-out figures that clients told: of the adapter that a round starts from, and of the last one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import select

from coordinator.storage.models import ScoreRow

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sqlalchemy.orm import Session

    from coordinator.storage.database import Database

LOSS, ACCURACY, EXAMPLES = "held_out_loss", "held_out_accuracy", "held_out_examples"
"""Names of the means over clients, beside the coordinator's own figures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One client's figures of one adapter. ``accuracy``: None where the task has no classes. ``loss``: in nats."""

    loss: float
    accuracy: float | None
    num_examples: int


class RecordedScores:
    """The scores of all runs.

    Args:
      database: of the store.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def note(self, run_id: str, rounds_done: int, scores: Mapping[str, Score]) -> None:
        """Client -> what it told of the adapter after so many rounds. What is told again takes the place of before."""
        with self._database.transaction() as session:
            for client_id, score in scores.items():
                put_score(session, run_id, rounds_done, client_id, score)

    def of(self, run_id: str, rounds_done: int | None = None) -> Sequence[ScoreRow]:
        """All of a run, or those of the adapter after so many rounds; by rounds done and client."""
        query = select(ScoreRow).where(ScoreRow.run_id == run_id)
        if rounds_done is not None:
            query = query.where(ScoreRow.rounds_done == rounds_done)
        with self._database.reading() as session:
            return session.scalars(query.order_by(ScoreRow.rounds_done, ScoreRow.client_id)).all()


def put_score(session: Session, run_id: str, rounds_done: int, client_id: str, score: Score) -> None:
    """Write one within the caller's transaction."""
    session.merge(
        ScoreRow(
            run_id=run_id,
            rounds_done=rounds_done,
            client_id=client_id,
            loss=score.loss,
            accuracy=score.accuracy,
            num_examples=score.num_examples,
        )
    )


def means(rows: Iterable[ScoreRow]) -> dict[int, dict[str, float]]:
    """Rounds done -> ``held_out_loss``, ``held_out_examples`` and, where all tell one, ``held_out_accuracy``.

    Each client counts by its number of held-out examples. Who is in a mean may change from round to round.
    """
    found: dict[int, list[ScoreRow]] = {}
    for row in rows:
        found.setdefault(row.rounds_done, []).append(row)
    made = {}
    for rounds_done, of in sorted(found.items()):
        total = sum(row.num_examples for row in of)
        told = {LOSS: sum(row.loss * (row.num_examples / total) for row in of), EXAMPLES: float(total)}
        shares = [(row.accuracy, row.num_examples / total) for row in of if row.accuracy is not None]
        if len(shares) == len(of):
            told[ACCURACY] = sum(accuracy * part for accuracy, part in shares)
        made[rounds_done] = told
    return made

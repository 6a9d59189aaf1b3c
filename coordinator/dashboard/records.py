"""Where the pages read: the store of a home, questions in SQL that only a page asks, and who is online."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sqlalchemy import func, select

from coordinator.storage.models import ContributionRow, RoundRow, RunRow

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from coordinator.observing.status import Status
    from coordinator.storage.database import Database
    from coordinator.storage.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Payload bytes of the orders and answers of a run, and how many clients were in it."""

    bytes_down: int = 0
    bytes_up: int = 0
    clients: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LastAnswer:
    """What a client was last asked. ``answered_at``: the end of that round, where it answered; seconds since 1970."""

    run_id: str
    rank: int
    state: str
    error_code: str
    error_message: str
    answered_at: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Records:
    """What pages are made of.

    Attributes:
      home: the coordinator's state folder.
      store: as the control API reads it.
      database: the same database, for questions that the store does not answer; nothing is written.
      status: what the service says of itself; None where nobody serves.
      federation: its id.
      result: ``result.json`` of a simulation; empty elsewhere.
    """

    home: Path
    store: Store
    database: Database
    status: Status | None = None
    federation: str = ""
    result: Mapping[str, object] = field(default_factory=dict)

    def result_of(self, run_id: str) -> Mapping[str, object]:
        """What a simulation has measured of this run; empty where nothing is."""
        return self.result if self.result.get("run_id") == run_id else {}

    def runs(self, *, offset: int, limit: int) -> tuple[Sequence[RunRow], int]:
        """A page of runs, newest first, and how many there are."""
        newest = select(RunRow).order_by(RunRow.created_at.desc(), RunRow.run_id.desc())
        with self.database.reading() as session:
            total = session.scalar(select(func.count()).select_from(RunRow)) or 0
            return session.scalars(newest.offset(offset).limit(limit)).all(), total

    def online(self) -> frozenset[str] | None:
        """Clients that were connected at the last look; None where nobody serves."""
        return None if self.status is None else self.status.presence()[0]

    def seen(self) -> Mapping[str, float]:
        """Client -> when it was last connected, since the coordinator leads."""
        return {} if self.status is None else self.status.presence()[1]

    def last_answers(self) -> dict[str, LastAnswer]:
        """Client -> what it was last asked, over all runs, and what became of that."""
        row, attempt = ContributionRow, RoundRow
        newest = func.row_number().over(
            partition_by=row.client_id, order_by=(attempt.started_at.desc(), row.run_id.desc())
        )
        same = (
            (row.run_id == attempt.run_id)
            & (row.round_index == attempt.round_index)
            & (row.attempt == attempt.attempt)
        )
        columns = (row.client_id, row.run_id, row.lora_rank, row.state, row.error_code, row.error_message)
        inner = select(*columns, attempt.closed_at, newest.label("place")).join(attempt, same).subquery()
        with self.database.reading() as session:
            return {
                found.client_id: LastAnswer(
                    run_id=found.run_id,
                    rank=found.lora_rank,
                    state=found.state,
                    error_code=found.error_code,
                    error_message=found.error_message,
                    answered_at=found.closed_at if found.state in {"RECEIVED", "LATE"} else None,
                )
                for found in session.execute(select(inner).where(inner.c.place == 1))
            }

    def states(self) -> dict[str, int]:
        """State -> how many runs are in it."""
        query = select(RunRow.state, func.count()).group_by(RunRow.state)
        with self.database.reading() as session:
            return {row[0]: row[1] for row in session.execute(query)}

    def closed(self, run_ids: Sequence[str]) -> dict[str, int]:
        """Run -> closed rounds; a run without any is not there."""
        query = select(RoundRow.run_id, func.count()).where(
            RoundRow.run_id.in_(run_ids), RoundRow.state == "CLOSED"
        )
        with self.database.reading() as session:
            return {row[0]: row[1] for row in session.execute(query.group_by(RoundRow.run_id))}

    def traffic(self, run_ids: Sequence[str]) -> dict[str, Traffic]:
        """Run -> bytes and clients; a run that has asked nobody is not there."""
        row = ContributionRow
        query = select(
            row.run_id,
            func.sum(row.bytes_down),
            func.sum(row.bytes_up),
            func.count(row.client_id.distinct()),
        ).where(row.run_id.in_(run_ids))
        with self.database.reading() as session:
            return {
                run: Traffic(bytes_down=int(down or 0), bytes_up=int(up or 0), clients=clients)
                for run, down, up, clients in session.execute(query.group_by(row.run_id))
            }

"""Which artifacts nobody needs any more, and their removal beside a running coordinator.

Named is what a row of the database names. A run that goes on keeps every state that it may start from again; client
updates are needed until their round has closed, and are the nearest that the coordinator has to an owner's data, so
they are the first to go. A file younger than the grace age always stays: its row may not be written yet.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import select

from coordinator.rounds.table import ENDED
from coordinator.storage.models import Base, ContributionRow, RoundRow, RunRow

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy.orm import Session

    from coordinator.storage.artifacts import ArtifactStore
    from coordinator.storage.database import Database

UNNAMED = "nothing in the database names it"
UPDATE = "an update whose round has closed"
ADAPTER = "a state of a run that has ended"
UNFINISHED = "a write that was cut off"
GRACE_S = 86_400.0
_RULED = {
    (ContributionRow.__tablename__, "payload_sha256"),
    (RoundRow.__tablename__, "start_sha256"),
    (RoundRow.__tablename__, "adapter_sha256"),
    (RoundRow.__tablename__, "optimizer_sha256"),
    (RunRow.__tablename__, "adapter_sha256"),
}
_NO_ARTIFACT = {("artifacts", "sha256"), ("ledger_entries", "sha256")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """What is kept although no run needs it.

    Attributes:
      updates_for_rounds: updates of that many closed rounds, of a run that goes on, at least 1 (a standby looks for
        those of the newest round before it leads); an ended run needs none.
      adapters: states of that many last rounds of an ended run; None keeps all of them and what each round
        started from. The adapter that a run ended with is always kept.
      grace_s: seconds that every file is left alone for.
    """

    updates_for_rounds: int = 1
    adapters: int | None = None
    grace_s: float = GRACE_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Garbage:
    """One file that nobody needs."""

    path: Path
    sha256: str
    num_bytes: int
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection:
    """What was found; removed unless it was a rehearsal.

    Attributes:
      garbage: in order of names.
      kept: number of artifacts that stay.
      missing: names that the database needs and no file has.
    """

    garbage: tuple[Garbage, ...]
    kept: int
    missing: tuple[str, ...]

    @property
    def num_bytes(self) -> int:
        """Bytes of the garbage."""
        return sum(g.num_bytes for g in self.garbage)

    def by_reason(self) -> dict[str, int]:
        """Reason -> number of files."""
        return dict(Counter(g.why for g in self.garbage))


def collect(
    artifacts: ArtifactStore,
    database: Database,
    retention: Retention,
    *,
    dry_run: bool,
    now: float | None = None,
) -> Collection:
    """Find and remove what nobody needs.

    Args:
      artifacts: the files.
      database: that names them.
      retention: what is kept for longer.
      dry_run: only find.
      now: seconds since the epoch; the machine's by default.

    Raises:
      StorageError: database or folder can not be read, or a file not be removed.
    """
    before = (time.time() if now is None else now) - retention.grace_s
    files = list(artifacts.files())  # first: what is written from here on is young, or touched
    leftovers = list(artifacts.leftovers())
    with database.reading() as session:
        needed, spare = _needed(session, retention)
        others = set(_other_names(session))
    garbage: list[Garbage] = []
    for sha256, path in files:
        if sha256 not in needed | others:
            garbage += _old(path, sha256, spare.get(sha256, UNNAMED), before)
    for path in leftovers:
        garbage += _old(path, "", UNFINISHED, before)
    if not dry_run:
        with artifacts.locked():
            garbage = [g for found in garbage for g in _old(found.path, found.sha256, found.why, before)]
            for found in garbage:
                found.path.unlink(missing_ok=True)
    held = {sha256 for sha256, _ in files}
    return Collection(
        garbage=tuple(garbage),
        kept=len(held - {g.sha256 for g in garbage}),
        missing=tuple(sorted(needed - held)),
    )


def _old(path: Path, sha256: str, why: str, before: float) -> Iterator[Garbage]:
    """The file as garbage, if it is still there and older than that."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return
    if found.st_mtime < before:
        yield Garbage(path=path, sha256=sha256, num_bytes=found.st_size, why=why)


def _needed(session: Session, retention: Retention) -> tuple[set[str], dict[str, str]]:
    """Names that stay, and why each of the others was named."""
    spare: dict[str, str] = {}
    ended = set(session.scalars(select(RunRow.run_id).where(RunRow.state.in_(ENDED))))
    needed = set(session.scalars(select(RunRow.adapter_sha256)))
    closed: dict[str, list[int]] = defaultdict(list)
    rounds = list(session.scalars(select(RoundRow).order_by(RoundRow.round_index)))
    for row in rounds:
        if row.state == "CLOSED":
            closed[row.run_id].append(row.round_index)
    for row in rounds:
        states = {row.start_sha256, row.adapter_sha256, row.optimizer_sha256}
        last = closed[row.run_id][-retention.adapters :] if retention.adapters else []
        if row.run_id not in ended or retention.adapters is None:
            needed |= states
        elif row.state == "CLOSED" and row.round_index in last:
            needed.add(row.adapter_sha256)
        spare.update(dict.fromkeys(states, ADAPTER))
    query = select(ContributionRow.run_id, ContributionRow.round_index, ContributionRow.payload_sha256)
    for run_id, round_index, sha256 in session.execute(query.where(ContributionRow.payload_sha256 != "")):
        kept = closed[run_id][-max(retention.updates_for_rounds, 1) :]
        is_open = round_index not in closed[run_id]
        if run_id not in ended and (is_open or round_index in kept):
            needed.add(sha256)
        spare.setdefault(sha256, UPDATE)
    return needed - {""}, spare


def _other_names(session: Session) -> Iterator[str]:
    """Whatever any other column of a hash holds, so that a table of tomorrow loses nothing."""
    for table in Base.metadata.sorted_tables:
        for column in table.columns:
            place = (table.name, column.name)
            if column.name.endswith("sha256") and place not in _RULED | _NO_ARTIFACT:
                yield from (str(v) for v in session.scalars(select(column)) if v)

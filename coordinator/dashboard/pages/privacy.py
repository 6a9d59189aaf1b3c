"""What every client has spent, over all runs, and the head of the ledger that says so."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from motet.errors import MotetError
from privacy.errors import PrivacyError
from privacy.ledger.notes import open_checkpoint

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coordinator.dashboard.budgets import Budgets, Curve
    from coordinator.dashboard.records import Records

NEARLY = 0.8
"""The part of a limit from which on a budget is said to be nearly spent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSpending:
    """Epsilon of one run by itself; those of all runs do not add up, composing is cheaper."""

    run_id: str
    epsilon: float
    charges: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Spent:
    """``total`` held against ``limit``, the lowest of the client's runs, None without one."""

    total: float
    limit: float | None

    @property
    def left(self) -> float | None:
        """Of the limit; None without one."""
        return None if self.limit is None else max(0.0, self.limit - self.total)

    @property
    def part(self) -> float:
        """Of the limit, 0 to 1; 0 without one."""
        if not self.limit or not math.isfinite(self.total):
            return 1.0 if self.limit is not None and self.total else 0.0
        return min(1.0, self.total / self.limit)

    @property
    def state(self) -> str:
        """``spent``, ``nearly spent``, ``within`` or ``no limit``."""
        if self.limit is None:
            return "no limit"
        if self.total >= self.limit:
            return "spent"
        return "nearly spent" if self.part >= NEARLY else "within"


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSetGauge(_Spent):
    """The part of a budget that one data set has used, by its owner's word.

    Attributes:
      data_set: the owner's tag, which nobody else can make.
      charges: those of which no record says the data set count as well.
      told_at: when the owner signed, seconds since 1970.
    """

    data_set: str
    charges: int
    told_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauge(_Spent):
    """One budget. ``total`` is ``spent`` (settled) and what is reserved besides; it counts in full.

    ``data_sets``: empty where the owner named none, or who looks is not told.
    """

    client_id: str
    unit: str
    target_delta: float
    spent: float
    charges: int
    open_charges: int
    runs: Sequence[RunSpending]
    data_sets: Sequence[DataSetGauge] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The newest signed head of the ledger. ``waiting``: entries that are committed and not signed yet."""

    origin: str
    size: int
    root: str
    key: str
    waiting: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacyPage:
    """Budgets, their history, and the ledger.

    Attributes:
      gauges: by client; None while the first figures are computed.
      curves: of those who have spent most.
      is_stale: newer figures are being computed.
      head: None before anything was signed.
      trouble: why the ledger can not be shown; empty where it can.
    """

    gauges: Sequence[Gauge] | None
    curves: Sequence[Curve]
    is_stale: bool
    head: Head | None
    trouble: str


def privacy_page(
    records: Records, budgets: Budgets, *, tells_data_sets: bool, within_s: float = 0.0
) -> PrivacyPage:
    """The page.

    Args:
      records: of the home.
      budgets: of the same home.
      tells_data_sets: whether who looks is told which charges were of one data set.
      within_s: how long to wait for figures that are not there yet.

    Raises:
      StorageError: the database can not be read.
    """
    if within_s:
        budgets.wait(within_s)
    made, is_stale = budgets.look()
    head, trouble = _head(records)
    return PrivacyPage(
        gauges=None if made is None else [_gauge(row, tells_data_sets) for row in made.rows],
        curves=() if made is None else made.curves,
        is_stale=is_stale,
        head=head,
        trouble=trouble,
    )


def _gauge(row: dict[str, Any], tells_data_sets: bool) -> Gauge:
    of_data_sets = row["data_sets"] if tells_data_sets else ()
    return Gauge(
        client_id=row["client_id"],
        unit=row["unit"],
        target_delta=row["target_delta"],
        spent=row["spent"],
        total=row["total"],
        limit=row["limit"],
        charges=row["charges"],
        open_charges=row["open_charges"],
        runs=[RunSpending(**run) for run in row["runs"]],
        data_sets=[
            DataSetGauge(
                data_set=one["data_set"],
                total=one["epsilon"],
                limit=row["limit"],
                charges=one["charges"],
                told_at=one["told_at"],
            )
            for one in of_data_sets
        ],
    )


def _head(records: Records) -> tuple[Head | None, str]:
    ledger = records.store.ledger
    try:
        note = ledger.file.newest_note()
        if note is None:
            return None, ""
        verifier = ledger.file.verifier()
        checkpoint = open_checkpoint(note, verifier)
        return (
            Head(
                origin=checkpoint.origin,
                size=checkpoint.size,
                root=checkpoint.root.hex(),
                key=verifier.to_text(),
                waiting=max(0, ledger.unpublished()),
            ),
            "",
        )
    except (MotetError, PrivacyError) as e:
        return None, f"The ledger can not be shown: {type(e).__name__}. Look with: motet doctor"

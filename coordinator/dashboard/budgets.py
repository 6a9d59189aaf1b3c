"""What was spent, computed beside the pages: an accountant takes its time, and a page does not wait for it."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select

from coordinator.storage.models import PrivacyEventRow, RunRow, SignedRecordRow

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coordinator.storage.database import Database
    from coordinator.storage.store import Store
    from privacy.events import Event

log = logging.getLogger(__name__)
FIRST_WAIT_S = 0.3
PAUSE_S = 3.0  # between two looks at a record that grows
MOST_CURVES, MOST_MOMENTS = 6, 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Epsilon of one client after some of its charges. ``points``: (seconds since 1970, epsilon)."""

    client_id: str
    unit: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spending:
    """What the record gave. ``rows``: of ``motet.audit.accounts.budget_of``; ``charges``: how many it counts."""

    rows: Sequence[dict[str, Any]]
    curves: Sequence[Curve]
    charges: int


class Budgets:
    """The newest figures, made anew in a thread of their own when the record has grown.

    Args:
      store: of the home.
      database: the same one.
    """

    def __init__(self, store: Store, database: Database) -> None:
        self._store, self._database = store, database
        self._lock = threading.Lock()
        self._made: Spending | None = None
        self._of: tuple[int, ...] = ()
        self._made_at = 0.0
        self._working: threading.Thread | None = None

    def look(self) -> tuple[Spending | None, bool]:
        """The newest figures, None before the first; and whether newer ones are being made.

        Raises:
          StorageError: the database can not be read.
        """
        stamp = self._stamp()
        with self._lock:
            is_due = stamp != self._of and time.monotonic() - self._made_at >= PAUSE_S
            if (self._made is None or is_due) and self._working is None:
                self._working = threading.Thread(
                    target=self._make, args=(stamp,), name="dashboard-budgets", daemon=True
                )
                self._working.start()
            working, is_first = self._working, self._made is None
        if working is not None and is_first:
            working.join(FIRST_WAIT_S)
        with self._lock:
            return self._made, stamp != self._of

    def wait(self, within_s: float) -> Spending | None:
        """The figures once they are there; None when they are not within the time."""
        until = time.monotonic() + within_s
        while True:
            made, is_stale = self.look()
            if made is not None and not is_stale:
                return made
            if time.monotonic() > until:
                return made
            time.sleep(0.05)

    def _make(self, stamp: tuple[int, ...]) -> None:
        try:
            made = self._spending()
            with self._lock:
                self._made, self._of = made, stamp
        except Exception:  # the page says that there are no figures; the log says why
            log.exception("the budgets could not be computed")
        finally:
            with self._lock:
                self._made_at, self._working = time.monotonic(), None

    def _stamp(self) -> tuple[int, ...]:
        """Changes whenever a charge is made or settled, a run declared, or an owner's record taken."""
        charge = select(PrivacyEventRow.state, func.count()).group_by(PrivacyEventRow.state)
        with self._database.reading() as session:
            counted: dict[str, int] = {row[0]: row[1] for row in session.execute(charge)}
            runs = session.scalar(select(func.count()).select_from(RunRow)) or 0
            records = session.scalar(select(func.sum(SignedRecordRow.made_at_ms))) or 0
        return counted.get("RESERVED", 0), counted.get("SETTLED", 0), runs, int(records)

    def _spending(self) -> Spending:
        from motet.audit.accounts import budget_of  # an accountant takes a second to load

        witnessed = self._store.witnessed
        rows = budget_of(
            self._store.charge_bodies(), witnessed=witnessed.lacking(), data_sets=witnessed.data_sets()
        )
        most = sorted(rows, key=lambda r: (-r["total"], r["client_id"]))[:MOST_CURVES]
        curves = self._curves(most)
        return Spending(rows=rows, curves=curves, charges=sum(r["charges"] for r in rows))

    def _curves(self, rows: Sequence[dict[str, Any]]) -> list[Curve]:
        """Epsilon over time of some accounts, all at the same moments."""
        from privacy.accounting import epsilon_pld

        charges = self._charges(rows)
        times = sorted({at for account in charges.values() for at, _ in account})
        step = max(1, -(-len(times) // MOST_MOMENTS))
        moments = [*times[step - 1 :: step]]
        if times and moments[-1:] != times[-1:]:
            moments.append(times[-1])
        made = []
        for row in rows:
            account = charges.get((row["client_id"], row["unit"]), [])
            points = []
            for at in moments:
                events = [event for when, event in account if when <= at]
                if events:
                    points.append((at, epsilon_pld(events, row["target_delta"])))
            made.append(Curve(client_id=row["client_id"], unit=row["unit"], points=points))
        return made

    def _charges(self, rows: Sequence[dict[str, Any]]) -> dict[tuple[str, str], list[tuple[float, Event]]]:
        """(client, unit) -> its charges with their times."""
        from privacy.events import units_of
        from privacy.ledger.rules import charged_event

        columns = (PrivacyEventRow.client_id, PrivacyEventRow.event_json, PrivacyEventRow.reserved_at)
        query = select(*columns).where(PrivacyEventRow.client_id.in_([r["client_id"] for r in rows]))
        found: dict[tuple[str, str], list[tuple[float, Event]]] = {}
        with self._database.reading() as session:
            for client_id, text, at in session.execute(query.order_by(PrivacyEventRow.reserved_at)):
                event = charged_event(text)
                found.setdefault((client_id, units_of([event])[0]), []).append((at, event))
        return found

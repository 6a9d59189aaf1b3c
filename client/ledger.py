"""The data owner's own record of privacy spent: a hash-chained file, written before the first gradient.

One JSON object a line in canonical form, each with the sha256 of the line before. ``reserve`` is durable (fsync)
before it returns; ``settle`` only notes that the charge became real; ``decision`` is what the owner decided on a
recipe (``client.decisions``). What is not settled counts in full. Nobody
but this file's owner can lower it, and a file that was cut or put back from an older copy is refused.
"""

from __future__ import annotations

import json
import logging
import re
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from client.errors import LedgerError, PolicyRefusedError
from motet.audit.errors import JournalError
from motet.audit.journal import Journal
from privacy.accounting import epsilon_pld
from privacy.errors import MalformedEventError
from privacy.events import event_from_json, units_of
from privacy.ledger.canonical import canonical_bytes
from privacy.ledger.chain import FIRST_PREVIOUS, entry_hash

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from privacy.events import Event

log = logging.getLogger(__name__)
GENESIS = FIRST_PREVIOUS
_FILE_HASH = re.compile(r"[0-9a-f]{64}")
_OVER_CAP = (
    "clause max_epsilon: this data set would reach epsilon above what the owner allows; its log has figures"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """One reserve row, and whether it was settled. It counts in full either way."""

    reservation_id: str
    data_set: str
    run_id: str
    round_index: int
    attempt: int
    event: Event
    is_settled: bool

    @property
    def is_of_every_data_set(self) -> bool:
        """Whether it names a file's bytes, as before there were lineages, and so counts against every data set."""
        return _FILE_HASH.fullmatch(self.data_set) is not None


class ClientLedger:
    """Append-only; safe for several processes of one owner (an exclusive lock around check and write)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._journal = Journal(path)

    def rows(self) -> list[dict[str, Any]]:
        """All rows, the chain verified.

        Raises:
          LedgerError: a line was altered, removed or cut, or the file is an older copy of itself.
        """
        with _as_ledger_errors():
            return self._read()[0]

    def charges(self) -> list[Charge]:
        """Every charge, in order, over all data sets.

        Raises:
          LedgerError: see ``rows``; or an event has no usable value.
        """
        with _as_ledger_errors():
            rows, ids, _ = self._read()
        settled = {row["reservation_id"] for row in rows if row["kind"] == "settle"}
        return [
            Charge(
                reservation_id=name,
                data_set=row["data_set"],
                run_id=row["run_id"],
                round_index=row.get("round_index", 0),
                attempt=row.get("attempt", 0),
                event=self._event(number, row),
                is_settled=name in settled,
            )
            for number, (name, row) in enumerate(zip(ids, rows, strict=True), 1)
            if row["kind"] == "reserve"
        ]

    def spent(self, *data_sets: str) -> list[Event]:
        """Every event reserved on a data set, settled or not; one that is not understood costs infinity.

        Args:
          data_sets: every name of the data set, see ``client.lineage``. Charges of before there were lineages count
            against every data set: they name a file's bytes, which are gone once the file has changed.

        Raises:
          LedgerError: see ``charges``.
        """
        return [
            charge.event
            for charge in self.charges()
            if charge.data_set in data_sets or charge.is_of_every_data_set
        ]

    def reserve(
        self,
        *,
        data_set: str,
        run_id: str,
        round_index: int,
        attempt: int,
        event: Event,
        epsilon_cap: float | None,
        target_delta: float,
        joined: Sequence[str] = (),
    ) -> str:
        """Charge one round before it is trained; durable when this returns.

        Args:
          data_set: name of its lineage.
          run_id: the run.
          round_index: from 0.
          attempt: at the round, from 0.
          event: the charge.
          epsilon_cap: the owner's cap; None is none.
          target_delta: of the cap.
          joined: further names of the data set, whose charges count as well.

        Returns:
          the reservation's id.

        Raises:
          PolicyRefusedError: with the charge the data set's epsilon would pass ``epsilon_cap``; nothing is
            written.
          LedgerError: the file is damaged or can not be written.
        """
        (name,) = self.reserve_all(
            [(round_index, attempt)],
            data_set=data_set,
            run_id=run_id,
            event=event,
            epsilon_cap=epsilon_cap,
            target_delta=target_delta,
            joined=joined,
        )
        return name

    def reserve_all(
        self,
        places: Sequence[tuple[int, int]],
        *,
        data_set: str,
        run_id: str,
        event: Event,
        epsilon_cap: float | None,
        target_delta: float,
        joined: Sequence[str] = (),
    ) -> list[str]:
        """Charge several rounds at once, all or none; see ``reserve``.

        Args:
          places: round_index and attempt of each; may be empty.
          data_set: name of its lineage.
          run_id: the run.
          event: the charge of each.
          epsilon_cap: the owner's cap on everything together; None is none.
          target_delta: of the cap.
          joined: further names of the data set.

        Raises:
          PolicyRefusedError: as ``reserve``; nothing is written.
          LedgerError: as ``reserve``.
        """
        with _as_ledger_errors(), self._journal.locked():
            if epsilon_cap is not None and places:
                self._check_cap(
                    [*self.spent(data_set, *joined), *[event] * len(places)], epsilon_cap, target_delta
                )
            return self._append(
                [
                    {
                        "kind": "reserve",
                        "data_set": data_set,
                        "run_id": run_id,
                        "round_index": round_index,
                        "attempt": attempt,
                        "event": event.to_json(),
                    }
                    for round_index, attempt in places
                ]
            )

    @staticmethod
    def _check_cap(every: Sequence[Event], epsilon_cap: float, target_delta: float) -> None:
        """Refuse in words that leave; the figures, which one row of data can move, stay in the log."""
        units = units_of(every)
        if len(units) > 1:
            log.warning(
                "this data set was charged in another unit before (%s), and budgets of different units do not add up",
                ", ".join(units),
            )
            raise PolicyRefusedError(_OVER_CAP)
        projected = epsilon_pld(every, target_delta)
        if projected > epsilon_cap:
            log.warning("this data set would reach epsilon %.2f, the owner allows %g", projected, epsilon_cap)
            raise PolicyRefusedError(_OVER_CAP)

    def settle(self, reservation_id: str) -> None:
        """Note that the reserved charge became real."""
        with _as_ledger_errors(), self._journal.locked():
            self._append([{"kind": "settle", "reservation_id": reservation_id}])

    def append_one(self, choose: Callable[[Sequence[dict[str, Any]]], dict[str, Any] | None]) -> None:
        """Append the row that ``choose`` makes of those which are there, in one step; None appends nothing.

        Raises:
          LedgerError: see ``rows``; or the file can not be written.
        """
        with _as_ledger_errors(), self._journal.locked():
            row = choose(self._read()[0])
            self._append([] if row is None else [row])

    def head(self) -> tuple[int, str]:
        """Number of rows and the hash of the last one: what a countersignature stands on.

        Raises:
          LedgerError: see ``rows``.
        """
        with _as_ledger_errors():
            rows, _, last = self._read()
        return len(rows), last

    def _read(self) -> tuple[list[dict[str, Any]], list[str], str]:
        """Rows, the id of each, and the hash of the last line."""
        rows, ids, previous = [], [], GENESIS
        for number, line in enumerate(self._journal.lines(), 1):
            try:
                row = json.loads(line)
                chained, _ = row["previous"], row["kind"]
            except (ValueError, KeyError, TypeError) as e:
                raise LedgerError(
                    f"{self._path}:{number}: not a ledger line", hint="restore the file from a backup"
                ) from e
            if chained != previous:
                raise LedgerError(
                    f"{self._path}:{number}: the chain is broken: a line before it was altered or removed",
                    hint="restore the file from a backup; do not delete it, that would forget what was spent",
                )
            previous = entry_hash(line)
            rows.append(row)
            ids.append(previous[:32])
        return rows, ids, previous

    def _append(self, rows: Sequence[dict[str, Any]]) -> list[str]:
        *_, previous = self._read()
        lines: list[bytes] = []
        for row in rows:
            lines.append(canonical_bytes({"previous": previous, **row}))
            previous = entry_hash(lines[-1])
        self._journal.append(lines)
        return [entry_hash(line)[:32] for line in lines]

    def _event(self, number: int, row: dict[str, Any]) -> Event:
        text = row["event"]
        if isinstance(text, dict):  # rows of version 0.1 hold the three numbers of the one event there was
            text = json.dumps({"adjacency": "add_remove", "kind": "poisson_gaussian", **text})
        try:
            return event_from_json(text)
        except (MalformedEventError, TypeError) as e:
            raise LedgerError(f"{self._path}:{number}: {e}", hint="restore the file from a backup") from e


@contextmanager
def _as_ledger_errors() -> Iterator[None]:
    try:
        yield
    except JournalError as e:
        raise LedgerError(e.message, hint=e.hint) from e

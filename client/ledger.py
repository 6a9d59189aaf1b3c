"""The data owner's own record of privacy spent: a hash-chained file, written before the first gradient.

One JSON object a line, each with the sha256 of the line before. ``reserve`` is durable (fsync) before it
returns; ``settle`` only notes that the charge became real. What is not settled counts in full. Nobody but
this file's owner can lower it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from client.errors import LedgerError, PolicyRefusedError
from privacy.accounting import epsilon_pld
from privacy.events import PoissonGaussianEvent

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

GENESIS = "0" * 64


class ClientLedger:
    """Append-only; safe for several processes of one owner (an exclusive lock around check and write)."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def rows(self) -> list[dict[str, Any]]:
        """All rows, the chain verified.

        Raises:
          LedgerError: a line was altered, removed or cut.
        """
        if not self._path.exists():
            return []
        rows, previous = [], GENESIS
        for number, line in enumerate(self._path.read_text(encoding="utf-8").splitlines(), 1):
            try:
                row = json.loads(line)
                chained = row["previous"]
            except (ValueError, KeyError, TypeError) as e:
                raise LedgerError(
                    f"{self._path}:{number}: not a ledger line", hint="restore the file from a backup"
                ) from e
            if chained != previous:
                raise LedgerError(
                    f"{self._path}:{number}: the chain is broken: a line before it was altered or removed",
                    hint="restore the file from a backup; do not delete it, that would forget what was spent",
                )
            previous = hashlib.sha256(line.encode()).hexdigest()
            rows.append(row)
        return rows

    def spent(self, data_set: str) -> list[PoissonGaussianEvent]:
        """Every event reserved on one data set, settled or not."""
        return [
            PoissonGaussianEvent(**row["event"])
            for row in self.rows()
            if row["kind"] == "reserve" and row["data_set"] == data_set
        ]

    def reserve(
        self,
        *,
        data_set: str,
        run_id: str,
        round_index: int,
        attempt: int,
        event: PoissonGaussianEvent,
        epsilon_cap: float | None,
        target_delta: float,
    ) -> str:
        """Charge one round before it is trained; durable when this returns.

        Returns:
          the reservation's id.

        Raises:
          PolicyRefusedError: with the charge the data set's epsilon would pass ``epsilon_cap``; nothing is
            written.
          LedgerError: the file is damaged or can not be written.
        """
        with self._locked():
            if epsilon_cap is not None:
                projected = epsilon_pld([*self.spent(data_set), event], target_delta)
                if projected > epsilon_cap:
                    raise PolicyRefusedError(
                        f"clause max_epsilon: this data set would reach epsilon {projected:.2f}, "
                        f"the owner allows {epsilon_cap:g}"
                    )
            fields = {
                "noise_multiplier": event.noise_multiplier,
                "sampling_rate": event.sampling_rate,
                "num_steps": event.num_steps,
            }
            return self._append(
                {
                    "kind": "reserve",
                    "data_set": data_set,
                    "run_id": run_id,
                    "round_index": round_index,
                    "attempt": attempt,
                    "event": fields,
                }
            )

    def settle(self, reservation_id: str) -> None:
        """Note that the reserved charge became real."""
        with self._locked():
            self._append({"kind": "settle", "reservation_id": reservation_id})

    def _append(self, row: dict[str, Any]) -> str:
        rows_before = self.rows()
        last = self._path.read_text(encoding="utf-8").splitlines()[-1] if rows_before else None
        row = {"previous": hashlib.sha256(last.encode()).hexdigest() if last else GENESIS, **row}
        line = json.dumps(row, sort_keys=True)
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as e:
            raise LedgerError(
                f"{self._path} can not be written: {e.strerror}", hint="check the disk and its rights"
            ) from e
        return hashlib.sha256(line.encode()).hexdigest()[:32]

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            lock = self._path.with_suffix(".lock").open("w")
        except OSError as e:
            raise LedgerError(
                f"{self._path.parent} can not be written: {e.strerror}", hint="check the disk and its rights"
            ) from e
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def data_set_fingerprint(path: Path) -> str:
    """sha256 of the file's bytes: under which name its budget is kept."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()

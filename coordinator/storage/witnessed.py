"""A client's own signed record raises the coordinator's count of its charges; nothing here lowers one.

After an older backup was put back the database lacks charges that were made. Each client has charged itself before it
trained, and signs that record (``motet audit receipts``): what it holds and the database lacks counts in full from then
on, in every look at that client's budget. It is no entry of the ledger, which tells what the coordinator did.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import func, select

from coordinator.storage.models import ClientRow, PrivacyEventRow, SignedRecordRow, WitnessedChargeRow
from motet.audit.receipts import EVERY_DATA_SET, DataSetNames, made_at_of, open_receipts
from motet.enrolment import AdmissionRefusedError
from motet.errors import NotFoundError
from privacy.errors import MalformedEventError
from privacy.events import event_from_json
from privacy.ledger.canonical import parse_canonical
from privacy.ledger.entries import Reserve, reservation_id
from privacy.ledger.errors import LedgerFormatError, SignatureError
from privacy.ledger.rules import charged_event
from privacy.ledger.vectors import rdp_vector

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sqlalchemy.orm import Session

    from coordinator.storage.database import Database
    from motet.clock import Clock
    from privacy.ledger.canonical import Value

_LONGEST_RUN = 64
_LARGEST = 2**31 - 1
_TAG = re.compile(r"[0-9a-f]{32}")
MOST_KINDS = 200
"""Different events by a client's word alone. A run has one; an accountant takes some 20 ms for each, at every look."""
MOST_DATA_SETS = 32
_ALONE = WitnessedChargeRow.reservation_id.not_in(select(PrivacyEventRow.reservation_id))
"""Without those that the database holds itself, by now."""


class ReceiptsRefusedError(AdmissionRefusedError):
    """A document is no signed record of a client, or not by the key that is registered; nothing was changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Witnessed:
    """What a record told: ``charges`` in it, ``added`` of them the database lacked."""

    client_id: str
    charges: int
    added: int


class WitnessedCharges:
    """Charges by a client's word.

    Args:
      database: of the store.
      clock: for records.
    """

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database, self._clock = database, clock

    def take(self, document: bytes, *, of: str = "") -> Witnessed:
        """Count what a record holds and the database lacks, and keep the newest; the same twice changes nothing.

        Args:
          document: as ``motet audit receipts`` wrote it.
          of: the client whose it must be; empty for any.

        Raises:
          ReceiptsRefusedError: it can not be read, or is not signed by the registered key.
          NotFoundError: no such client is registered.
        """
        try:
            parsed = parse_canonical(document.rstrip(b"\n"))
            client_id, charges, pem = open_receipts(parsed)
            made_at_ms = made_at_of(parsed)
        except (LedgerFormatError, SignatureError) as e:
            raise _refused(str(e)) from e
        if of and client_id != of:
            raise _refused("it is another client's")
        rows = {row.reservation_id: row for row in (self._row(client_id, c) for c in charges)}
        with self._database.transaction() as session:
            client = session.get(ClientRow, client_id)
            if client is None:
                raise NotFoundError(
                    f"no client {client_id!r} is registered", hint="see: motet coordinator clients"
                )
            if client.public_key.decode("ascii", "replace").strip() != pem.strip():
                raise _refused(f"it is not signed by the registered key of {client_id}")
            known = set(_known(session, client_id))
            missing = [row for name, row in rows.items() if name not in known]
            kinds = select(WitnessedChargeRow.event_json).where(WitnessedChargeRow.client_id == client_id)
            if len({*session.scalars(kinds.distinct()), *(row.event_json for row in missing)}) > MOST_KINDS:
                raise _refused(f"it would add more than {MOST_KINDS} kinds of charges that nobody else knows")
            session.add_all(missing)
            kept = session.get(SignedRecordRow, client_id)
            if kept is None:
                kept = SignedRecordRow(client_id=client_id, made_at_ms=-1)
                session.add(kept)
            if made_at_ms > kept.made_at_ms:
                kept.made_at_ms, kept.document, kept.told_at = made_at_ms, document, self._clock.now()
        return Witnessed(client_id=client_id, charges=len(charges), added=len(missing))

    def data_sets(self, client_ids: Iterable[str] | None = None) -> dict[str, DataSetNames]:
        """Client -> which of its charges were of which data set, by its newest record.

        Left out: who named none, and who named more than ``MOST_DATA_SETS`` (an accountant takes its time for each).

        Args:
          client_ids: those whose records are read; by default everybody's. A record is verified each time.
        """
        query = select(SignedRecordRow).order_by(SignedRecordRow.client_id)
        if client_ids is not None:
            query = query.where(SignedRecordRow.client_id.in_(list(client_ids)))
        with self._database.reading() as session:
            rows = session.scalars(query).all()
        found = {}
        for row in rows:
            _, charges, _ = open_receipts(parse_canonical(row.document.rstrip(b"\n")))
            tags = {reservation_id(*_place_of(c), row.client_id): str(c["data_set"]) for c in charges}
            if 0 < len(set(tags.values()) - {EVERY_DATA_SET}) <= MOST_DATA_SETS:
                found[row.client_id] = DataSetNames(tags=tags, made_at=row.made_at_ms / 1000)
        return found

    def lacking(self) -> list[Reserve]:
        """Every charge that counts by a client's word alone, as an entry of a ledger would tell it."""
        with self._database.reading() as session:
            rows = session.scalars(select(WitnessedChargeRow).where(_ALONE)).all()
        return [
            Reserve(
                reservation_id=row.reservation_id,
                run_id=row.run_id,
                round_index=row.round_index,
                attempt=row.attempt,
                client_id=row.client_id,
                event=row.event_json,
                rdp_nano=rdp_vector(charged_event(row.event_json)),
            )
            for row in rows
        ]

    def _row(self, client_id: str, charge: dict[str, Value]) -> WitnessedChargeRow:
        run_id, round_index, attempt = _place_of(charge)
        event = charge["event"]
        if not isinstance(event, str):
            raise _refused("a charge in it has no event")
        try:
            event_from_json(event)  # of a newer version it is read, and costs infinity
        except MalformedEventError as e:
            raise _refused("an event in it can not be read") from e
        tag = charge["data_set"]
        if not (isinstance(tag, str) and (tag == EVERY_DATA_SET or _TAG.fullmatch(tag))):
            raise _refused("a charge in it has no tag of a data set")
        return WitnessedChargeRow(
            reservation_id=reservation_id(run_id, round_index, attempt, client_id),
            client_id=client_id,
            run_id=run_id,
            round_index=round_index,
            attempt=attempt,
            event_json=event,
            told_at=self._clock.now(),
        )


def witnessed_texts(session: Session, client_ids: Iterable[str]) -> Iterator[tuple[str, str, int]]:
    """Client id, event and how often, of charges that count by these clients' word alone."""
    columns = (WitnessedChargeRow.client_id, WitnessedChargeRow.event_json)
    query = select(*columns, func.count()).where(_ALONE, WitnessedChargeRow.client_id.in_(list(client_ids)))
    for row in session.execute(query.group_by(*columns).order_by(*columns)):
        yield row[0], row[1], row[2]


def witnessed_of_run(session: Session, client_id: str, run_id: str | None) -> list[str]:
    """Events of one client that count by its word alone; over all runs, or of one."""
    query = select(WitnessedChargeRow.event_json).where(_ALONE, WitnessedChargeRow.client_id == client_id)
    if run_id is not None:
        query = query.where(WitnessedChargeRow.run_id == run_id)
    return list(session.scalars(query.order_by(WitnessedChargeRow.reservation_id)))


def _place_of(charge: dict[str, Value]) -> tuple[str, int, int]:
    """Run, round and attempt."""
    run_id, numbers = charge["run_id"], (charge["round_index"], charge["attempt"])
    if not (isinstance(run_id, str) and 0 < len(run_id) <= _LONGEST_RUN):
        raise _refused("a charge in it has no run")
    round_index, attempt = (n if type(n) is int and 0 <= n <= _LARGEST else -1 for n in numbers)
    if min(round_index, attempt) < 0:
        raise _refused("a charge in it has no round or no attempt")
    return run_id, round_index, attempt


def _known(session: Session, client_id: str) -> Iterator[str]:
    for table in (PrivacyEventRow, WitnessedChargeRow):
        yield from session.scalars(select(table.reservation_id).where(table.client_id == client_id))


def _refused(why: str) -> ReceiptsRefusedError:
    return ReceiptsRefusedError(
        f"the record is refused: {why}", hint="the client makes it: motet audit receipts"
    )

"""Data owners: who is online, what they were last asked and answered, their owners' word, their certificates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from coordinator.dashboard.pages.run import LEFT_BEHIND

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from coordinator.dashboard.records import LastAnswer, Records
    from coordinator.storage.identity_tables import IdentityRow
    from coordinator.storage.models import ClientRow
    from privacy.ledger.entries import Decision

PAGE = 200
DAY_S = 86_400.0
SOON_S = 14 * DAY_S
OF_THE_POLICY = frozenset(
    {"policy_refused", "approval_pending", "outside_hours", "not_private", "over_capacity"}
)
"""Complaints that tell what an owner allows, not that something broke."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """The newest certificate of a client. ``state``: holds, ends soon, ended, or revoked."""

    not_after: float
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientLine:
    """One client. Times are seconds since 1970, None where there is none.

    Attributes:
      client_id: its name.
      capacity_class: as it was registered with; empty without one.
      presence: online, offline, revoked; empty where nobody serves and nobody can know.
      seen_at: when it was last known to be there: online, or the end of a round that it answered in.
      rank: of its last order; 0 before the first.
      last_run: where that was.
      last_outcome: what became of it.
      approved: recipes that its owner said yes to.
      refused: recipes that its owner said no to.
      refusal: the last complaint that its policy made; empty without one.
      certificate: None where there is none, or the reader may not see it.
      registered_at: when it was admitted.
    """

    client_id: str
    capacity_class: str
    presence: str
    seen_at: float | None
    rank: int
    last_run: str
    last_outcome: str
    approved: int
    refused: int
    refusal: str
    certificate: Certificate | None
    registered_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientsPage:
    """A page of clients by name. ``online`` is None where nobody serves this home."""

    clients: Sequence[ClientLine]
    total: int
    online: int | None
    number: int
    pages: int
    shows_certificates: bool


def clients_page(records: Records, number: int = 1, *, certificates: bool, now: float) -> ClientsPage:
    """The clients of the federation, and those that a simulation has made up.

    Args:
      records: of the home.
      number: of the page; one that is not there is the nearest that is.
      certificates: whether the reader may see them.
      now: seconds since 1970.

    Raises:
      StorageError: the database can not be read.
    """
    registered = {row.client_id: row for row in records.store.clients()}
    answers = records.last_answers()
    names = sorted({*registered, *answers})
    pages = max(1, -(-len(names) // PAGE))
    number = min(max(1, number), pages)
    shown = names[(number - 1) * PAGE : number * PAGE]
    online, seen = records.online(), records.seen()
    revoked = records.store.identities.revoked_clients()
    known = _newest(records.store.identities.certificates(role="client")) if certificates else {}
    decided = _decided(records.store.decisions.all())

    def line(name: str) -> ClientLine:
        presence = "" if online is None else "online" if name in online else "offline"
        return _line(
            name,
            registered.get(name),
            answers.get(name),
            presence="revoked" if name in revoked else presence,
            seen_at=seen.get(name),
            decided=decided.get(name, {}),
            certificate=_certificate(known.get(name), now),
        )

    return ClientsPage(
        clients=[line(name) for name in shown],
        total=len(names),
        online=None if online is None else len(online),
        number=number,
        pages=pages,
        shows_certificates=certificates,
    )


def _line(
    name: str,
    row: ClientRow | None,
    answer: LastAnswer | None,
    *,
    presence: str,
    seen_at: float | None,
    decided: Mapping[str, str],
    certificate: Certificate | None,
) -> ClientLine:
    times = [seen_at, row.last_seen_at if row else None, answer.answered_at if answer else None]
    known = [t for t in times if t]
    return ClientLine(
        client_id=name,
        capacity_class=row.capacity_class if row else "",
        presence=presence,
        seen_at=max(known) if known else None,
        rank=answer.rank if answer else 0,
        last_run=answer.run_id if answer else "",
        last_outcome=_outcome(answer),
        approved=sum(d == "approved" for d in decided.values()),
        refused=sum(d != "approved" for d in decided.values()),
        refusal=answer.error_message if answer and answer.error_code in OF_THE_POLICY else "",
        certificate=certificate,
        registered_at=row.registered_at if row else 0.0,
    )


def _outcome(answer: LastAnswer | None) -> str:
    if answer is None:
        return ""
    if answer.state == "FAILED" and answer.error_code in LEFT_BEHIND:
        return "left behind"
    return {"RECEIVED": "answered", "ORDERED": "asked", "LATE": "late", "SKIPPED": "not drawn"}.get(
        answer.state, "failed"
    )


def _newest(rows: Sequence[IdentityRow]) -> dict[str, IdentityRow]:
    """The one of each name that holds longest; a revoked one only where there is no other."""
    return {row.name: row for row in sorted(rows, key=lambda r: (r.revoked_at is None, r.not_after))}


def _certificate(row: IdentityRow | None, now: float) -> Certificate | None:
    if row is None:
        return None
    left = row.not_after - now
    state = "holds" if left > SOON_S else "ends soon" if left > 0 else "ended"
    return Certificate(not_after=row.not_after, state="revoked" if row.revoked_at is not None else state)


def _decided(decisions: Sequence[Decision]) -> dict[str, dict[str, str]]:
    """Client -> recipe -> its owner's newest word."""
    found: dict[str, dict[str, str]] = {}
    for made in sorted(decisions, key=lambda d: d.decided_at_ms):
        found.setdefault(made.client_id, {})[made.recipe_sha256] = made.decision
    return found

"""Entries of the coordinator's ledger: what was charged to whom, before which order, and what became of it.

An entry is a frozen dataclass with a canonical form in JSON. Nothing is ever taken back: there is no entry that
lowers a charge. The order of kinds for one charge is reserve, order, then settle or cancel_refused.
"""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

from privacy.ledger.errors import LedgerFormatError
from privacy.ledger.vectors import ORDERS, rdp_vector

if TYPE_CHECKING:
    from collections.abc import Mapping

    from privacy.events import Event
    from privacy.ledger.canonical import Value

_HEX = frozenset("0123456789abcdef")


def reservation_id(run_id: str, round_index: int, attempt: int, client_id: str) -> str:
    """Names one charge, 32 hexadecimal digits; the same charge always has the same name."""
    text = f"{run_id}/{round_index}/{attempt}/{client_id}"
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Genesis:
    """First entry of a ledger.

    Attributes:
      origin: its name in checkpoints.
      key: the public key that signs them, ``name+hash+key``.
    """

    kind: ClassVar[str] = "genesis"
    origin: str
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientKey:
    """A data owner was admitted, or changed its key.

    Attributes:
      client_id: its name.
      public_key: PEM.
    """

    kind: ClassVar[str] = "client_key"
    client_id: str
    public_key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunDeclared:
    """A run and its recipe, before its first charge.

    Attributes:
      run_id: its name.
      recipe_sha256: hash of ``recipe_json``; what clients approve.
      recipe_json: the whole recipe.
    """

    kind: ClassVar[str] = "run"
    run_id: str
    recipe_sha256: str
    recipe_json: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reserve:
    """A charge, written before anybody is asked to train. It counts in full, whatever comes after.

    Attributes:
      reservation_id: see ``reservation_id``.
      run_id: the run.
      round_index: from 0.
      attempt: at this round, from 0.
      client_id: whose budget.
      event: JSON text of ``privacy.events``, byte for byte.
      rdp_nano: ``privacy.ledger.vectors.rdp_vector`` of the event; None is infinite.
    """

    kind: ClassVar[str] = "reserve"
    reservation_id: str
    run_id: str
    round_index: int
    attempt: int
    client_id: str
    event: str
    rdp_nano: tuple[int, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A training order was given.

    Attributes:
      reservation_id: the charge it rests on; empty in a run without privacy.
      run_id: the run.
      round_index: from 0.
      attempt: from 0.
      client_id: to whom.
      message_id: of the message that carried it.
    """

    kind: ClassVar[str] = "order"
    reservation_id: str
    run_id: str
    round_index: int
    attempt: int
    client_id: str
    message_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Settle:
    """An update came back: the charge is real.

    Attributes:
      reservation_id: the charge.
      payload_sha256: of the update; empty if not kept.
    """

    kind: ClassVar[str] = "settle"
    reservation_id: str
    payload_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelRefused:
    """No update came back. The charge is not given back: the client may have trained.

    Attributes:
      reservation_id: the charge.
      reason: why nothing came.
    """

    kind: ClassVar[str] = "cancel_refused"
    reservation_id: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """A data owner allowed a recipe or refused it; signed by the owner, see ``motet.audit.decisions``.

    Attributes:
      client_id: whose decision.
      recipe_sha256: on what.
      decision: ``approved`` or ``refused``.
      policy_sha256: of the owner's policy file in force; empty without one.
      decided_at_ms: when, milliseconds since 1970 (UTC), by the owner's clock.
      made_by: ``owner``, or ``rule`` where the policy decides by itself.
      reason: the owner's words; may be empty.
      signature: of the client's key over all of this, base64.
    """

    kind: ClassVar[str] = "decision"
    client_id: str
    recipe_sha256: str
    decision: str
    policy_sha256: str
    decided_at_ms: int
    made_by: str
    reason: str
    signature: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """An operator allowed a run with privacy that somebody proposed. The coordinator says so; nobody signed it.

    Attributes:
      run_id: the run.
      recipe_sha256: of the recipe that the run has.
      approved_by: ``role/name`` of the operator.
      certificate_sha256: of the certificate that the operator called with; empty for the user of the coordinator's
        home, who called without one.
      approved_at_ms: when, milliseconds since 1970 (UTC), by the coordinator's clock.
    """

    kind: ClassVar[str] = "approval"
    run_id: str
    recipe_sha256: str
    approved_by: str
    certificate_sha256: str
    approved_at_ms: int


Body = Genesis | ClientKey | RunDeclared | Reserve | Order | Settle | CancelRefused | Decision | Approval
_KINDS: Mapping[str, type[Body]] = {
    c.kind: c
    for c in (Genesis, ClientKey, RunDeclared, Reserve, Order, Settle, CancelRefused, Decision, Approval)
}


_TYPES = {
    kind: {field.name: str(field.type) for field in dataclasses.fields(entry_type)}
    for kind, entry_type in _KINDS.items()
}


def reserve_of(run_id: str, round_index: int, attempt: int, client_id: str, event: Event) -> Reserve:
    """The entry of one charge: its name, the event's text byte for byte, and its Renyi vector.

    Args:
      run_id: the run.
      round_index: from 0.
      attempt: from 0.
      client_id: whose budget.
      event: what is charged; an unknown one costs infinity.
    """
    return Reserve(
        reservation_id=reservation_id(run_id, round_index, attempt, client_id),
        run_id=run_id,
        round_index=round_index,
        attempt=attempt,
        client_id=client_id,
        event=event.to_json(),
        rdp_nano=rdp_vector(event),
    )


def identity(body: Body) -> tuple[str, ...]:
    """What a ledger holds at most once; an entry whose identity is there already is not written again."""
    if isinstance(body, ClientKey):
        return (body.kind, body.client_id, body.public_key)
    if isinstance(body, RunDeclared | Approval):
        return (body.kind, body.run_id)
    if isinstance(body, Genesis):
        return (body.kind,)
    if isinstance(body, Decision):
        return (
            body.kind,
            body.client_id,
            body.recipe_sha256,
            body.decision,
            str(body.decided_at_ms),
        )
    if isinstance(body, Order):
        return (
            body.kind,
            body.run_id,
            str(body.round_index),
            str(body.attempt),
            body.client_id,
            body.message_id,
        )
    return (body.kind, body.reservation_id)


def fields_of(body: Body) -> dict[str, Value]:
    """The body as a JSON object, without its kind."""
    fields: dict[str, Value] = {}
    for field in dataclasses.fields(body):
        value = getattr(body, field.name)
        fields[field.name] = list(value) if isinstance(value, tuple) else value
    return fields


def body_from(kind: str, fields: Mapping[str, Value]) -> Body:
    """Read a body back.

    Raises:
      LedgerFormatError: an unknown kind, a missing or unknown field, a value of the wrong type or range.
    """
    if kind not in _KINDS:
        raise LedgerFormatError(f"entry of unknown kind {kind!r}; a newer version wrote it")
    entry_type = _KINDS[kind]
    types = _TYPES[kind]
    if set(fields) != set(types):
        wrong = ", ".join(sorted(set(fields) ^ set(types)))
        raise LedgerFormatError(
            f"a {kind} entry has the fields {', '.join(types)}; missing or unknown: {wrong}"
        )
    values: dict[str, Any] = {name: _typed(name, types[name], fields[name]) for name in types}
    return entry_type(**values)


@lru_cache(maxsize=1024)
def _the_one(vector: tuple[int, ...]) -> tuple[int, ...]:
    """Equal vectors as one object: a fleet is charged the same event again and again; each would take 4 kB."""
    return vector


def _typed(name: str, declared: str, value: Value) -> str | int | tuple[int, ...] | None:
    if declared == "str" and isinstance(value, str):
        if name.endswith("sha256") and value and not (len(value) == 64 and _HEX.issuperset(value)):
            raise LedgerFormatError(f"{name} is no SHA-256: {value[:80]!r}")
        return value
    if declared == "int" and type(value) is int and value >= 0:
        return value
    if declared.startswith("tuple") and value is None:
        return None
    if declared.startswith("tuple") and isinstance(value, list) and len(value) == len(ORDERS):
        numbers = tuple(v for v in value if type(v) is int and v >= 0)
        if len(numbers) == len(value):
            return _the_one(numbers)
    raise LedgerFormatError(f"{name} has an unusable value {str(value)[:80]!r}")

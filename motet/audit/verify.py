"""Check a bundle, offline and without trust in who made it. Needs no torch and no database.

What is checked: every row and its hash; the seal; the chain; the Merkle tree and every signed checkpoint; that
each training order stands after its charge; that each decision on a recipe is signed by its data owner; that each
charge is what its event costs and what the run's recipe says; epsilon, from the raw events, by two accountants;
the countersignatures of data owners; that an earlier bundle, or an earlier checkpoint, is a prefix of this one.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from motet.audit.bundle import Claim, delta_of
from motet.audit.data_sets import DataSetSpending, spending_by_data_set
from motet.audit.decisions import is_signed_by_one_of
from motet.audit.receipts import open_receipts
from motet.audit.rows import Bundle, Finding, read_bundle
from privacy.accounting import epsilon_pld, epsilon_rdp
from privacy.events import PoissonGaussianEvent
from privacy.ledger.canonical import parse_canonical
from privacy.ledger.entries import ClientKey, Reserve
from privacy.ledger.errors import LedgerFormatError, SignatureError
from privacy.ledger.merkle import verify_consistency
from privacy.ledger.notes import open_checkpoint
from privacy.ledger.rules import LedgerState, charged_event, check_entries
from privacy.ledger.vectors import add_vectors, epsilon_of_vector

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from privacy.ledger.canonical import Value

    OnStep = Callable[[str, int, int], None]

# What the same accountant may differ by on another machine.
_SAME = 1e-6
# What PLD may be above Renyi DP by, for its grid alone; see privacy.accounting.
_GRID_FACTOR = 1.05
_GRID = 0.01
_CAUSES = ("damaged", "altered", "moved", "chain")
_Place = tuple[str, int, int]


@dataclass(slots=True, kw_only=True)
class AuditResult:
    """The outcome.

    Attributes:
      findings: what does not hold; none means that all holds.
      notes: what a reader has to know, though it breaks nothing.
      summary: figures for people and for ``--json``.
      clients: recomputed epsilon of each client.
      data_sets: recomputed epsilon of each data set, of clients whose countersignature is known.
      bundle: what was read.
      state: what the ledger adds up to.
    """

    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    clients: list[Claim] = field(default_factory=list)
    data_sets: list[DataSetSpending] = field(default_factory=list)
    bundle: Bundle
    state: LedgerState

    @property
    def is_ok(self) -> bool:
        """Whether all holds."""
        return not self.findings


def verify_bundle(
    data: bytes,
    *,
    previous: bytes | None = None,
    key: str | None = None,
    receipts: Mapping[str, bytes] | None = None,
    on_step: OnStep = lambda _stage, _done, _total: None,
) -> AuditResult:
    """Check a bundle.

    Args:
      data: the file.
      previous: an earlier bundle of the same ledger, or an earlier signed checkpoint (a note).
      key: the ledger's public key as the auditor knows it, ``name+hash+key``; None trusts the one in the bundle.
      receipts: further countersignatures, straight from data owners: label -> document.
      on_step: progress, called with a stage, what is done and what there is to do.

    Returns:
      the result; nothing is raised for content.
    """
    bundle = read_bundle(data)
    state = check_entries(bundle.entries)
    result = AuditResult(bundle=bundle, state=state)
    result.findings = bundle.findings
    for breach in state.findings:
        bundle.report(bundle.entry_rows[breach.index], breach.code, breach.message)
    if key is not None and (bundle.verifier is None or bundle.verifier.to_text() != key):
        bundle.report(1, "key", "the bundle is signed by another key than the one given")
    _claims(result, on_step)
    _decisions(result)
    documents: list[tuple[int | None, str, Value]] = [
        (row, f"row {row}", body) for row, body in bundle.countersignatures
    ]
    for label, text in (receipts or {}).items():
        try:
            documents.append((None, label, parse_canonical(text.rstrip(b"\n"))))
        except LedgerFormatError as error:
            bundle.report(None, "countersignature", f"{label} is no countersignature: {error}")
    _countersignatures(result, documents)
    if previous is not None:
        _consistency(result, previous)
    _notes(result, key)
    _summary(result)
    # Causes before consequences: what is wrong with a row itself, then the rest, each in the order of rows.
    result.findings.sort(key=lambda f: (f.code not in _CAUSES, f.row is None, f.row or 0))
    return result


def _claims(result: AuditResult, on_step: OnStep) -> None:
    """Recompute each client's epsilon from raw events, by PLD and by Renyi DP, and hold the claims to it."""
    state, bundle = result.state, result.bundle
    accounts = state.accounts()
    claimed = {_account(body): (row, body) for row, body in bundle.claims}
    for row, body in bundle.claims:
        if claimed[_account(body)][0] != row:
            bundle.report(row, "claim", "a second claim for the same client and unit")
        if _account(body) not in accounts:
            bundle.report(row, "claim", f"a claim for {body.get('client_id')!r}, who was never charged")
    for done, ((client_id, unit), events) in enumerate(accounts.items()):
        on_step("epsilons", done, len(accounts))
        told = claimed.get((client_id, unit))
        fields: Mapping[str, Value] = told[1] if told else {}
        delta = _number(fields.get("target_delta"))
        least = delta_of(state, client_id)
        delta = delta if delta is not None and 0 < delta < 1 else least
        truth = Claim(
            client_id=client_id,
            target_delta=delta,
            epsilon_pld=epsilon_pld(events, delta),
            epsilon_rdp=epsilon_rdp(events, delta),
            unit=unit,
        )
        result.clients.append(truth)
        if told is None:
            bundle.report(None, "claim", f"no epsilon is claimed for client {truth.name}")
            continue
        row = told[0]
        if delta != least:
            bundle.report(row, "claim_delta", f"delta {delta!r} is claimed, the runs' recipes say {least!r}")
        _hold_claim(result, row, fields, truth)


def _account(body: Mapping[str, Value]) -> tuple[str, str]:
    return str(body.get("client_id")), str(body.get("unit", "example"))


def _hold_claim(result: AuditResult, row: int, body: Mapping[str, Value], truth: Claim) -> None:
    for name, value in (("epsilon_pld", truth.epsilon_pld), ("epsilon_rdp", truth.epsilon_rdp)):
        told = _number(body.get(name))
        if told is None or not (told == value or abs(told - value) <= _SAME * max(1.0, value)):
            result.bundle.report(
                row,
                "epsilon",
                f"client {truth.name}: {name} {body.get(name)} is claimed, the events give {value!r}",
            )
    charged = [charge.rdp_nano for charge in result.state.charges_in(truth.client_id, truth.unit)]
    added = epsilon_of_vector(add_vectors(charged), truth.target_delta)
    bounds = (truth.epsilon_pld, truth.epsilon_rdp, added)
    # PLD is the tighter of the two but for its grid; the charged vectors are Renyi DP at fewer orders.
    if bounds[0] > _GRID_FACTOR * bounds[1] + _GRID or bounds[1] > bounds[2] + _SAME * max(1.0, bounds[1]):
        result.bundle.report(
            row,
            "accountants",
            f"client {truth.name}: the accountants contradict each other: PLD {bounds[0]!r}, Renyi {bounds[1]!r}, "
            f"sum of charged vectors {bounds[2]!r}",
        )


def _number(value: Value) -> float | None:
    try:
        number = float(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return None if number is None or math.isnan(number) else number


def _keys(result: AuditResult) -> dict[str, set[str]]:
    """Client -> the public keys that the ledger knows it by."""
    keys: dict[str, set[str]] = {}
    for entry in result.bundle.entries:
        if isinstance(entry.body, ClientKey):
            keys.setdefault(entry.body.client_id, set()).add(entry.body.public_key.strip())
    return keys


def _decisions(result: AuditResult) -> None:
    """Hold each data owner's decision to the keys of that client; an order after a refusal is told."""
    keys, bundle = _keys(result), result.bundle
    for index, decision in result.state.decisions:
        if not is_signed_by_one_of(decision, sorted(keys.get(decision.client_id, set()))):
            bundle.report(
                bundle.entry_rows[index],
                "decision_signature",
                f"client {decision.client_id} did not sign that recipe {decision.recipe_sha256[:12]} is "
                f"{decision.decision}",
            )
    for order in result.state.after_refusal:
        result.notes.append(
            f"run {order.run_id}, round {order.round_index}: an order went to client {order.client_id} after its owner "
            "had refused the recipe; a client answers such an order without training"
        )


def _countersignatures(result: AuditResult, documents: Sequence[tuple[int | None, str, Value]]) -> None:
    bundle = result.bundle
    keys = _keys(result)
    heard: dict[str, list[dict[str, Value]]] = {}
    for row, label, document in documents:
        try:
            client_id, charges, pem = open_receipts(document)
        except (LedgerFormatError, SignatureError) as error:
            bundle.report(row, "countersignature", f"{label}: {error}")
            continue
        if pem.strip() not in keys.get(client_id, set()):
            bundle.report(
                row, "client_key", f"{label}: the ledger does not know this key of client {client_id}"
            )
            continue
        heard[client_id] = max(heard.get(client_id, []), charges, key=len)  # an owner's ledger only grows
        made_at = document["statement"]["made_at_ms"]  # type: ignore[index, call-overload]
        _compare(result, row, label, client_id, charges, made_at)
    for client_id, charges in sorted(heard.items()):
        result.data_sets += spending_by_data_set(client_id, charges, delta_of(result.state, client_id))
    silent = sorted(set(result.state.events) - set(heard))
    if silent:
        result.notes.append(
            f"no countersignature of {', '.join(silent)}: what was charged there rests on the coordinator's word"
        )


def _compare(
    result: AuditResult,
    row: int | None,
    label: str,
    client_id: str,
    charges: Sequence[Mapping[str, Value]],
    made_at: Value,
) -> None:
    """Hold the coordinator's charges of one client to the client's own."""
    bundle, state = result.bundle, result.state
    own: dict[_Place, str] = {}
    times: Counter[_Place] = Counter()
    for charge in charges:
        place = (str(charge["run_id"]), _whole(charge["round_index"]), _whole(charge["attempt"]))
        own[place] = str(charge["event"])
        times[place] += 1
    ours: dict[_Place, Reserve] = {
        (c.run_id, c.round_index, c.attempt): c for c in state.charges.get(client_id, ())
    }
    for place, reserve in ours.items():
        at = bundle.entry_rows[state.reserve_index[reserve.reservation_id]]
        where = f"run {place[0]}, round {place[1]}, attempt {place[2]}"
        if place not in own:
            if reserve.reservation_id in state.settled:
                bundle.report(
                    at, "not_countersigned", f"{label}: client {client_id} has no charge for {where}"
                )
        elif own[place] != reserve.event:
            bundle.report(
                at,
                "countersigned_otherwise",
                f"{label}: client {client_id} charged itself another event for {where}",
            )
    absent = [place for place in own if place not in ours and not _is_ahead(state, place, own[place])]
    header_at = bundle.header.get("made_at_ms")
    is_later = isinstance(made_at, int) and isinstance(header_at, int) and made_at > header_at
    if absent and is_later:
        result.notes.append(
            f"{label}: {len(absent)} charges of client {client_id} are not in this bundle, which is older than the "
            "countersignature; ask for a newer bundle"
        )
    elif absent:
        first = absent[0]
        bundle.report(
            row,
            "ledger_lacks_charge",
            f"{label}: client {client_id} charged itself for run {first[0]}, round {first[1]}, attempt {first[2]}"
            f"{f' and {len(absent) - 1} more' if len(absent) > 1 else ''}; the ledger holds no such charge",
        )
    again = sum(count - 1 for count in times.values())
    if again:
        result.notes.append(
            f"client {client_id} charged itself {again} times more than the coordinator: work that was begun again"
        )


def _is_ahead(state: LedgerState, place: _Place, event: str) -> bool:
    """Whether a charge is of a round that the run may not have come to: with unit client all are charged at once."""
    training = state.runs.get(place[0], {}).get("training")
    rounds = training.get("rounds") if isinstance(training, dict) else None
    charged = charged_event(event)
    is_whole_run = isinstance(charged, PoissonGaussianEvent) and charged.unit == "client"
    return is_whole_run and isinstance(rounds, int) and place[1] < rounds and place[2] == 0


def _whole(value: Value) -> int:
    return value if type(value) is int else -1


def _consistency(result: AuditResult, previous: bytes) -> None:
    """The ledger of ``previous`` must be a prefix of this one, under the same key."""
    bundle = result.bundle
    if bundle.verifier is None:
        return
    if not previous.startswith(b"{"):
        try:
            checkpoint = open_checkpoint(previous.decode(), bundle.verifier)
        except (UnicodeDecodeError, LedgerFormatError, SignatureError) as error:
            bundle.report(None, "previous", f"the earlier checkpoint is none of this ledger: {error}")
            return
        _prefix(result, checkpoint.size, checkpoint.root, None)
        return
    older = read_bundle(previous)
    if older.verifier is None or older.verifier != bundle.verifier:
        bundle.report(1, "previous", "the earlier bundle is of another ledger, or was signed by another key")
        return
    if older.findings:
        first = older.findings[0]
        bundle.report(
            None, "previous", f"the earlier bundle does not hold by itself: row {first.row}: {first.message}"
        )
        return
    _prefix(result, len(older.leaves), older.tree.root(), older.leaves)


def _prefix(result: AuditResult, size: int, root: bytes, leaves: list[bytes] | None) -> None:
    bundle = result.bundle
    have = len(bundle.tree)
    if have < size:
        row = bundle.entry_rows[-1] if bundle.entry_rows else None
        bundle.report(
            row,
            "older_ledger",
            f"the ledger ends here with {have} entries; it had {size} before: an older copy was put back",
        )
    proof = bundle.tree.consistency_proof(size) if 0 < size <= have else []
    if have >= size and not verify_consistency(
        old_size=size, size=have, proof=proof, old_root=root, root=bundle.tree.root()
    ):
        row = None
        if leaves is not None:
            pairs = zip(leaves, bundle.leaves, strict=False)
            row = bundle.entry_rows[next(i for i, (a, b) in enumerate(pairs) if a != b)]
        bundle.report(
            row,
            "rewritten",
            f"the first {size} entries are not those of before: the ledger was rewritten"
            + (" from this row on" if row else ""),
        )


def _notes(result: AuditResult, key: str | None) -> None:
    bundle, state = result.bundle, result.state
    if key is None and bundle.verifier is not None:
        result.notes.append(
            "the ledger's key was taken from the bundle; compare it with the operator's: "
            f"{bundle.verifier.to_text()}"
        )
    late = sum(entry.recorded_by == "export" for entry in bundle.entries[1:])
    if late:
        result.notes.append(
            f"{late} of {len(bundle.entries)} entries were written at an export, not as they happened: their order "
            "rests on the coordinator's database"
        )
    open_runs = sorted(run for run, recipe in state.runs.items() if recipe.get("privacy") is None)
    if open_runs:
        result.notes.append(f"no privacy section, so no bound at all: run {', '.join(open_runs)}")
    for claim in result.clients:
        if math.isinf(claim.epsilon_pld):
            result.notes.append(
                f"client {claim.name}: a charge is not understood or has no noise: epsilon is infinite"
            )


def _summary(result: AuditResult) -> None:
    bundle, state = result.bundle, result.state
    result.summary = {
        "run_id": bundle.header.get("run_id"),
        "made_at_ms": bundle.header.get("made_at_ms"),
        "key": bundle.verifier.to_text() if bundle.verifier else None,
        "entries": len(bundle.entries),
        "checkpoints": len(bundle.checkpoints),
        "root": bundle.tree.root().hex(),
        "runs": len(state.runs),
        "reservations": len(state.reserves),
        "settled": len(state.settled),
        "orders": state.orders,
        "decisions": len(state.decisions),
        "approvals": len(state.approvals),
        "countersignatures": len(bundle.countersignatures),
    }

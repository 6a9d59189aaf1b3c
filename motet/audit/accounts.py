"""What each client has spent, from the entries of a ledger or a database: epsilon of all its charges together."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from motet.audit.bundle import delta_of
from motet.audit.receipts import EVERY_DATA_SET
from privacy.events import units_of
from privacy.ledger.entries import Reserve, RunDeclared, Settle
from privacy.ledger.rules import LedgerState, charged_event

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from motet.audit.receipts import DataSetNames
    from privacy.events import Event
    from privacy.ledger.entries import Body


@dataclass(slots=True, kw_only=True)
class _Account:
    """Events of one client, all and by run; what is settled apart. ``tags``: the data set of each of ``every``."""

    settled: list[Event] = field(default_factory=list)
    every: list[Event] = field(default_factory=list)
    runs: dict[str, list[Event]] = field(default_factory=lambda: defaultdict(list))
    tags: list[str] = field(default_factory=list)
    charges: int = 0
    open_charges: int = 0
    witnessed: int = 0


def charged_clients(bodies: Sequence[Body]) -> list[str]:
    """Who was charged at all, by name."""
    return sorted({body.client_id for body in bodies if isinstance(body, Reserve)})


def budget_of(
    bodies: Sequence[Body],
    *,
    only: Collection[str] | None = None,
    witnessed: Sequence[Reserve] = (),
    data_sets: Mapping[str, DataSetNames] | None = None,
) -> list[dict[str, Any]]:
    """One row a client and unit, from the entries of a ledger or a database.

    Args:
      bodies: all of them.
      only: clients that are wanted; an accountant takes its time for each.
      witnessed: charges that the clients' own signed records hold and ``bodies`` lack; they count in full.
      data_sets: client -> which of its charges were of which data set, by its owner's word; a charge that is in no
        record counts for each of them.

    Returns:
      ``client_id``, ``unit``, ``target_delta``; ``spent`` (epsilon of what came back), ``reserved`` (how much more all
      charges together cost: it counts in full), ``total``, ``limit`` and ``remaining`` (None without a limit),
      ``charges``, ``open_charges``, ``witnessed_charges`` (by the client's
      word alone), ``runs`` (run id, epsilon of that run by itself) and ``data_sets`` (the owner's tag, epsilon,
      charges, when its record was made; empty where the owner named none). Epsilons of runs do not add
      up to ``total``: composing is cheaper than adding. That of a data set is never above ``total``.
    """
    from privacy.accounting import epsilon_pld

    state = LedgerState()
    accounts: dict[tuple[str, str], _Account] = defaultdict(_Account)
    named = data_sets or {}
    limits: dict[tuple[str, str], float] = {}
    settled = {body.reservation_id for body in bodies if isinstance(body, Settle)}
    by_word = {body.reservation_id for body in witnessed}
    for body in (*bodies, *witnessed):
        if isinstance(body, RunDeclared):
            state.runs[body.run_id] = json.loads(body.recipe_json)
        if not isinstance(body, Reserve):
            continue
        state.charge(body)
        event = charged_event(body.event)
        name = (body.client_id, units_of([event])[0])
        account = accounts[name]
        account.every.append(event)
        told = named.get(body.client_id)
        account.tags.append(told.tags.get(body.reservation_id, EVERY_DATA_SET) if told else EVERY_DATA_SET)
        account.runs[body.run_id].append(event)
        account.charges += 1
        account.witnessed += body.reservation_id in by_word
        if body.reservation_id in settled:
            account.settled.append(event)
        else:
            account.open_charges += 1
        privacy = state.runs.get(body.run_id, {}).get("privacy") or {}
        if privacy.get("epsilon_limit") is not None:
            limit = float(privacy["epsilon_limit"])
            limits[name] = min(limit, limits.get(name, math.inf))
    rows = []
    for (client_id, unit), account in sorted(accounts.items()):
        if only is not None and client_id not in only:
            continue
        delta = delta_of(state, client_id)
        total, spent = epsilon_pld(account.every, delta), epsilon_pld(account.settled, delta)
        limit_or_none = limits.get((client_id, unit))
        rows.append(
            {
                "client_id": client_id,
                "unit": unit,
                "target_delta": delta,
                "spent": spent,
                "reserved": 0.0 if total == spent else total - spent,
                "total": total,
                "limit": limit_or_none,
                "remaining": None if limit_or_none is None else max(0.0, limit_or_none - total),
                "charges": account.charges,
                "open_charges": account.open_charges,
                "witnessed_charges": account.witnessed,
                "runs": [
                    {"run_id": run_id, "epsilon": epsilon_pld(events, delta), "charges": len(events)}
                    for run_id, events in account.runs.items()
                ],
                "data_sets": _of_data_sets(account, delta, named.get(client_id)),
            }
        )
    return rows


def _of_data_sets(account: _Account, delta: float, names: DataSetNames | None) -> list[dict[str, Any]]:
    """A charge without a tag counts for each data set, so none is under-counted by a record that is old."""
    from privacy.accounting import epsilon_pld

    if names is None:
        return []
    rows = []
    for tag in sorted(set(account.tags) - {EVERY_DATA_SET}):
        own = [
            e for e, told in zip(account.every, account.tags, strict=True) if told in (tag, EVERY_DATA_SET)
        ]
        epsilon = epsilon_pld(own, delta)
        rows.append({"data_set": tag, "epsilon": epsilon, "charges": len(own), "told_at": names.made_at})
    return rows

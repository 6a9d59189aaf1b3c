"""What the pages show, as JSON and CSV."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from coordinator.dashboard.pages.clients import ClientsPage
    from coordinator.dashboard.pages.privacy import PrivacyPage
    from coordinator.dashboard.pages.run import RunPage
    from coordinator.dashboard.pages.runs import RunsPage

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def as_json(value: object) -> bytes:
    """One JSON value; a number that JSON does not have is null."""
    return (json.dumps(_plain(value), indent=2, allow_nan=False) + "\n").encode()


def as_csv(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    """Rows under their heads (RFC 4180). Words that a spreadsheet would run as a formula get a quote before them."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(columns)
    writer.writerows([_cell(value) for value in row] for row in rows)
    return out.getvalue().encode()


def runs_csv(page: RunsPage) -> bytes:
    """A row for each run of the page."""
    rows = [asdict(line) for line in page.runs]
    columns = list(rows[0]) if rows else ["run_id"]
    return as_csv(columns, [list(row.values()) for row in rows])


def rounds_csv(page: RunPage) -> bytes:
    """A row for each attempt at a round, with every figure of the round that was closed."""
    values = {f.name: dict(f.points) for f in page.figures}
    names = sorted(set(values) - {"relative_error", "seconds"})
    columns = ["round", "attempt", "state", "started_at", "closed_at", "seconds", "relative_error"]
    columns += ["bytes_up", "bytes_down", "stragglers", "failures", "reason", *names]
    rows = []
    for a in page.attempts:
        of_round = [values[n].get(a.round_index + 1) if a.state == "CLOSED" else None for n in names]
        told = [a.round_index + 1, a.attempt + 1, a.state, a.started_at, a.closed_at, a.seconds]
        told += [a.relative_error, a.bytes_up, a.bytes_down, " ".join(a.stragglers), " ".join(a.failures)]
        rows.append([*told, a.reason, *of_round])
    return as_csv(columns, rows)


def clients_of_run_csv(page: RunPage) -> bytes:
    """A row for each client in each attempt."""
    rows = [
        [a.round_index + 1, a.attempt + 1, client, outcome]
        for a in page.attempts
        for client, outcome in a.outcomes.items()
    ]
    return as_csv(["round", "attempt", "client", "outcome"], rows)


def held_out_csv(page: RunPage) -> bytes:
    """A row for each client and adapter: what it told of it on examples that it does not train on."""
    columns = ["rounds_done", "client", "accuracy", "loss", "num_examples"]
    return as_csv(
        columns, [[s.rounds_done, s.client_id, s.accuracy, s.loss, s.num_examples] for s in page.scores]
    )


def clients_csv(page: ClientsPage) -> bytes:
    """A row for each client of the page; the certificate's columns are empty for who may not see it."""
    columns = ["client", "class", "presence", "seen_at", "rank", "last_run", "last_outcome"]
    columns += ["approved", "refused", "refusal", "certificate", "certificate_not_after", "registered_at"]
    rows = []
    for c in page.clients:
        told = [c.client_id, c.capacity_class, c.presence, c.seen_at, c.rank, c.last_run, c.last_outcome]
        told += [c.approved, c.refused, c.refusal]
        told += [c.certificate.state, c.certificate.not_after] if c.certificate else [None, None]
        rows.append([*told, c.registered_at])
    return as_csv(columns, rows)


def budgets_csv(page: PrivacyPage) -> bytes:
    """A row for each budget, and after it one for each data set that its owner has named."""
    columns = ["client", "unit", "data_set", "target_delta", "spent", "total", "limit", "left"]
    columns += ["charges", "open_charges", "told_at"]
    rows: list[list[object]] = []
    for g in page.gauges or ():
        own = [g.client_id, g.unit]
        rows.append(
            [*own, "", g.target_delta, g.spent, g.total, g.limit, g.left, g.charges, g.open_charges, None]
        )
        rows += [
            [*own, d.data_set, g.target_delta, None, d.total, d.limit, d.left, d.charges, None, d.told_at]
            for d in g.data_sets
        ]
    return as_csv(columns, rows)


def _plain(value: Any) -> Any:  # noqa: ANN401 - JSON
    if hasattr(value, "__dataclass_fields__"):
        value = asdict(value)
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _cell(value: object) -> object:
    if isinstance(value, str) and value.startswith(_FORMULA):
        return "'" + value
    return "" if value is None else value

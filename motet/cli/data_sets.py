"""Which data set a file is to a client's ledger, and what was spent on it, for ``motet client data``."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


def data_set_facts(
    home: Path, data: Path, *, person_column: str | None = None, target_delta: float = 1e-5
) -> dict[str, Any]:
    """Look a file up; nothing is written.

    Args:
      home: the client's folder.
      data: file or folder of examples.
      person_column: column of persons, where runs protect persons.
      target_delta: of the epsilons.

    Returns:
      ``data_set`` (its name, None if it was never charged or seen), ``rows``, ``known_rows``, ``overlaps`` (name and
      shared rows), ``joined`` (further names whose charges count), ``target_delta`` and ``spent``: for each unit
      ``unit``, ``epsilon`` (None where infinite) and ``charges``.

    Raises:
      LedgerError: the ledger or the marks are damaged.
      DataError: the file can not be read.
    """
    from client.ledger import ClientLedger
    from client.lineage import Lineages
    from motet.data.examples import read_rows
    from privacy.accounting import epsilon_pld
    from privacy.events import of_unit, units_of

    found = Lineages(home).look(data, person_column=person_column)
    events = ClientLedger(home / "ledger.jsonl").spent(*(found.names if found else ()))
    if found is not None:
        rows = found.num_rows
    else:
        rows = sum(p.is_file() for p in data.rglob("*")) if data.is_dir() else sum(1 for _ in read_rows(data))
    spent = []
    for unit in units_of(events):
        own = of_unit(events, unit)
        epsilon = epsilon_pld(own, target_delta)
        spent.append(
            {"unit": unit, "epsilon": epsilon if math.isfinite(epsilon) else None, "charges": len(own)}
        )
    return {
        "data_set": found.name if found else None,
        "rows": rows,
        "known_rows": found.known_rows if found else 0,
        "overlaps": [
            {"data_set": o.lineage, "shared_rows": o.shared_rows} for o in (found.overlaps if found else ())
        ],
        "joined": list(found.names[1:]) if found else [],
        "target_delta": target_delta,
        "spent": spent,
    }


def print_facts(facts: dict[str, Any]) -> None:
    """The facts for people."""
    if facts["data_set"] is None:
        print(f"{facts['rows']} rows, none of them seen before: a new data set, with a budget of its own")
    else:
        print(f"data set {facts['data_set']}: {facts['known_rows']} of {facts['rows']} rows were seen before")
    if len(facts["overlaps"]) > 1:
        shared = ", ".join(f"{o['shared_rows']} with {o['data_set']}" for o in facts["overlaps"])
        print(
            f"it shares rows with several data sets: {shared}. Used in a run, it joins their budgets into one."
        )
    for row in facts["spent"]:
        epsilon = "infinite" if row["epsilon"] is None else f"{row['epsilon']:.3f}"
        print(
            f"spent in unit {row['unit']}: epsilon {epsilon} at delta {facts['target_delta']:g}, "
            f"{row['charges']} charges"
        )
    if not facts["spent"]:
        print("nothing was spent on it")

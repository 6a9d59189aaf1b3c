"""A coordinator killed before each commit, after it and after its effect, on SQLite and PostgreSQL: what that cost.

Run: ``python benchmarks/crash_matrix.py`` (about twelve minutes). Writes ``benchmarks/results/crash_matrix.json``; with
``--missing`` what is in it stays, and places that a new transition has brought are added.
Service loop, lead, engine, store, ledger and artifacts are the product's; clients answer from a script in memory
(tests/support). ``serving again`` counts from the fork of the next coordinator until it leads, the ledger reconciled;
imports are done before the fork.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

from crash_matrix import Case, Site, Whole, die_and_return, new_home, places_to_die, whole_run  # noqa: E402
from databases import Place, postgresql_server, schema_in  # noqa: E402


@contextlib.contextmanager
def new_site(dialect: str, server, folder: Path):
    home = new_home(folder)
    if dialect == "sqlite":
        yield Site(Place(dialect=dialect, where=home / "motet.db", ledger=home / "ledger"), home)
        return
    with schema_in(server) as url:
        yield Site(Place(dialect=dialect, where=url, ledger=home / "ledger"), home)


def summary(cases: list[Case], whole: Whole) -> dict[str, object]:
    times = sorted(case.ready_s for case in cases)
    return {
        "places to die": len(cases),
        "cases with a broken promise": sum(bool(case.faults) for case in cases),
        "acknowledged updates, rounds and runs held against the database": sum(c.acknowledged for c in cases),
        "charges of a run without a death": whole.charges,
        "charges missing afterwards, most": max((max(-c.extra_charges, 0) for c in cases), default=0),
        "charges too many afterwards, most": max((c.extra_charges for c in cases), default=0),
        "rounds repeated, most": max(case.rounds_repeated for case in cases),
        "orders sent again, most": max(case.orders_repeated for case in cases),
        "serving again, p50 s": round(statistics.median(times), 3),
        "serving again, p95 s": round(times[int(0.95 * (len(times) - 1))], 3),
        "serving again, most s": round(times[-1], 3),
    }


def main() -> None:
    """The whole table on both databases; a line for each case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "crash_matrix.json")
    parser.add_argument("--missing", action="store_true", help="only places that the file lacks; adds them")
    options = parser.parse_args()
    table: dict[str, Any] = json.loads(options.out.read_text()) if options.missing else {}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(postgresql_server())
        with new_site("sqlite", server, folder) as site:
            whole = whole_run(site)
        if table.setdefault("adapter of a run without a death", whole.adapter_sha256) != whole.adapter_sha256:
            sys.exit(f"{options.out} is of runs with another adapter: make all of it anew")
        for dialect in ("sqlite", "postgresql"):
            known = {c["at"]: Case(dialect=dialect, **c) for c in table.get(dialect, {}).get("cases", ())}
            cases = []
            for at in places_to_die(whole):
                if at in known:
                    cases.append(known[at])
                    continue
                with new_site(dialect, server, folder) as site:
                    case = die_and_return(site, at, whole)
                cases.append(case)
                print(dialect, at, f"{case.ready_s:.2f} s", "; ".join(case.faults) or "kept", flush=True)
            table[dialect] = {
                "summary": summary(cases, whole),
                "cases": [{k: v for k, v in asdict(c).items() if k != "dialect"} for c in cases],
            }
            print(json.dumps(table[dialect]["summary"], indent=1), flush=True)
    options.out.write_text(json.dumps(table, indent=1) + "\n")
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()

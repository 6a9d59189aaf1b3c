"""300 times kill -9 at random moments, over SQLite and over PostgreSQL: what was forgotten, how long a restart takes.

Run: ``python benchmarks/kill_campaign.py`` (about 15 minutes). Writes ``benchmarks/results/kill_campaign.json``.
The coordinator, its store and its ledger are the product's; clients answer from memory (tests/support).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

from databases import Place, postgresql_server, schema_in  # noqa: E402
from kill_campaign import Campaign, kill_campaign  # noqa: E402


def main() -> None:
    """Both campaigns; a line for each figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "kill_campaign.json")
    options = parser.parse_args()
    found: dict[str, Campaign] = {}
    for dialect in ("sqlite", "postgresql"):
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            where = folder / "motet.db"
            if dialect == "postgresql":
                where = stack.enter_context(schema_in(stack.enter_context(postgresql_server())))
            place = Place(dialect=dialect, where=where, ledger=folder / "ledger")
            found[dialect] = kill_campaign(place, folder, kills=options.kills, seed=options.seed)
        print(dialect, json.dumps(found[dialect].as_json(), indent=1), flush=True)
    figures = {dialect: seen.as_json() for dialect, seen in found.items()}
    options.out.write_text(json.dumps({"seed": options.seed, **figures}, indent=1) + "\n")
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()

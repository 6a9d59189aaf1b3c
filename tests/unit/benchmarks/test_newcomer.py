"""The newcomer's figures are of the page as it stands, and the documents state no others."""

import json
import re
from pathlib import Path

from document_commands import bare, blocks_of

ROOT = Path(__file__).resolve().parents[3]
TOLD = json.loads((ROOT / "benchmarks/results/newcomer.json").read_text())


def test_every_step_of_the_page_was_timed_and_the_sums_are_theirs():
    page = (ROOT / "docs/start.md").read_text()
    assert list(TOLD["steps_s"])[1:] == re.findall(r"^## (\d+\. .*)$", page, re.MULTILINE)
    shown = [bare(c).split()[:3] for b in blocks_of("docs/start.md") if b.has_commands for c in b.commands()]
    typed = [row["command"].split()[:3] for row in TOLD["commands"] if "load.py" not in row["command"]]
    assert typed == [["git", "clone"], *shown]
    assert abs(sum(row["seconds"] for row in TOLD["commands"]) - TOLD["total_s"]) < 0.2


def test_the_documents_state_the_seconds_that_were_measured():
    until, cpu = f"{TOLD['until_exported_s']:.0f} s", f"{TOLD['cpu_s']:.0f} CPU-seconds"
    for name in ("docs/start.md", "benchmarks/README.md"):
        text = (ROOT / name).read_text()
        assert until in text, name
        assert cpu in text, name

"""How long commands take that do next to nothing: help, a list, the answer to Tab.

CPU-seconds of a fresh process and of its children, which other work on the machine does not change; medians of
``--repeats``. Run: python benchmarks/startup.py
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/support")]
RESULT = Path(__file__).parent / "results/startup.json"


def cpu_seconds(arguments, **environment):
    """Of one process, user and system."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "motet.cli.main", *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "80", **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if "Traceback" in done.stderr or "error:" in done.stderr:
        sys.exit(done.stderr)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def tab(line):
    """The environment in which a shell asks what could come next."""
    words = line.split(" ")
    return {
        "_MOTET_COMPLETE": "complete_bash",
        "COMP_WORDS": "\n".join(words),
        "COMP_CWORD": str(len(words) - 1),
    }


def main():
    """Prints a table and writes the result."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    from control_house import house

    from motet.recipe import load_recipe

    with tempfile.TemporaryDirectory() as folder, house(Path(folder) / "fed") as served:
        for number in range(20):
            served.store.submit_run(load_recipe(ROOT / "examples/recipes/tiny.yaml"), run_id=f"r-{number:02}")
        away = ["--coordinator", served.address, "--identity", str(served.identity("operator"))]
        home = str(Path(folder) / "fed")
        cases = {
            "motet --help": (["--help"], {}),
            "motet run list --help": (["run", "list", "--help"], {}),
            "motet run list, a coordinator that runs": (["run", "list", *away], {}),
            "motet run list, a home that nobody serves": (["run", "list", "--home", home], {}),
            "Tab after: motet wa": ([], tab("motet wa")),
            "Tab after: motet run show --home fed r-": ([], tab(f"motet run show --home {home} r-")),
            "Tab after: motet plan examples/recipes/": ([], tab("motet plan examples/recipes/")),
        }
        figures = {
            name: round(statistics.median(cpu_seconds(words, **told) for _ in range(repeats)), 3)
            for name, (words, told) in cases.items()
        }
    RESULT.write_text(json.dumps({"repeats": repeats, "cpu_seconds": figures}, indent=2) + "\n")
    for name, seconds in figures.items():
        print(f"{seconds:6.2f} s  {name}")


if __name__ == "__main__":
    main()

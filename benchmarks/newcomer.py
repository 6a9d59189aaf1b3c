"""How long a newcomer takes from a clone to an exported adapter: ``python benchmarks/newcomer.py``.

It makes a fresh clone in a temporary folder, opens one bash there, and types every command of docs/start.md as it
stands, ``make setup`` with a fresh virtual environment included, and waits until what it started is ready, as a person
would. Reading and thinking are not in it. Ports are the page's: nothing else may listen on 8443. Written to
results/newcomer.json: seconds of each step (heading of the page) and of each command, CPU seconds of all, and the load
of the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

from document_commands import bare, blocks_of, is_as_shown  # noqa: E402

PAGE = "docs/start.md"
RESULTS = ROOT / "benchmarks/results/newcomer.json"
READY = {"motet coordinator start": ("coordinator ready", 1), "motet client start": ("is connected", 3)}
MARK = "newcomer-step-is-over"


class Terminal:
    """One bash that is typed into; its output goes to a file."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, folder.parent / "terminal.log"
        kept = {
            k: v
            for k, v in os.environ.items()
            if k in {"PATH", "HOME", "LANG", "PIP_INDEX_URL", "PIP_CONFIG_FILE"}
        }
        self._out = self.log.open("wb")
        self._bash = subprocess.Popen(
            ["bash"],
            cwd=folder,
            env=kept | {"COLUMNS": "100"},
            stdin=subprocess.PIPE,
            stdout=self._out,
            stderr=self._out,
        )

    def type(self, command: str, within_s: float = 1800.0) -> tuple[float, str]:
        """Type it and wait for its end, or until what it left in the background is ready; (seconds, output)."""
        began, at = time.monotonic(), self.log.stat().st_size
        assert self._bash.stdin is not None
        self._bash.stdin.write(f"{command}\necho {MARK} $?\n".encode())
        self._bash.stdin.flush()
        waits = [ready for start, ready in READY.items() if start in command]
        while True:
            text = self.log.read_bytes()[at:].decode(errors="replace")
            if (done := re.search(rf"^{MARK} (\d+)$", text, re.MULTILINE)) and all(
                text.count(words) >= count for words, count in waits
            ):
                break
            if time.monotonic() - began > within_s:
                raise SystemExit(f"not within {within_s:g} s: {command}\n{text}")
            time.sleep(0.02)
        if done[1] != "0":
            raise SystemExit(f"{command} ended with {done[1]}\n{text}")
        return time.monotonic() - began, text.replace(f"{done[0]}\n", "")

    def close(self) -> None:
        """Leave the terminal, once what it had in the background has ended."""
        assert self._bash.stdin is not None
        self._bash.stdin.write(b"wait\n")
        self._bash.stdin.close()
        self._bash.wait(60)
        self._out.close()


def headings() -> list[tuple[int, str]]:
    """(line, heading) of the page's steps."""
    lines = (ROOT / PAGE).read_text().splitlines()
    return [(n, line[3:]) for n, line in enumerate(lines, 1) if line.startswith("## ")]


def walk(terminal: Terminal) -> list[dict[str, object]]:
    """Every command of the page with its step and seconds."""
    run_id, rows = "", []
    for block in blocks_of(PAGE):
        if block.language == "python":
            (terminal.folder / "load.py").write_text(block.text)
            commands = ["python load.py"]
        elif block.has_commands:
            commands = block.commands()
        else:
            continue
        step = max(h for h in headings() if h[0] <= block.line)[1]
        printed = ""
        for command in commands:
            seconds, text = terminal.type(re.sub(r"\bRUN\b", run_id, command))
            printed += text
            if found := re.search(r"^(r-[0-9a-f]+) is queued", text, re.MULTILINE):
                run_id = found[1]
            rows.append({"step": step, "command": bare(command), "seconds": round(seconds, 2)})
            print(f"{seconds:8.2f} s  {bare(command).splitlines()[0]}", flush=True)
        # What runs in the background of the same terminal may say something in between.
        printed = re.sub(r"^\d{4}-\d\d-\d\d [\d:]+,\d{3} .*\n", "", printed, flags=re.MULTILINE)
        if block.prints is not None and not is_as_shown(block.prints, printed):
            print(f"{PAGE}:{block.line} shows\n{block.prints}and it was\n{printed}", file=sys.stderr)
    return rows


def main() -> None:
    """Clone, walk, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULTS)
    out = parser.parse_args().out
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made) / "motet"
        began = time.monotonic()
        subprocess.run(
            ["git", "-c", "advice.detachedHead=false", "clone", "--quiet", f"file://{ROOT}", str(folder)],
            check=True,
        )
        cloned = time.monotonic() - began
        load = os.getloadavg()[0]
        terminal = Terminal(folder)
        try:
            rows = [{"step": "clone", "command": "git clone", "seconds": round(cloned, 2)}, *walk(terminal)]
        finally:
            terminal.close()
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
    steps: dict[str, float] = {}
    for row in rows:
        steps[str(row["step"])] = round(steps.get(str(row["step"]), 0.0) + float(str(row["seconds"])), 2)
    exported = next(n for n, row in enumerate(rows) if str(row["command"]).startswith("motet export"))
    told = {
        "until_exported_s": round(sum(float(str(r["seconds"])) for r in rows[: exported + 1]), 1),
        "total_s": round(sum(steps.values()), 1),
        "cpu_s": round(used.ru_utime + used.ru_stime, 1),
        "steps_s": steps,
        "commands": rows,
        "machine": {
            "cpus": os.cpu_count(),
            "load_before": round(load, 2),
            "load_after": round(os.getloadavg()[0], 2),
            "python": sys.version.split()[0],
        },
    }
    out.write_text(json.dumps(told, indent=2) + "\n")
    print(f"{told['until_exported_s']} s from clone to exported adapter, {told['total_s']} s in all: {out}")


if __name__ == "__main__":
    main()

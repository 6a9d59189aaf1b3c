"""Memory of a tree of processes, shared pages counted by their share."""

from __future__ import annotations

import re
from pathlib import Path

_PSS = re.compile(r"^Pss:\s+(\d+) kB", re.MULTILINE)


def bytes_below(pid: int) -> int:
    """Proportional set size of ``pid`` and all processes below it; those that end meanwhile count nothing."""
    total, left = 0, [pid]
    while left:
        folder = Path(f"/proc/{left.pop()}")
        try:
            found = _PSS.search((folder / "smaps_rollup").read_text())
            total += int(found[1]) * 1024 if found else 0
        except OSError:
            pass  # it has ended, or it is not ours to look at
        try:
            for thread in (folder / "task").iterdir():
                left += [int(word) for word in (thread / "children").read_text().split()]
        except OSError:
            continue
    return total

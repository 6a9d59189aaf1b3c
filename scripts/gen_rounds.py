"""Write the made parts of docs/rounds.md; with --check say whether they are current, and change nothing."""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from coordinator.crashpoints import crash_points  # noqa: E402
from coordinator.rounds.effects import EFFECTS  # noqa: E402
from coordinator.rounds.table import ABSENT, STATES, TRANSITIONS  # noqa: E402

TARGET = ROOT / "docs/rounds.md"
FIGURES = ROOT / "benchmarks/results/crash_matrix.json"


def diagrams() -> str:
    """A state diagram for each subject."""
    parts = []
    for subject, states in STATES.items():
        lines = [f"**{subject}**", "```mermaid", "stateDiagram-v2"]
        left = set()
        for t in TRANSITIONS:
            if t.subject == subject and not t.is_note:
                for before in t.before:
                    lines.append(f"  {before or '[*]'} --> {t.after}: {t.verb}")
                    left.add(before)
        lines += [f"  {state} --> [*]" for state in states if state not in left]
        parts.append("\n".join([*lines, "```"]))
    return "\n\n".join(parts)


def transitions() -> str:
    """The table, a line a transition."""
    lines = ["| transition | from | to | told again or overtaken in | transaction |", "|---|---|---|---|---|"]
    for t in TRANSITIONS:
        before = ", ".join(s or "nothing" for s in t.before) or "any"
        unmoved = ", ".join(s for s in t.unmoved if s != ABSENT) or "-"
        own = f"of `{t.within}`" if t.within else "own"
        lines.append(f"| `{t.name}` | {before} | {t.after or 'stays'} | {unmoved} | {own} |")
    return "\n".join(lines)


def effects() -> str:
    """The table, a line an effect."""
    lines = ["| effect | after | due while | done when | twice is once because |", "|---|---|---|---|---|"]
    for e in EFFECTS:
        after = ", ".join(f"`{name}`" for name in e.after)
        lines.append(f"| {e.name} | {after} | {e.pending} | {e.done} | {e.repeated} |")
    return "\n".join(lines)


def figures() -> str:
    """What the crash matrix measured."""
    told = json.loads(FIGURES.read_text(encoding="utf-8"))
    kinds = [k for k in told if isinstance(told[k], dict)]
    lines = [f"| | {' | '.join(kinds)} |", "|---|" + "---|" * len(kinds)]
    lines += [
        f"| {row} | {' | '.join(str(told[kind]['summary'][row]) for kind in kinds)} |"
        for row in told[kinds[0]]["summary"]
    ]
    return f"{len(crash_points())} crash points.\n\n" + "\n".join(lines)


PARTS = {"states": diagrams, "transitions": transitions, "effects": effects, "figures": figures}


def page(text: str) -> str:
    """The page with its made parts as they are now."""
    for name, make in PARTS.items():
        begin, end = f"<!-- made by scripts/gen_rounds.py: {name} -->\n", "<!-- end -->\n"
        start = text.index(begin) + len(begin)
        text = text[:start] + make() + "\n" + text[text.index(end, start) :]
    return text


current = TARGET.read_text(encoding="utf-8")
if "--check" in sys.argv:
    if page(current) != current:
        sys.exit("docs/rounds.md is not current: run python scripts/gen_rounds.py")
else:
    TARGET.write_text(page(current), encoding="utf-8")

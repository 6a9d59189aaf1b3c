"""What a check found."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable


class Level(StrEnum):
    """How bad it is; only a failure makes the command fail."""

    OK = "ok"
    WARNING = "warning"
    FAILURE = "failure"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of the report.

    Attributes:
      level: how bad it is.
      check: short name of the check.
      where: file, address or package.
      what: what was found.
      mend: the command that mends it, or what to do; empty where nothing is to do.
    """

    level: Level
    check: str
    where: str
    what: str
    mend: str = ""


def ok(check: str, where: object, what: str) -> Finding:
    """Nothing to do."""
    return Finding(level=Level.OK, check=check, where=str(where), what=what)


def warning(check: str, where: object, what: str, mend: str) -> Finding:
    """Works now, and will not for ever."""
    return Finding(level=Level.WARNING, check=check, where=str(where), what=what, mend=mend)


def failure(check: str, where: object, what: str, mend: str) -> Finding:
    """Does not work, or is not safe."""
    return Finding(level=Level.FAILURE, check=check, where=str(where), what=what, mend=mend)


def as_json(findings: Iterable[Finding]) -> dict[str, Any]:
    """``healthy`` and all findings."""
    rows = [asdict(f) for f in findings]
    return {"healthy": all(r["level"] != Level.FAILURE for r in rows), "findings": rows}

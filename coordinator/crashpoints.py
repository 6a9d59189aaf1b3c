"""Named places at which a test lets this process die, as ``kill -9`` would; nothing anywhere else.

The names are generated from the table of transitions, so that none is missed. ``round.plan.after_commit`` in
``MOTET_CRASH_AT`` names one, ``round.plan.after_commit:3`` its third time. Unset, a crash point costs one comparison.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

from coordinator.rounds.table import TRANSITIONS

if TYPE_CHECKING:
    from collections.abc import Callable

VARIABLE = "MOTET_CRASH_AT"
BEFORE_COMMIT, AFTER_COMMIT, AFTER_EFFECT = "before_commit", "after_commit", "after_effect"


def crash_points() -> tuple[str, ...]:
    """All names: before and after each transaction of the table, and after each effect."""
    names = []
    for transition in TRANSITIONS:
        if not transition.within:
            names += [f"{transition.name}.{BEFORE_COMMIT}", f"{transition.name}.{AFTER_COMMIT}"]
        if transition.effect:
            names.append(f"{transition.name}.{AFTER_EFFECT}")
    return tuple(names)


def crash_at(name: str, nth: int = 1) -> None:
    """Let this process die when it comes to a place for the ``nth`` time.

    Raises:
      ValueError: there is no such place.
    """
    if name not in crash_points():
        raise ValueError(f"{name!r} is no crash point; there are: {', '.join(crash_points())}")
    left = nth

    def die(reached: str) -> None:
        nonlocal left
        if reached == name:
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)

    watch(die)


def watch(seen: Callable[[str], None] | None) -> None:
    """Call ``seen`` with the name of every place that is reached from now on; None: no longer."""
    global _seen
    _seen = seen


def crashpoint(name: str) -> None:
    """A place."""
    if _seen is not None:
        _seen(name)


_seen: Callable[[str], None] | None = None
if os.environ.get(VARIABLE):
    _name, _, _nth = os.environ[VARIABLE].partition(":")
    crash_at(_name, int(_nth or 1))

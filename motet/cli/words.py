"""Checks of what people type, with answers in words."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from motet.errors import MotetError

if TYPE_CHECKING:
    from collections.abc import Sequence


class UsageError(MotetError):
    """An option has a value that can not be used."""

    exit_code = 2


def check_choice(option: str, value: str, choices: Sequence[str]) -> None:
    """Raise unless ``value`` is one of ``choices``; the nearest is named."""
    if value not in choices:
        near = difflib.get_close_matches(value, choices, n=1)
        raise UsageError(
            f"{option}: {value!r} is none of {', '.join(choices)}",
            hint=f"did you mean {near[0]}?" if near else "",
        )


def check_address(value: str) -> None:
    """Raise unless ``value`` is HOST:PORT."""
    host, _, port = value.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise UsageError(f"--listen: {value!r} is not HOST:PORT", hint="for example 127.0.0.1:8443")

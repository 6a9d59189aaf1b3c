"""Checks of what people type, with answers in words."""

from __future__ import annotations

import difflib
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from motet.errors import MotetError

if TYPE_CHECKING:
    from collections.abc import Sequence


LogFormat = Annotated[
    str, typer.Option("--log-format", help="As text lines for people, as json one object a line.")
]


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


def check_address(value: str, option: str = "--listen", *, least_port: int = 1) -> None:
    """Raise unless ``value`` is HOST:PORT. ``least_port`` 0: also the port that means a free one."""
    host, _, port = value.rpartition(":")
    if not host or not port.isdigit() or not least_port <= int(port) < 65536:
        raise UsageError(f"{option}: {value!r} is not HOST:PORT", hint="for example 127.0.0.1:8443")


def read_secret(option: str, text: str | None, file: str | None) -> str:
    """A secret that was typed, or is in a file, or comes by standard input (``-``).

    Raises:
      UsageError: neither or both are given, or the file can not be read.
    """
    if (text is None) == (file is None):
        raise UsageError(
            f"give {option} or {option}-file", hint=f"{option}-file keeps it out of the shell's history"
        )
    if text == "-" or file == "-":
        return sys.stdin.read(65536)
    if text is not None:
        return text
    try:
        with Path(str(file)).open(encoding="utf-8") as opened:
            return opened.read(65536)
    except (OSError, UnicodeDecodeError) as e:
        raise UsageError(
            f"{option}-file: {file} can not be read", hint="check the path and its rights"
        ) from e


def agree(question: str) -> None:
    """Ask on standard error, and go on only after a yes.

    Raises:
      UsageError: a no, or nobody there to answer.
      KeyboardInterrupt: Ctrl-C.
    """
    import typer

    try:
        is_yes = typer.confirm(question, err=True)
    except typer.Abort as e:
        if isinstance(e.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        is_yes = False
    if not is_yes:
        raise UsageError(
            "nothing was changed: the answer was not yes", hint="--yes says yes without a question"
        )


def parse_duration(option: str, value: str) -> float:
    """Seconds of ``90s``, ``30m``, ``24h`` or ``7d``; raises on anything else."""
    found = re.fullmatch(r"([0-9]{1,6})([smhd])", value)
    if found is None:
        raise UsageError(f"{option}: {value!r} is no time", hint="for example 30m, 24h or 7d")
    return int(found[1]) * {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}[found[2]]


def check_at_least(option: str, value: float, least: float) -> None:
    """Raise unless ``value`` is a finite number of at least ``least``."""
    if not least <= value < float("inf"):
        raise UsageError(f"{option}: {value:g} is not {least:g} or more")

"""Where output goes: colour only for a terminal that wants it, bars only where they can be redrawn, 80 columns else.

``NO_COLOR`` takes the colour away, ``FORCE_COLOR`` gives it to a file as well, ``TERM=dumb`` has neither colour nor
bars. Texts of other machines are shown without control characters: a terminal would obey them.
"""

from __future__ import annotations

import io
import os
import sys
import unicodedata
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

    from rich.console import Console
    from rich.table import Table

NARROW = 80
_DUMB = ("dumb", "unknown")


def console(*, is_error: bool = False) -> Console:
    """A console on standard output, or on standard error; nothing in it is read as markup, highlighted or obeyed."""
    from motet.cli.plain_console import PlainConsole

    return PlainConsole(stderr=is_error, markup=False, highlight=False, emoji=False)


def listing(
    *headers: str,
    title: str | None = None,
    whole: Collection[str] = (),
    right: Collection[str] = (),
    is_open: bool = False,
) -> Table:
    """A table that fits its console and cuts no name: what is too long goes on in the next line of its cell.

    Args:
      *headers: of the columns.
      title: above it.
      whole: columns that stay in one piece: figures, which read otherwise when they are broken.
      right: of those, the ones that stand to the right.
      is_open: without lines, where columns are many.
    """
    from rich.box import HEAVY_HEAD
    from rich.table import Table

    table = Table(
        title=title, title_justify="left", box=None if is_open else HEAVY_HEAD, pad_edge=not is_open
    )
    for header in headers:
        table.add_column(
            header,
            overflow="fold",
            no_wrap=header in whole or header in right,
            justify="right" if header in right else "left",
        )
    return table


def bear_every_letter() -> None:
    """A terminal or a file of few letters (ASCII) gets question marks for those it lacks, in place of an error."""
    for stream in (sys.stdout, sys.stderr):
        if (
            isinstance(stream, io.TextIOWrapper)
            and (stream.encoding or "").lower().replace("-", "") != "utf8"
        ):
            stream.reconfigure(errors="replace")


def is_live(stream: IO[str] | None = None) -> bool:
    """Whether what was written can be redrawn: a terminal that is not dumb. ``FORCE_COLOR`` makes no file one."""
    stream = stream or sys.stdout
    try:
        is_terminal = stream.isatty()
    except ValueError:  # closed
        return False
    return is_terminal and os.environ.get("TERM", "").lower() not in _DUMB


def printable(text: str) -> str:
    """``text`` with each control or formatting character as a question mark; line ends are spaces."""
    return "".join(
        " " if c in "\n\t" else "?" if unicodedata.category(c) in {"Cc", "Cf", "Cs"} else c for c in text
    )


def duration(seconds: float) -> str:
    """``45 s``, ``1 min 50 s``, ``2 h 05 min`` or ``3 d 4 h``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def size(count: float) -> str:
    """``1.4 MB`` (powers of 1000)."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"

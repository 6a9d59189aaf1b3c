"""A console whose texts no terminal obeys: colours and bars are its own, control characters in what it shows are not.

Names, reasons and findings come from other machines, and of a ledger that is audited from somebody who may lie: words
that move the cursor could write "all holds" over what does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.segment import Segment

from motet.cli.screen import printable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import ConsoleOptions, RenderableType


class PlainConsole(Console):
    """Rich's console; every text is cleaned as it is drawn, wherever it came from."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Segments of the renderable, without control characters but line ends and Rich's own."""
        for segment in super().render(renderable, options):
            text = segment.text
            if segment.control is not None or text.replace("\n", "").isprintable():
                yield segment
            else:
                yield Segment("\n".join(printable(line) for line in text.split("\n")), segment.style)

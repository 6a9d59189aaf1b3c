"""A bar for the order that a client works on, where somebody looks: never in a log or a file."""

from __future__ import annotations

import atexit
import sys
from typing import TYPE_CHECKING

from motet.cli.screen import is_live

if TYPE_CHECKING:
    from collections.abc import Callable

    from motet.cli.progress import StepProgress
    from motet.wire.messages import TrainOrder


def training_bars(*, is_wanted: bool) -> Callable[[TrainOrder, int, int], None] | None:
    """For ``ClientWorker(on_step=...)``: steps of the current order with time left; None where nobody looks."""
    if not (is_wanted and is_live(sys.stderr)):
        return None
    from motet.cli.progress import StepProgress

    shown: list[tuple[str, StepProgress]] = []
    atexit.register(_close, shown)  # a bar hides the cursor: whatever ends the client gives it back

    def on_step(order: TrainOrder, done: int, total: int) -> None:
        stage = f"round {order.round_index + 1}"
        if not shown or shown[0][0] != stage:
            _close(shown)
            shown[:] = [(stage, StepProgress().__enter__())]
        shown[0][1].on_step(stage, done, total)
        if done >= total:
            _close(shown)

    return on_step


def _close(shown: list[tuple[str, StepProgress]]) -> None:
    for _, progress in shown:
        progress.__exit__(None, None, None)
    shown.clear()

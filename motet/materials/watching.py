"""How much of a download is there: the size of a folder, looked at while a registry's client fills it."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LOOK_S = 0.5


@contextmanager
def watched_size(folder: Path, on_bytes: Callable[[int], None] | None) -> Iterator[None]:
    """Tell the bytes below ``folder`` from a thread, twice a second, until the block ends."""
    if on_bytes is None:
        yield
        return
    over = threading.Event()

    def look() -> None:
        while not over.wait(LOOK_S):
            on_bytes(size_of(folder))

    thread = threading.Thread(target=look, name="download-size", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def size_of(folder: Path) -> int:
    """Bytes of all files below; what vanishes meanwhile is not counted."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:
            continue
    return total

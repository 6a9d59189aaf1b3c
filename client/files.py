"""Files that are whole or not there: written beside, synced, renamed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def write_durably(path: Path, data: bytes) -> None:
    """Replace ``path`` by ``data``; after a crash either the old or the new content is there.

    Raises:
      OSError: the folder is missing, not writable, or full.
    """
    staging = path.with_name(path.name + ".tmp")
    with staging.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    staging.rename(path)

"""Files that are whole or not there, and on disk when the call returns: written beside, synced, renamed, synced."""

from __future__ import annotations

import os
import secrets
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def write_whole(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Replace ``path`` by ``data``; after a crash the name has the old bytes or the new ones, on return the new ones.

    Safe for several threads and processes: the last one to rename is what stays.

    Args:
      path: its folder is there.
      data: all of it.
      mode: of the new file, less what the process's umask takes.

    Raises:
      OSError: the folder is missing or not writable, or the disk is full; nothing half is left.
    """
    staging = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        descriptor = os.open(staging, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        staging.replace(path)
        sync_folder(path.parent)
    except OSError:
        staging.unlink(missing_ok=True)
        raise


def sync_folder(folder: Path) -> None:
    """Make a folder's names durable: before that a rename may be gone after a power cut.

    Raises:
      OSError: as the system says.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

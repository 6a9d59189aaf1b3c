"""Files by their content: written beside, synced, renamed. A name that exists is whole."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from aggregation.errors import MalformedUpdateError
from aggregation.serialize import from_bytes, sha256_hex
from coordinator.errors import StorageError

if TYPE_CHECKING:
    from pathlib import Path

    from aggregation.adapter import AdapterState


class ArtifactStore:
    """Adapter states and client updates under ``folder/<first two digits>/<sha256>``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path_of(self, sha256: str) -> Path:
        """Where an artifact lies or would lie."""
        return self._folder / sha256[:2] / sha256

    def put(self, data: bytes) -> str:
        """Store durably; the same bytes twice are one file.

        Returns:
          hex sha256.

        Raises:
          StorageError: the disk is full or not writable; nothing half is left under the name.
        """
        sha256 = sha256_hex(data)
        path = self.path_of(sha256)
        if path.exists():
            return sha256
        staging = path.with_name(f"{sha256}.{os.getpid()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with staging.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            staging.rename(path)
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as e:
            staging.unlink(missing_ok=True)
            raise StorageError(
                f"{path.parent} can not be written: {e.strerror}",
                hint="free space or mend the folder's rights",
            ) from e
        return sha256

    def get(self, sha256: str) -> bytes:
        """The bytes, checked against their name.

        Raises:
          StorageError: missing or damaged.
        """
        try:
            data = self.path_of(sha256).read_bytes()
        except OSError as e:
            raise StorageError(
                f"artifact {sha256[:12]} is missing: {e.strerror}", hint="restore the artifacts folder"
            ) from e
        if sha256_hex(data) != sha256:
            raise StorageError(
                f"artifact {sha256[:12]} is damaged on disk", hint="restore the artifacts folder"
            )
        return data

    def load_state(self, sha256: str) -> AdapterState:
        """A stored adapter state.

        Raises:
          StorageError: missing, damaged, or not an adapter state.
        """
        try:
            return from_bytes(self.get(sha256))
        except MalformedUpdateError as e:
            raise StorageError(f"artifact {sha256[:12]} is no adapter state: {e.reason}") from e

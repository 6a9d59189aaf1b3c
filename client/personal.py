"""What a client keeps of its own between rounds and never sends (FedSA-LoRA's B and heads).

One file a run and round. A round reads what an earlier round kept, so a round that is done again starts from
the same part.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aggregation.serialize import from_bytes, to_bytes
from client.errors import ClientError
from client.files import write_durably

if TYPE_CHECKING:
    from pathlib import Path

    from aggregation.adapter import AdapterState

KEPT_ROUNDS = 2


class PersonalParts:
    """Files ``<run_id>.<round_index>.safetensors`` in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def before(self, run_id: str, round_index: int) -> AdapterState | None:
        """What the newest round before ``round_index`` kept, or None.

        Raises:
          ClientError: the file is damaged.
        """
        earlier = [r for r in self._rounds(run_id) if r < round_index]
        if not earlier:
            return None
        path = self._path(run_id, max(earlier))
        try:
            return from_bytes(path.read_bytes())
        except (OSError, ValueError) as e:
            raise ClientError(f"{path.name}: what this client kept can not be read") from e

    def keep(self, run_id: str, round_index: int, part: AdapterState) -> None:
        """Store durably; an empty part is not stored. Older rounds than the last two are removed.

        Raises:
          ClientError: the disk is full or not writable.
        """
        if not (part.lora or part.halves or part.cores or part.dense):
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_durably(self._path(run_id, round_index), to_bytes(part))
            for old in sorted(r for r in self._rounds(run_id) if r < round_index)[: -(KEPT_ROUNDS - 1)]:
                self._path(run_id, old).unlink(missing_ok=True)
        except OSError as e:
            raise ClientError(f"the personal part can not be kept: {e.strerror}") from e

    def _rounds(self, run_id: str) -> list[int]:
        found = self._folder.glob(f"{run_id}.*.safetensors")
        return [int(p.name.removeprefix(f"{run_id}.").split(".")[0]) for p in found]

    def _path(self, run_id: str, round_index: int) -> Path:
        return self._folder / f"{run_id}.{round_index}.safetensors"

"""What a client keeps of its own between rounds and never sends (FedSA-LoRA's B and heads).

One file a run and round. A round reads what an earlier round kept, so a round that is done again starts from
the same part. Beside it lies the whole model of the newest round, for export at the client: nobody else has it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aggregation.serialize import from_bytes, to_bytes
from client.errors import ClientError, NothingPersonalError, PersonalPartDamagedError
from motet.durable import write_whole

if TYPE_CHECKING:
    from pathlib import Path

    from aggregation.adapter import AdapterState

KEPT_ROUNDS = 2


class PersonalParts:
    """Files ``<run_id>.<round_index>.safetensors``, ``<run_id>.model`` and ``<run_id>.recipe`` in one folder."""

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

    def keep(
        self, run_id: str, round_index: int, part: AdapterState, *, model: AdapterState, recipe_json: str
    ) -> None:
        """Store durably; with an empty part nothing is stored. Older rounds than the last two are removed.

        Args:
          run_id: a checked name.
          round_index: the round that was trained.
          part: what the next round starts from.
          model: everything that this client's model holds now.
          recipe_json: of the run.

        Raises:
          ClientError: the disk is full or not writable.
        """
        if not (part.lora or part.halves or part.cores or part.dense):
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_whole(self._folder / f"{run_id}.recipe", recipe_json.encode())
            write_whole(self._folder / f"{run_id}.model", to_bytes(model))
            write_whole(self._path(run_id, round_index), to_bytes(part))
            for old in sorted(r for r in self._rounds(run_id) if r < round_index)[: -(KEPT_ROUNDS - 1)]:
                self._path(run_id, old).unlink(missing_ok=True)
        except OSError as e:
            raise ClientError(f"the personal part can not be kept: {e.strerror}") from e

    def model(self, run_id: str) -> tuple[AdapterState, str, int]:
        """The whole model after the newest round, the recipe's canonical JSON, and the rounds trained.

        Raises:
          NothingPersonalError: nothing personal was kept of that run.
          PersonalPartDamagedError: a file is damaged.
        """
        rounds = self._rounds(run_id)
        if not rounds:
            raise NothingPersonalError(
                f"nothing personal was kept of run {run_id!r}",
                hint="the operator exports what is shared: motet export RUN",
            )
        try:
            state = from_bytes((self._folder / f"{run_id}.model").read_bytes())
            recipe_json = (self._folder / f"{run_id}.recipe").read_text(encoding="utf-8")
        except (OSError, ValueError) as e:
            raise PersonalPartDamagedError(
                f"what this client kept of run {run_id!r} can not be read: {self._folder}",
                hint="restore that folder from a backup of this home",
            ) from e
        return state, recipe_json, max(rounds) + 1

    def _rounds(self, run_id: str) -> list[int]:
        found = self._folder.glob(f"{run_id}.*.safetensors")
        return [int(p.name.removeprefix(f"{run_id}.").split(".")[0]) for p in found]

    def _path(self, run_id: str, round_index: int) -> Path:
        return self._folder / f"{run_id}.{round_index}.safetensors"

"""A client's control variates of SCAFFOLD, kept in its home from round to round; they never leave.

One file a run and round. The coordinator tells in each order which round of this client's it counted last; that
round's variate is the one in force. So a reply that came too late, or was not admitted, leaves no trace, and the mean
at the coordinator stays the mean of what the clients hold. An order that is done again starts from the same file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aggregation.adapter import AdapterState
from aggregation.serialize import from_bytes, to_bytes
from client.errors import ClientError
from motet.durable import write_whole

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import torch


class ControlLostError(ClientError):
    """The variate that the coordinator counts with is no longer here."""

    code = "control_lost"


class OwnControls:
    """Files ``<run_id>/<round_index>.safetensors`` in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def in_force(self, run_id: str, counted_round: int) -> Mapping[str, torch.Tensor]:
        """c_i by key (``aggregation.control.trained_values``); empty, which is zero, before the first counted round.

        Args:
          run_id: a checked name.
          counted_round: one more than the last round in which the coordinator used this client's update; 0: none.

        Raises:
          ControlLostError: the file is missing or damaged.
        """
        if counted_round == 0:
            return {}
        path = self._path(run_id, counted_round - 1)
        try:
            return from_bytes(path.read_bytes()).control
        except (OSError, ValueError) as e:
            raise ControlLostError(
                f"the control variate of round {counted_round - 1} of run {run_id} can not be read",
                hint="restore this client's home folder, or leave this run",
            ) from e

    def keep(
        self, run_id: str, round_index: int, control: Mapping[str, torch.Tensor], *, counted_round: int
    ) -> None:
        """Store durably what is in force if this round is counted; what no order can ask for any more goes.

        Raises:
          ClientError: the disk is full or not writable.
        """
        try:
            path = self._path(run_id, round_index)
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_whole(path, to_bytes(AdapterState(control=dict(control))))
            for old in path.parent.glob("*.safetensors"):
                if int(old.stem) < counted_round - 1:
                    old.unlink(missing_ok=True)
        except OSError as e:
            raise ClientError(f"the control variate can not be kept: {e.strerror}") from e

    def _path(self, run_id: str, round_index: int) -> Path:
        return self._folder / run_id / f"{round_index}.safetensors"

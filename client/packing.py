"""What a client sends, as bytes: its trained values whole, or what it moved in fewer bits.

A compressed message holds differences from what the round started from, which the coordinator makes again. With error
feedback, what one message left out is added to the next; it is kept in the client's home, a file a run and round, so
that a round which is done again starts from the same. Under DP-SGD all of it comes from noised values and from earlier
messages alone: compression and its feedback are post-processing, and cost no budget.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from safetensors import SafetensorError
from safetensors.torch import load, save

from aggregation.changes import moves, with_moves
from aggregation.compression import compress, decompress
from aggregation.serialize import to_bytes
from client.errors import ClientError
from motet.durable import write_whole

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import torch

    from aggregation.adapter import AdapterState
    from aggregation.compression import Scheme

KEPT_ROUNDS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """A message.

    Attributes:
      payload: its bytes.
      read: the state that the coordinator reads from it.
      error: ``||left out|| / ||to be sent||``; 0 for whole values.
    """

    payload: bytes
    read: AdapterState
    error: float = 0.0


class Residuals:
    """Files ``<run_id>/<round_index>.safetensors`` in one folder: what the messages of a run have left out so far."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def before(self, run_id: str, round_index: int) -> dict[str, torch.Tensor]:
        """Key -> what the newest round before ``round_index`` left; empty where none did.

        Raises:
          ClientError: the file is damaged.
        """
        earlier = [r for r in self._rounds(run_id) if r < round_index]
        if not earlier:
            return {}
        path = self._path(run_id, max(earlier))
        try:
            return dict(load(path.read_bytes()))
        except (OSError, ValueError, SafetensorError) as e:
            raise ClientError(f"{path.name} of run {run_id}: what compression left can not be read") from e

    def keep(self, run_id: str, round_index: int, left: Mapping[str, torch.Tensor]) -> None:
        """Store durably; older rounds than the last two go.

        Raises:
          ClientError: the disk is full or not writable.
        """
        path = self._path(run_id, round_index)
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_whole(path, save({key: value.contiguous() for key, value in left.items()}))
            for old in sorted(r for r in self._rounds(run_id) if r < round_index)[: -(KEPT_ROUNDS - 1)]:
                self._path(run_id, old).unlink(missing_ok=True)
        except OSError as e:
            raise ClientError(f"what compression left can not be kept: {e.strerror}") from e

    def _rounds(self, run_id: str) -> list[int]:
        return [int(path.stem) for path in (self._folder / run_id).glob("*.safetensors")]

    def _path(self, run_id: str, round_index: int) -> Path:
        return self._folder / run_id / f"{round_index}.safetensors"


def whole(trained: AdapterState) -> Packed:
    """The values as they are.

    Raises:
      aggregation.errors.MalformedUpdateError: a tensor is not finite.
    """
    return Packed(payload=to_bytes(trained), read=trained)


def packed(
    trained: AdapterState,
    start: AdapterState,
    scheme: Scheme,
    before: Mapping[str, torch.Tensor],
) -> tuple[Packed, dict[str, torch.Tensor]]:
    """The moves from ``start`` to ``trained`` and what was left before, compressed; and what is left now.

    Args:
      trained: what is sent, after training.
      start: the same part before it.
      scheme: how numbers are written.
      before: what earlier messages left; names that this round does not send are carried on, tensors of another
        shape (a rank has changed) are dropped.

    Raises:
      aggregation.errors.MalformedUpdateError: a tensor is not finite.
    """
    moved = moves(trained, start)
    fitting = {k: v for k, v in before.items() if k in moved and v.shape == moved[k].shape}
    made = compress(moved, scheme, fitting)
    shapes = {key: tuple(value.shape) for key, value in moved.items()}
    read = decompress(made.payload, shapes, scheme)
    missed, goal = _size(made.residual), _size({k: read[k] + made.residual[k] for k in read})
    message = Packed(
        payload=made.payload, read=with_moves(start, read), error=missed / goal if goal > 0 else 0.0
    )
    carried = {k: v for k, v in before.items() if k not in moved}
    return message, {**carried, **made.residual}


def _size(tensors: Mapping[str, torch.Tensor]) -> float:
    return math.sqrt(sum(float(value.double().square().sum()) for value in tensors.values()))

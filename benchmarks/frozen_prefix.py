"""Keep what the layers below the first adapted one make of each example: no cell changes them.

Only for benchmarks, where hundreds of runs read the same examples: what is kept are raw activations. Hidden states are
kept without padding, row by row, and put back in front of the first adapted layer; the layers below pass their input
on. Values at real tokens are those of the whole model; at padding, which is masked, they are zeros.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn


class _ReachedError(Exception):
    """Ends a forward pass at the first adapted layer."""


class FrozenPrefix:
    """Hooks on one backbone.

    Args:
      backbone: a transformer without adapters below ``first``.
      layers: its blocks.
      first: index of the first block that may change.
    """

    def __init__(self, backbone: nn.Module, layers: nn.ModuleList, first: int) -> None:
        self._kept: dict[bytes, torch.Tensor] = {}
        self._mode = "off"
        self._rows: torch.Tensor | None = None
        self._forward: Callable[..., Any] = backbone.forward
        backbone.forward = self._through  # type: ignore[method-assign]
        for layer in layers[:first]:
            layer.forward = functools.partial(self._below, layer.forward)  # type: ignore[method-assign]
        layers[first].register_forward_pre_hook(self._at_first, with_kwargs=True)

    def _through(self, **inputs: Any) -> Any:
        main = inputs["pixel_values"] if "pixel_values" in inputs else inputs["input_ids"]
        mask = inputs.get("attention_mask")
        keys = [(row if mask is None else row[mask[i] > 0]).numpy().tobytes() for i, row in enumerate(main)]
        missing = [i for i, key in enumerate(keys) if key not in self._kept]
        if missing:
            self._mode = "record"
            try:
                with torch.no_grad():
                    self._forward(**{k: v[missing] if torch.is_tensor(v) else v for k, v in inputs.items()})
            except _ReachedError:
                pass
            if self._rows is None:
                raise RuntimeError("the first adapted layer was not reached")
            for place, i in enumerate(missing):
                row = self._rows[place]
                self._kept[keys[i]] = (row if mask is None else row[mask[i] > 0]).clone()
        rows = [self._kept[key] for key in keys]
        self._rows = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        self._mode = "replay"
        try:
            return self._forward(**inputs)
        finally:
            self._mode = "off"

    def _below(self, forward: Callable[..., Any], hidden: torch.Tensor, *rest: Any, **more: Any) -> Any:
        return hidden if self._mode == "replay" else forward(hidden, *rest, **more)

    def _at_first(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        hidden = args[0] if args else kwargs["hidden_states"]
        if self._mode == "record":
            self._rows = hidden.detach()
            raise _ReachedError
        if self._mode != "replay" or self._rows is None:
            return None
        kept = torch.nn.functional.pad(self._rows, (0, 0, 0, hidden.shape[1] - self._rows.shape[1]))
        return ((kept, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": kept})

"""A linear probe: a model whose per-example gradient is the example itself, so that canaries are placed at will.

``loss_i = <x_i, w>`` has gradient ``x_i`` whatever ``w`` is. A step of SGD with learning rate 1 moves ``w`` by minus
the noised mean; the probe reads it back and multiplies by the expected batch size: the noised sum, which is what the
guarantee is about.

Each example is laid out over two positions, half of it at each, so that its gradient is formed as that of an adapter
is; with one position it is formed as a head's is (see ``privacy.per_example``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable

    from privacy.audit.controls import Setup
    from privacy.dpsgd import DpSgd
    from privacy.noise import NoiseSource


class LinearProbe:
    """One mechanism on one linear model.

    Args:
      size: D, length of a gradient.
      build: makes the mechanism; see ``privacy.audit.controls``.
      setup: what it is claimed to do.
      noise: where its noise comes from.
      positions: of an example, 1 or more.
    """

    def __init__(
        self,
        size: int,
        build: Callable[[nn.Module, torch.optim.Optimizer, Setup, NoiseSource], DpSgd],
        setup: Setup,
        noise: NoiseSource,
        *,
        positions: int = 2,
    ) -> None:
        self._model = nn.Linear(size, 1, bias=False).train()
        self._positions = positions
        self._scale = setup.expected_batch_size
        self._engine = build(self._model, torch.optim.SGD(self._model.parameters(), lr=1.0), setup, noise)

    def noised_sum(self, gradients: torch.Tensor) -> torch.Tensor:
        """Take one step on a batch.

        Args:
          gradients: (B, D) float32, the gradient of each example before clipping; B may be 0.

        Returns:
          (D,) float32: the sum of the clipped gradients and the noise.
        """
        with torch.no_grad():
            self._model.weight.zero_()  # what was learned is of no interest, and rounds what is read
        if len(gradients):
            laid_out = (gradients / self._positions)[:, None, :].expand(-1, self._positions, -1)
            self._engine.accumulate(self._model(laid_out).sum((1, 2)))
        self._engine.step()
        return -self._scale * self._model.weight.detach().squeeze(0).clone()

    def close(self) -> None:
        """Take the hooks off."""
        self._engine.close()

"""The two rounds in which clients of a sketched Fed-SB take gradients and no steps.

What trains (one factor of a LoRA whose product is zero) stays where it is through the round, so that every step takes
its gradient at the base model; at the end the mean of those gradients stands in its place, and is sent. Heads rest, or
their gradients would fill the clipping norm and move the model under the sketch.

In a private run each step is one of DP-SGD and is charged as such. Only directions matter here, so an example's sketch
is clipped to ``aggregation.sketch_rounds.SKETCH_NORM``, below any gradient of size: what enters is each one's
direction, at the full strength that the noise allows (the normalisation of Bu et al. 2022,
https://arxiv.org/abs/2206.07136), and no norm has to be tuned. The noise multiplier, which the accounting rests on, is
the run's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from client.errors import TrainableDidNotMoveError

if TYPE_CHECKING:
    from collections.abc import Mapping


class GradientMean(torch.optim.Optimizer):
    """An optimiser that moves nothing and adds up, in float64, the gradients that it is given.

    Args:
      parameters: name -> what trains.
    """

    def __init__(self, parameters: Mapping[str, torch.nn.Parameter]) -> None:
        self._sums = {
            name: torch.zeros(p.shape, dtype=torch.float64, device=p.device) for name, p in parameters.items()
        }
        self._parameters, self._num_steps = dict(parameters), 0
        super().__init__(list(parameters.values()), {})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # noqa: ANN401 - torch's own signature
        """Count one step; a parameter without a gradient adds zero."""
        self._num_steps += 1
        for name, parameter in self._parameters.items():
            if parameter.grad is not None:
                self._sums[name] += parameter.grad

    @torch.no_grad()
    def put_mean(self, *, unit: float, saw_data: bool) -> None:
        """Put the mean gradient of the steps, in units of ``unit``, in the place of each parameter.

        Raises:
          TrainableDidNotMoveError: there was data, and a tensor has no gradient.
        """
        for name, parameter in self._parameters.items():
            mean = self._sums[name] / (unit * max(self._num_steps, 1))
            if saw_data and not bool(mean.any()):
                raise TrainableDidNotMoveError(
                    f"{name} has no gradient: there is nothing to sketch there", hint="check adapter.targets"
                )
            parameter.copy_(mean)

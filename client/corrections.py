"""What is added to a gradient beside the data: FedProx's pull, SCAFFOLD's variates, HetLoRA's tail.

A correction reads parameters and what the coordinator sent, never an example. It enters after clipping and noise,
right before the optimiser's step, so that one example moves a private step by what it moved it before, and no more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from aggregation.methods.hetlora import tail_rank

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from motet.recipe.model import SelfPruningSection


def proximal(
    parameters: Mapping[str, torch.nn.Parameter], weight: float
) -> Callable[[str, torch.Tensor], torch.Tensor]:
    """``mu (w - w_start)``: the gradient of FedProx's ``mu / 2 ||w - w_start||^2`` over all that trains.

    Li et al. 2020, https://arxiv.org/abs/1812.06127. ``w_start`` is copied when this is called.

    Args:
      parameters: what trains, at the round's start.
      weight: mu.
    """
    start = {name: p.detach().clone() for name, p in parameters.items()}

    def pull(name: str, value: torch.Tensor) -> torch.Tensor:
        return weight * (value - start[name])

    return pull


def control(shift: Mapping[str, torch.Tensor]) -> Callable[[str, torch.Tensor], torch.Tensor]:
    """``c - c_i`` of SCAFFOLD, the same in every step of a round; see ``aggregation.control``.

    Args:
      shift: by parameter name; a missing one is zero.
    """

    def turn(name: str, value: torch.Tensor) -> torch.Tensor:
        return shift[name].to(value.dtype) if name in shift else torch.zeros_like(value)

    return turn


def tail_pull(
    parameters: Mapping[str, torch.nn.Parameter], asked: SelfPruningSection
) -> Callable[[str, torch.Tensor], torch.Tensor]:
    """Gradient of HetLoRA's ``penalty_weight * ||B tail||_F ||A tail||_F``, summed over layers.

    Cho et al. 2024, https://arxiv.org/abs/2401.06432; see ``aggregation.methods.hetlora.tail_penalty``. Zero at a
    factor whose tail is zero, where the norm has no gradient.

    Args:
      parameters: what trains, by the keys of ``client.adapters.trained_parameters``; read as they are in each step.
      asked: of the recipe.
    """

    def pull(key: str, value: torch.Tensor) -> torch.Tensor:
        side, _, layer = key.partition("/")
        made = torch.zeros_like(value)
        if side not in ("A", "B"):
            return made
        a, b = parameters[f"A/{layer}"].detach(), parameters[f"B/{layer}"].detach()
        cut = tail_rank(a.shape[0], asked.decay)
        own, other = (value[cut:], b[:, cut:]) if side == "A" else (value[:, cut:], a[cut:])
        size = own.norm()
        if size > 0:
            tail = made[cut:] if side == "A" else made[:, cut:]
            tail.copy_(asked.penalty_weight * other.norm() / size * own)
        return made

    return pull


def correct(
    optimizer: torch.optim.Optimizer,
    parameters: Mapping[str, torch.nn.Parameter],
    correction: Callable[[str, torch.Tensor], torch.Tensor],
) -> None:
    """Add ``correction(name, value)`` to each parameter's gradient before every step of ``optimizer``.

    A step without a gradient (an empty batch) is a step by the correction alone.
    """

    def before_step(_optimizer: torch.optim.Optimizer, _args: Any, _kwargs: Any) -> None:  # noqa: ANN401 - torch's
        for name, parameter in parameters.items():
            value = parameter.detach()
            added = correction(name, value)
            parameter.grad = added if parameter.grad is None else parameter.grad + added

    optimizer.register_step_pre_hook(before_step)

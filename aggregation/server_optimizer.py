"""Server optimisers: the mean of a round is a step, and steps are given momentum or their own size.

Reddi et al. 2020, https://arxiv.org/abs/2003.00295, Algorithm 2, without bias correction, and Hsu et al. 2019 for
FedAvgM, https://arxiv.org/abs/1909.06335. The step of a round is ``D = mean - values``: ``fedavgm`` at learning rate 1
and without momentum gives the mean itself.

They work on numbers in which the model is linear: Fed-SB's cores, FFA-LoRA's B, RoLoRA's factor of the round,
FedSA-LoRA's A, and heads. For methods that train both factors the product is not linear in them, and after an SVD
they are other coordinates each round, which momentum of last round's does not fit: ``linear_part`` refuses those.
All values are plain tensors in frozen dataclasses; ``step`` is pure.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch

from aggregation.adapter import AdapterState, FactorPair, HalfPair

Tensors = Mapping[str, torch.Tensor]
LINEAR_METHODS = frozenset({"fed-sb", "ffa", "rolora", "fedsa"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptimizer:
    """Which rule, and its constants.

    Attributes:
      rule: ``fedavgm``: ``m = beta1 m + D``, ``x += lr m``. The others: ``m = beta1 m + (1 - beta1) D``,
        ``x += lr m / (sqrt(v) + tau)`` with ``fedadagrad``: ``v += D^2``; ``fedadam``:
        ``v = beta2 v + (1 - beta2) D^2``; ``fedyogi``: ``v -= (1 - beta2) D^2 sign(v - D^2)``.
      learning_rate: lr > 0.
      beta1: in [0, 1).
      beta2: in [0, 1); adam and yogi.
      tau: > 0, how small a step is not made larger; also where v starts, ``tau^2``.

    Raises:
      ValueError: a constant out of its range.
    """

    rule: Literal["fedavgm", "fedadagrad", "fedadam", "fedyogi"]
    learning_rate: float = 1.0
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3

    def __post_init__(self) -> None:
        sound = {
            "learning_rate": math.isfinite(self.learning_rate) and self.learning_rate > 0,
            "beta1": 0 <= self.beta1 < 1,
            "beta2": 0 <= self.beta2 < 1,
            "tau": math.isfinite(self.tau) and self.tau > 0,
        }
        for name, is_sound in sound.items():
            if not is_sound:
                raise ValueError(f"{name}={getattr(self, name)} is out of its range")


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerState:
    """Where the server stands after a round.

    Attributes:
      values: name -> what clients start from next, float32.
      momentum: name -> m, float64; a name appears with its first step.
      second: name -> v, float64; empty for ``fedavgm``.
      steps: rounds taken.
    """

    values: Tensors
    momentum: Tensors = field(default_factory=dict)
    second: Tensors = field(default_factory=dict)
    steps: int = 0


def step(optimizer: ServerOptimizer, state: OptimizerState, mean: Tensors) -> OptimizerState:
    """One round.

    Args:
      optimizer: the rule.
      state: before; not changed.
      mean: name -> the round's weighted mean. Names that it lacks stay, momentum and all (RoLoRA's resting factor).

    Returns:
      The state after.

    Raises:
      ValueError: a name that the state does not hold, another shape, or a value that is not finite.
    """
    values, momentum, second = dict(state.values), dict(state.momentum), dict(state.second)
    for name, target in sorted(mean.items()):
        if name not in values or values[name].shape != target.shape:
            raise ValueError(f"{name}: {tuple(target.shape)} does not fit what the optimiser holds")
        if not bool(torch.isfinite(target).all()):
            raise ValueError(f"{name} holds NaN or infinity")
        before = values[name].double()
        moved = target.double() - before
        fresh = 1.0 if optimizer.rule == "fedavgm" else 1 - optimizer.beta1
        old = momentum.get(name, torch.zeros_like(before))
        momentum[name] = optimizer.beta1 * old + fresh * moved
        direction = momentum[name]
        if optimizer.rule != "fedavgm":
            so_far = second.get(name, torch.full_like(before, optimizer.tau**2))
            second[name] = _second(optimizer, so_far, moved.square())
            direction = direction / (second[name].sqrt() + optimizer.tau)
        values[name] = (before + optimizer.learning_rate * direction).float()
    return OptimizerState(values=values, momentum=momentum, second=second, steps=state.steps + 1)


def _second(optimizer: ServerOptimizer, so_far: torch.Tensor, square: torch.Tensor) -> torch.Tensor:
    if optimizer.rule == "fedadagrad":
        return so_far + square
    if optimizer.rule == "fedadam":
        return optimizer.beta2 * so_far + (1 - optimizer.beta2) * square
    return so_far - (1 - optimizer.beta2) * square * torch.sign(so_far - square)


def linear_part(method: str, state: AdapterState) -> dict[str, torch.Tensor]:
    """Name -> tensor: what of a state ``step`` may move, for a method in which it is linear; heads always are.

    Raises:
      ValueError: another method, and more than heads in the state.
    """
    heads_alone = not (state.lora or state.base_delta or state.halves or state.cores)
    if method not in LINEAR_METHODS and not heads_alone:
        raise ValueError(
            f"a server optimiser needs a method that is linear in what it averages, not {method}: "
            f"use {', '.join(sorted(LINEAR_METHODS))}"
        )
    found = {f"core/{layer}": core for layer, core in state.cores.items()}
    for layer, half in state.halves.items():
        found[f"half/{layer}/{half.side}"] = half.value
    for layer, pair in state.lora.items():
        found[f"lora/{layer}/B"] = pair.B
        if method == "rolora":
            found[f"lora/{layer}/A"] = pair.A
    found.update({f"dense/{name}": value for name, value in state.dense.items()})
    return found


def with_linear_part(state: AdapterState, values: Tensors) -> AdapterState:
    """``state`` with these values in place of its own; names that are missing stay."""
    return dataclasses.replace(
        state,
        lora={
            layer: FactorPair(
                B=values.get(f"lora/{layer}/B", pair.B),
                A=values.get(f"lora/{layer}/A", pair.A),
                scale=pair.scale,
            )
            for layer, pair in state.lora.items()
        },
        halves={
            layer: HalfPair(
                side=half.side, value=values.get(f"half/{layer}/{half.side}", half.value), scale=half.scale
            )
            for layer, half in state.halves.items()
        },
        cores={layer: values.get(f"core/{layer}", core) for layer, core in state.cores.items()},
        dense={name: values.get(f"dense/{name}", value) for name, value in state.dense.items()},
    )


def advance(
    optimizer: ServerOptimizer,
    method: str,
    before: AdapterState,
    mean: AdapterState,
    memory: AdapterState | None,
    *,
    trained: str,
) -> tuple[AdapterState, AdapterState]:
    """One round of a run: the step from ``before`` towards ``mean``, and what to remember for the next.

    The memory is a state in float32 that can be written and read like any other, so that a run which is stopped
    after a round and one which goes on take the same steps.

    Args:
      optimizer: the rule.
      method: its name.
      before: the global state before the round.
      mean: the global state that the method made of the round.
      memory: what the round before remembered; None in the first. A tensor that has another shape since (a rank that
        changed between rounds) begins anew.
      trained: factors that the round trained (``Method.trained_factors``); the others rest, momentum and all.

    Returns:
      The next global state, and the memory.

    Raises:
      ValueError: a method that is not linear.
    """
    values = linear_part(method, before)
    moved = {name: value for name, value in linear_part(method, mean).items() if _is_trained(name, trained)}
    after = step(optimizer, _remembered(values, memory), moved)
    return with_linear_part(mean, after.values), _memory(after)


def _is_trained(name: str, trained: str) -> bool:
    parts = name.split("/")
    return parts[0] not in ("lora", "half") or parts[-1] in trained


_MOMENTUM, _SECOND = "m.", "v."


def _memory(state: OptimizerState) -> AdapterState:
    """Momentum and second moment as whole tensors, float32, under names that the format of states admits."""
    held = {_MOMENTUM + name.replace("/", "."): value.float() for name, value in state.momentum.items()}
    held |= {_SECOND + name.replace("/", "."): value.float() for name, value in state.second.items()}
    return AdapterState(dense=held)


def _remembered(values: Tensors, memory: AdapterState | None) -> OptimizerState:
    if memory is None:
        return OptimizerState(values=values)

    def read(prefix: str) -> dict[str, torch.Tensor]:
        found = {}
        for name, value in values.items():
            kept = memory.dense.get(prefix + name.replace("/", "."))
            if kept is not None and kept.shape == value.shape:
                found[name] = kept.double()
        return found

    return OptimizerState(values=values, momentum=read(_MOMENTUM), second=read(_SECOND))

"""One client's local work in one round: Poisson batches, per-example losses, plain or private steps.

The optimiser is made afresh each round and keeps nothing between rounds; neither does the noise. Nothing here
leaves the client: ``client.protect`` decides that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from aggregation.initial import generator_for
from aggregation.sketch_rounds import SKETCH_NORM
from client.adapters import trained_parameters
from client.corrections import control, correct, proximal, tail_pull
from client.errors import TrainableDidNotMoveError, TrainingDivergedError
from client.gradient_sketch import GradientMean
from client.inputs import per_example_loss
from client.units import MICRO_BATCH, private_batches
from privacy.dpsgd import DpSgd

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from client.adapters import Attached
    from client.inputs import Prepared
    from motet.recipe import Recipe
    from privacy.noise import NoiseSource

GUARDED_STEPS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """What plain and private steps have in common. ``sketches``: gradients are looked at and move nothing."""

    attached: Attached
    recipe: Recipe
    examples: Prepared
    optimizer: torch.optim.Optimizer
    guard: MovementGuard
    before_step: Callable[[], None]
    sketches: bool


def train_round(
    attached: Attached,
    recipe: Recipe,
    examples: Prepared,
    *,
    round_index: int,
    client_id: str,
    noise: NoiseSource | None,
    noise_multiplier: float | None = None,
    control_shift: Mapping[str, torch.Tensor] | None = None,
    before_step: Callable[[], None] = lambda: None,
) -> None:
    """Take ``training.local_steps`` steps on ``attached``.

    Every step draws a Poisson batch. A recipe of DP-SGD draws it and the noise from ``noise``, at the public
    ``privacy.sampling_rate``, of examples or of persons (``client.units``); otherwise from a generator keyed by
    (seed, round_index, client_id) at the rate that gives the expected batch size. The sum of gradients is divided by
    ``expected_batch_size``, whatever the batch drawn. What the recipe's ``training.algorithm`` adds to a gradient is
    added after clipping and noise; see ``client.corrections``. In a round that sketches gradients the steps are the
    same and move nothing; see ``client.gradient_sketch``.

    Args:
      attached: what trains.
      recipe: the run.
      examples: the client's; may be empty only in a private run.
      round_index: from 0.
      client_id: keys the seeded generator.
      noise: of a private run; never seeded from the recipe.
      noise_multiplier: of a private run.
      control_shift: c - c_i of SCAFFOLD by key of ``client.adapters.trained_parameters``; None or empty is zero.
      before_step: called before each step; what it raises ends the round.

    Raises:
      TrainableDidNotMoveError: a tensor that should train stayed as it was.
      TrainingDivergedError: a tensor is no longer finite.
      ValueError: a private recipe without noise.
    """
    parameters = attached.trainable()
    sketch = GradientMean(parameters) if recipe.sketches_in(round_index) else None
    optimizer = sketch or make_optimizer(recipe, parameters, round_index)
    if sketch is None:
        _add_corrections(optimizer, attached, recipe, control_shift)
    work = _Work(
        attached=attached,
        recipe=recipe,
        examples=examples,
        optimizer=optimizer,
        guard=MovementGuard({} if sketch else parameters),
        before_step=before_step,
        sketches=sketch is not None,
    )
    generator = generator_for(recipe.seed, "train", round_index, client_id)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator.initial_seed())  # dropout only
        attached.model.train()
        if recipe.trains_privately:
            _private_steps(work, noise, noise_multiplier)
            saw_data = True  # what is said of the data does not depend on it
        else:
            saw_data = _plain_steps(work, parameters, generator)
        attached.model.eval()
    if sketch is not None:
        sketch.put_mean(unit=SKETCH_NORM if recipe.trains_privately else 1.0, saw_data=saw_data)
    for name, parameter in parameters.items():
        if not bool(torch.isfinite(parameter).all()):
            raise TrainingDivergedError(
                f"{name} is no longer finite after training", hint="lower training.learning_rate"
            )


def _private_steps(work: _Work, noise: NoiseSource | None, noise_multiplier: float | None) -> None:
    """Steps of DP-SGD, each on a Poisson sample at the public rate; an empty one is a step of noise alone.

    Raises:
      ValueError: there is nothing to make noise from; no step is taken without.
    """
    privacy, training = work.recipe.privacy, work.recipe.training
    if privacy is None or noise is None or noise_multiplier is None:
        raise ValueError("a private recipe needs a noise source and a noise multiplier")
    model = work.attached.model
    engine = DpSgd(
        model,
        work.optimizer,
        clipping_norm=SKETCH_NORM if work.sketches else privacy.clipping_norm,
        noise_multiplier=noise_multiplier,
        expected_batch_size=training.expected_batch_size,
        noise=noise,
    )
    try:
        for _ in range(training.local_steps):
            work.before_step()
            for part in private_batches(privacy, work.examples, noise):
                losses = per_example_loss(work.recipe, model, work.examples, part.examples)[0]
                engine.accumulate(losses, part.owners)
            engine.step()
            work.guard.after_step(moved_by_data=True)
    finally:
        engine.close()


def _plain_steps(
    work: _Work, parameters: Mapping[str, torch.nn.Parameter], generator: torch.Generator
) -> bool:
    """Steps without noise, on Poisson batches of the expected size; whether any of them held an example."""
    training, model, saw_data = work.recipe.training, work.attached.model, False
    rate = min(1.0, training.expected_batch_size / max(len(work.examples), 1))
    for _ in range(training.local_steps):
        work.before_step()
        drawn = torch.rand(len(work.examples), generator=generator, dtype=torch.float64) < rate
        chosen = drawn.nonzero().flatten().tolist()
        work.optimizer.zero_grad(set_to_none=True)
        for part in _micro_batches(chosen):
            losses = per_example_loss(work.recipe, model, work.examples, part)[0]
            (losses.sum() / training.expected_batch_size).backward()  # type: ignore[no-untyped-call]
        if training.max_grad_norm is not None and not work.sketches:
            torch.nn.utils.clip_grad_norm_(list(parameters.values()), training.max_grad_norm)
        work.optimizer.step()
        work.guard.after_step(moved_by_data=bool(chosen))
        saw_data = saw_data or bool(chosen)
    return saw_data


def _add_corrections(
    optimizer: torch.optim.Optimizer,
    attached: Attached,
    recipe: Recipe,
    control_shift: Mapping[str, torch.Tensor] | None,
) -> None:
    parameters, pruning = attached.trainable(), recipe.method.self_pruning
    if recipe.training.algorithm == "fedprox":
        correct(optimizer, parameters, proximal(parameters, recipe.training.proximal_weight))
    by_key = trained_parameters(attached)
    if pruning is not None:
        correct(optimizer, by_key, tail_pull(by_key, pruning))
    if control_shift:
        correct(optimizer, by_key, control(control_shift))


def make_optimizer(
    recipe: Recipe, parameters: Mapping[str, torch.nn.Parameter], round_index: int = 0
) -> torch.optim.Optimizer:
    """Adam (0.9, 0.999) or SGD; heads have their own learning rate when the recipe gives one.

    Both rates are multiplied by ``learning_rate_decay ** round_index``.
    """
    heads = [p for n, p in parameters.items() if _is_head(n)]
    rest = [p for n, p in parameters.items() if not _is_head(n)]
    groups = [
        {"params": group, "lr": recipe.learning_rate_of(round_index, head=group is heads)}
        for group in (rest, heads)
        if group
    ]
    if recipe.training.optimizer == "adam":
        return torch.optim.Adam(groups)
    return torch.optim.SGD(groups)


def _is_head(name: str) -> bool:
    return "lora_" not in name and not name.endswith("core.weight")


def _micro_batches(indices: Sequence[int]) -> list[list[int]]:
    return [list(indices[i : i + MICRO_BATCH]) for i in range(0, len(indices), MICRO_BATCH)]


class MovementGuard:
    """Stops a round in which a trainable tensor does not train (opacus issue 820: loss fell, adapters stayed).

    After the first step every tensor has moved but ``lora_A`` whose B was zero (its gradient is B^T G = 0);
    after the second step all have. Steps whose batch was empty do not count. The check
    compares with a copy taken before training.
    """

    def __init__(self, parameters: Mapping[str, torch.nn.Parameter]) -> None:
        self._parameters = parameters
        self._before = {name: p.detach().clone() for name, p in parameters.items()}
        self._steps = 0

    def after_step(self, *, moved_by_data: bool) -> None:
        """Call once a step.

        Raises:
          TrainableDidNotMoveError: names the first tensor that stayed.
        """
        if not moved_by_data or self._steps >= GUARDED_STEPS:
            return
        self._steps += 1
        for name, parameter in self._parameters.items():
            if self._steps == 1 and "lora_A" in name:
                continue
            if torch.equal(parameter.detach(), self._before[name]):
                raise TrainableDidNotMoveError(
                    f"{name} did not move in the first {self._steps} step(s): the round would train nothing there",
                    hint="check adapter.targets and the learning rates",
                )
        if self._steps == GUARDED_STEPS:
            self._before.clear()

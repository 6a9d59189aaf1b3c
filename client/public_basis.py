"""Fed-SB's frozen bases from the loss's gradient on public examples, made alike by everyone.

After LoRA-SB, Ponkshe et al. 2024, https://arxiv.org/abs/2411.19557: B and A are the leading singular vectors of the
full gradient at the start, so that the core moves where the first full step would go. Two things differ from the
paper: the gradient is taken as it is, not its signs, and the core starts at zero, so that round 0 starts from the base
model itself. No private example is read; the basis costs no budget.

Everyone makes the same basis from the same examples, weights and heads, with one thread. Machines that round
differently differ in the last digits, as with ``basis: svd``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from transformers.pytorch_utils import Conv1D

from aggregation.adapter import AdapterState
from aggregation.initial import svd_bases
from client.adapters import attach, detach
from client.errors import ClientError
from client.inputs import per_example_loss, prepare
from client.threads import torch_threads
from motet.data import DataError, public_examples
from motet.modeling import initial_dense, target_layers

if TYPE_CHECKING:
    from aggregation.methods.base import Bases
    from client.base import LoadedBase
    from motet.recipe import Recipe

BATCH = 16
LEAST_SINGULAR = 1e-6  # of the largest; below it directions are rounding


class PublicDataError(ClientError):
    """The public examples are not there, are others than the recipe's, or have too few directions."""


def public_gradient_bases(base: LoadedBase, recipe: Recipe, rank: int) -> Bases:
    """Layer -> B (m, r), A (r, n), float32, orthonormal: the leading singular vectors of the mean loss's gradient.

    The caller holds ``base.lock``. Memory: one gradient of each adapted layer, of the layer's own size.

    Args:
      base: nothing attached.
      recipe: names the public examples; its heads start as ``initial_dense``.
      rank: of the bases.

    Raises:
      PublicDataError: see the class; the message says what to do.
    """
    found = {}
    for layer, gradient in public_gradients(base, recipe).items():
        if rank > min(gradient.shape):
            raise ValueError(f"{rank=} exceeds the smaller side of {layer}, {min(gradient.shape)}")
        sizes = torch.linalg.svdvals(gradient.double())
        directions = int((sizes > LEAST_SINGULAR * sizes[0]).sum()) if sizes[0] > 0 else 0
        if directions < rank:
            raise PublicDataError(
                f"the gradient of {layer} on the public examples has {directions} directions, rank {rank} needs {rank}",
                hint="raise method.public_data.num_examples, lower adapter.lora_rank, or set basis: svd",
            )
        found[layer] = svd_bases(gradient, rank)
    return found


def public_gradients(base: LoadedBase, recipe: Recipe) -> dict[str, torch.Tensor]:
    """Layer -> (m, n) gradient of the mean loss over the public examples at the base model, without dropout.

    Raises:
      PublicDataError: the examples can not be read.
    """
    try:
        examples = prepare(recipe, base, public_examples(recipe))
    except DataError as e:
        raise PublicDataError(e.message, hint=e.hint) from e
    layers = target_layers(base.model, recipe)
    heads = attach(base.model, recipe, AdapterState(dense=initial_dense(recipe)))
    try:
        with torch_threads(1), torch.inference_mode(False), torch.enable_grad():
            base.model.eval()
            weights = {name: layer.get_parameter("weight") for name, layer in layers.items()}
            for weight in weights.values():
                weight.requires_grad_(True)
            for start in range(0, len(examples), BATCH):
                chosen = range(start, min(start + BATCH, len(examples)))
                losses = per_example_loss(recipe, base.model, examples, chosen)[0]
                (losses.sum() / len(examples)).backward()  # type: ignore[no-untyped-call]
            return {
                name: weight.grad.T if isinstance(layers[name], Conv1D) else weight.grad
                for name, weight in weights.items()
                if weight.grad is not None
            }
    finally:
        for parameter in base.model.parameters():
            parameter.grad = None
        detach(heads)

"""What a model reads, whatever the task: prepared examples, batches of them, and the loss of each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch

from client.images import to_pixels
from client.tokens import tokenise

if TYPE_CHECKING:
    from collections.abc import Sequence

    from client.base import LoadedBase
    from motet.data import Example
    from motet.recipe import Recipe

IGNORED = -100


class Prepared(Protocol):
    """Examples ready for the model: tokens or pixels."""

    @property
    def labels(self) -> Sequence[int]:
        """Class of each example; 0 where there are no classes."""

    @property
    def persons(self) -> Sequence[Sequence[int]]:
        """Indices of each person's examples; empty where the recipe's unit is not the person."""

    def __len__(self) -> int:
        """Number of examples."""

    def by_cost(self) -> list[int]:
        """Indices of all examples in an order in which batches waste little."""

    def inputs(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        """Keyword arguments of the model's forward for the chosen examples, at least one; batch first."""


def prepare(recipe: Recipe, base: LoadedBase, examples: Sequence[Example]) -> Prepared:
    """Texts as token ids, pictures as pixels.

    Raises:
      DataError: an example holds no readable picture.
    """
    if recipe.task.reads_images:
        return to_pixels(recipe, examples)
    if base.tokenizer is None:
        raise ValueError("a base that was loaded for pictures reads no texts")
    return tokenise(recipe, base.tokenizer, examples)


def per_example_loss(
    recipe: Recipe, model: torch.nn.Module, examples: Prepared, indices: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss of each example, which depends on that example alone, and how often it was right (classification).

    Causal language models: the mean over the example's own predicted tokens; a long text does not weigh more.

    Returns:
      losses (B,) in nats, and correct (B,) bool; all False for causal language models.
    """
    inputs = examples.inputs(indices)
    logits = model(**inputs).logits
    if recipe.task.has_classes:
        labels = torch.tensor([examples.labels[i] for i in indices])
        losses = torch.nn.functional.cross_entropy(logits.float(), labels, reduction="none")
        return losses, logits.argmax(-1) == labels
    targets = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, IGNORED)[:, 1:]
    token_losses = torch.nn.functional.cross_entropy(
        logits[:, :-1].float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="none"
    ).view(targets.shape)
    counts = (targets != IGNORED).sum(1).clamp(min=1)
    return token_losses.sum(1) / counts, torch.zeros(len(indices), dtype=torch.bool)

"""Examples as token ids, and batches of them as tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase

    from motet.data import Example
    from motet.recipe import Recipe

IGNORED = -100


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenisedExamples:
    """Ids of every example, at most ``task.max_length`` long and never empty; labels; what pads; and whose they are.

    ``persons`` holds the examples of each person, as indices; empty where the recipe's unit is not the person.
    """

    ids: Sequence[Sequence[int]]
    labels: Sequence[int]
    pad_id: int
    persons: Sequence[Sequence[int]] = ()

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.ids)


def tokenise(
    recipe: Recipe, tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example]
) -> TokenisedExamples:
    """All examples at once; a text without tokens becomes one padding token."""
    pad = int(tokenizer.pad_token_id)
    ids: list[list[int]] = []
    if examples:
        texts = [example.text for example in examples]
        ids = tokenizer(texts, truncation=True, max_length=recipe.task.max_length)["input_ids"]
    by_person: dict[str, list[int]] = {}
    for index, example in enumerate(examples):
        if example.person:
            by_person.setdefault(example.person, []).append(index)
    return TokenisedExamples(
        ids=[i or [pad] for i in ids],
        labels=[e.label for e in examples],
        pad_id=pad,
        persons=list(by_person.values()),
    )


def batch(
    tokens: TokenisedExamples, indices: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """``(input_ids, attention_mask, labels)`` of the chosen examples, padded to the longest of them.

    Returns:
      (B, T) int64, (B, T) int64, (B,) int64. B may not be 0.
    """
    rows = [tokens.ids[i] for i in indices]
    width = max(len(row) for row in rows)
    input_ids = torch.full((len(rows), width), tokens.pad_id, dtype=torch.int64)
    mask = torch.zeros((len(rows), width), dtype=torch.int64)
    for i, row in enumerate(rows):
        input_ids[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = 1
    return input_ids, mask, torch.tensor([tokens.labels[i] for i in indices])


def per_example_loss(
    recipe: Recipe, model: torch.nn.Module, tokens: TokenisedExamples, indices: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss of each example, which depends on that example alone, and how often it was right (classification).

    Causal language models: the mean over the example's own predicted tokens; a long text does not weigh more.

    Returns:
      losses (B,) in nats, and correct (B,) bool; all False for causal language models.
    """
    input_ids, mask, labels = batch(tokens, indices)
    logits = model(input_ids=input_ids, attention_mask=mask).logits
    if recipe.task.kind == "sequence-classification":
        losses = torch.nn.functional.cross_entropy(logits.float(), labels, reduction="none")
        return losses, logits.argmax(-1) == labels
    targets = input_ids.masked_fill(mask == 0, IGNORED)[:, 1:]
    token_losses = torch.nn.functional.cross_entropy(
        logits[:, :-1].float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="none"
    ).view(targets.shape)
    counts = (targets != IGNORED).sum(1).clamp(min=1)
    return token_losses.sum(1) / counts, torch.zeros(len(indices), dtype=torch.bool)

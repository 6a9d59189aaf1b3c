"""Examples as token ids, and batches of them as tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from client.persons import by_person

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase

    from motet.data import Example
    from motet.recipe import Recipe


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

    def by_cost(self) -> list[int]:
        """Indices of all examples, short ones first: batches of like lengths have little padding."""
        return sorted(range(len(self)), key=lambda i: len(self.ids[i]))

    def inputs(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        """``input_ids`` and ``attention_mask``, (B, T) int64, padded to the longest of them. B may not be 0."""
        rows = [self.ids[i] for i in indices]
        width = max(len(row) for row in rows)
        input_ids = torch.full((len(rows), width), self.pad_id, dtype=torch.int64)
        mask = torch.zeros((len(rows), width), dtype=torch.int64)
        for i, row in enumerate(rows):
            input_ids[i, : len(row)] = torch.tensor(row)
            mask[i, : len(row)] = 1
        return {"input_ids": input_ids, "attention_mask": mask}


def tokenise(
    recipe: Recipe, tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example]
) -> TokenisedExamples:
    """All examples at once; a text without tokens becomes one padding token."""
    pad = int(tokenizer.pad_token_id)
    ids: list[list[int]] = []
    if examples:
        texts = [example.text for example in examples]
        ids = tokenizer(texts, truncation=True, max_length=recipe.task.max_length)["input_ids"]
    return TokenisedExamples(
        ids=[i or [pad] for i in ids],
        labels=[e.label for e in examples],
        pad_id=pad,
        persons=by_person(examples),
    )

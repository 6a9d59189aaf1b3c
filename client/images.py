"""Examples as pixels of the model's size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from client.persons import by_person
from motet.data import pixels
from motet.vision import normalised

if TYPE_CHECKING:
    from collections.abc import Sequence

    from motet.data import Example
    from motet.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelExamples:
    """Pictures of one size, (N, 3, S, S) uint8; their labels; and whose they are, as in ``TokenisedExamples``."""

    pixels: torch.Tensor
    labels: Sequence[int]
    persons: Sequence[Sequence[int]] = ()

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.labels)

    def by_cost(self) -> list[int]:
        """Indices of all examples; pictures of one size cost the same."""
        return list(range(len(self)))

    def inputs(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        """``pixel_values`` (B, 3, S, S) float32 of the chosen examples."""
        return {"pixel_values": normalised(self.pixels[list(indices)])}


def to_pixels(recipe: Recipe, examples: Sequence[Example]) -> PixelExamples:
    """All examples at once.

    Raises:
      DataError: an example holds no readable picture.
    """
    size = recipe.task.image_size
    made = [pixels(e.image, size, f"example {i}") for i, e in enumerate(examples, start=1)]
    stacked = np.stack(made) if made else np.zeros((0, 3, size, size), np.uint8)
    labels = [e.label for e in examples]
    return PixelExamples(pixels=torch.from_numpy(stacked), labels=labels, persons=by_person(examples))

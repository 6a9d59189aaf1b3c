"""Which examples take part in one private step: a Poisson sample of what the recipe protects.

With unit ``example`` each example joins by itself. With unit ``person`` each person joins by itself, with all of their
examples or, of a person who has more than ``max_examples_per_person``, with that many, drawn afresh for each step. What
is drawn of one person depends on that person's examples alone. A person's examples stay in one batch, where their
gradients are added up and clipped together, so that neighbours that differ by a whole person give sums that differ by
at most the clipping norm. The bound on examples limits the work of a step; the guarantee rests on the clipping.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from privacy.sampling import poisson_indices

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from client.inputs import Prepared
    from motet.recipe.model import PrivacySection
    from privacy.noise import NoiseSource

MICRO_BATCH = 32
_TOSSES = 53  # fair coins a sort key; two keys of one person are equal with probability 2^-53


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateBatch:
    """Examples for one backward pass, and whose each is; ``owners`` is None where each stands for itself."""

    examples: Sequence[int]
    owners: Sequence[int] | None = None


def private_batches(privacy: PrivacySection, ready: Prepared, noise: NoiseSource) -> Iterator[PrivateBatch]:
    """Draw one step.

    Args:
      privacy: unit, sampling rate and bound, all public.
      ready: the client's examples.
      noise: where the coins come from.

    Yields:
      batches of about ``MICRO_BATCH`` examples; none for an empty sample. A person's examples are never split.
    """
    if privacy.unit != "person":
        chosen = poisson_indices(len(ready), privacy.sampling_rate, noise).tolist()
        for start in range(0, len(chosen), MICRO_BATCH):
            yield PrivateBatch(examples=chosen[start : start + MICRO_BATCH])
        return
    most = privacy.max_examples_per_person or 1
    examples: list[int] = []
    owners: list[int] = []
    for person in poisson_indices(len(ready.persons), privacy.sampling_rate, noise).tolist():
        drawn = bounded(ready.persons[person], most, noise)
        if examples and len(examples) + len(drawn) > MICRO_BATCH:
            yield PrivateBatch(examples=examples, owners=owners)
            examples, owners = [], []
        examples = examples + drawn
        owners = owners + [person] * len(drawn)
    if examples:
        yield PrivateBatch(examples=examples, owners=owners)


def bounded(examples: Sequence[int], most: int, noise: NoiseSource) -> list[int]:
    """All of ``examples``, or ``most`` of them drawn uniformly without replacement; in their order."""
    if len(examples) <= most:
        return list(examples)
    coins = noise.bernoulli(_TOSSES * len(examples), 0.5).reshape(len(examples), _TOSSES)
    keys = coins @ (2.0 ** -np.arange(1, _TOSSES + 1))
    return [examples[i] for i in sorted(np.argsort(keys)[:most].tolist())]

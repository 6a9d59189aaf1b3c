"""Poisson sampling: each example joins a step with the same probability, independently of all others.

The accountant's amplification by sampling holds for this and not for shuffled epochs (Chua et al. 2024,
https://arxiv.org/abs/2403.17673). The number drawn is itself private and varies; it may be zero.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from privacy.noise import NoiseSource


def poisson_indices(num_examples: int, sampling_rate: float, noise: NoiseSource) -> npt.NDArray[np.int64]:
    """Draw one step's examples.

    Args:
      num_examples: size of the data set, >= 0.
      sampling_rate: probability in [0, 1] of each example.
      noise: the source of the coin tosses.

    Returns:
      Ascending indices into the data set, shape (B,), 0 <= B <= num_examples. B = 0 is a valid draw: the step
      is still taken, with noise alone, and still charged.

    Raises:
      ValueError: ``num_examples`` is negative or ``sampling_rate`` is outside [0, 1].
    """
    return np.flatnonzero(noise.bernoulli(num_examples, sampling_rate)).astype(np.int64)

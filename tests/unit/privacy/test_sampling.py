"""Sampling is Poisson: each example independently, a batch size that varies, never a permutation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from privacy.noise import SystemNoise
from privacy.sampling import poisson_indices

NUM_EXAMPLES, RATE, DRAWS = 60, 0.2, 4_000


@pytest.fixture(scope="module")
def included() -> np.ndarray:
    """(DRAWS, NUM_EXAMPLES) of 0 and 1."""
    source = SystemNoise()
    table = np.zeros((DRAWS, NUM_EXAMPLES))
    for row in table:
        row[poisson_indices(NUM_EXAMPLES, RATE, source)] = 1
    return table


def test_every_example_joins_with_the_sampling_rate(included):
    slack = 7 * math.sqrt(RATE * (1 - RATE) / DRAWS)
    assert np.abs(included.mean(0) - RATE).max() < slack


def test_examples_join_independently_of_each_other(included):
    correlation = np.corrcoef(included.T) - np.eye(NUM_EXAMPLES)
    assert np.abs(correlation).max() < 7.5 / math.sqrt(DRAWS)


def test_the_batch_size_varies_as_a_binomial(included):
    sizes = included.sum(1)
    assert sizes.mean() == pytest.approx(NUM_EXAMPLES * RATE, rel=0.05)
    assert sizes.var() == pytest.approx(NUM_EXAMPLES * RATE * (1 - RATE), rel=0.2)


def test_draws_are_independent_so_an_epoch_is_not_a_permutation(included):
    epoch = included[:5].sum(0)  # a shuffled epoch of five batches would hold each example exactly once
    assert (epoch != 1).any()
    again = [(included[i] * included[i + 1]).mean() for i in range(DRAWS - 1)]
    assert np.mean(again) == pytest.approx(RATE**2, rel=0.1)


def test_the_edges():
    source = SystemNoise()
    assert poisson_indices(0, 0.5, source).shape == (0,)
    assert poisson_indices(9, 0.0, source).shape == (0,)
    assert poisson_indices(9, 1.0, source).tolist() == list(range(9))
    assert poisson_indices(9, 0.5, source).dtype == np.int64
    with pytest.raises(ValueError, match="need n"):
        poisson_indices(9, 1.1, source)

import math

import pytest
import torch

from aggregation.adapter import FactorPair
from aggregation.kernels import distance, factor_svd, norm, recompress, relative_error, stack


def pair(rank=2, m=5, n=7, seed=0, scale=1.0):
    g = torch.Generator().manual_seed(seed)
    return FactorPair(B=torch.randn(m, rank, generator=g), A=torch.randn(rank, n, generator=g), scale=scale)


def zero(rank=2, m=5, n=7):
    return FactorPair(B=torch.zeros(m, rank), A=torch.ones(rank, n))


@pytest.mark.parametrize(
    ("b", "a"), [((5, 2), (3, 7)), ((5,), (5, 7)), ((5, 2, 1), (2, 7)), ((2, 5), (7, 2))]
)
def test_factors_that_do_not_fit_are_refused(b, a):
    with pytest.raises(ValueError, match="do not fit"):
        FactorPair(B=torch.zeros(b), A=torch.zeros(a))


def test_stacking_nothing_or_unlike_things_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        stack([], [])
    with pytest.raises(ValueError, match="weight for each pair"):
        stack([pair()], [0.5, 0.5])
    with pytest.raises(ValueError, match="different shapes"):
        stack([pair(), pair(m=6)], [0.5, 0.5])


def test_a_stack_has_the_sum_of_ranks_and_scale_one():
    whole = stack([pair(1), pair(3, scale=4.0)], [0.5, 0.5])
    assert (whole.lora_rank, whole.shape, whole.scale, whole.B.dtype) == (4, (5, 7), 1.0, torch.float32)


def test_recompression_finds_the_numerical_rank_and_loses_nothing():
    twice = stack([pair(), pair()], [0.25, 0.75])
    small = recompress(twice)
    assert (twice.lora_rank, small.lora_rank) == (4, 2)
    assert relative_error([small], [twice]) < 1e-6
    assert norm(FactorPair(B=small.B, A=torch.eye(2))) == pytest.approx(
        norm(FactorPair(B=torch.eye(2), A=small.A)), rel=1e-5
    )


def test_recompression_to_a_rank_reports_what_is_cut():
    whole = pair(4)
    singular = factor_svd(whole)[1]
    cut = recompress(whole, 2)
    assert distance(cut, whole) == pytest.approx(float(singular[2:].square().sum().sqrt()), rel=1e-6)


def test_a_zero_change_is_a_change_of_rank_one():
    small = recompress(zero())
    assert small.lora_rank == 1
    assert norm(small) == 0.0


def test_relative_error_of_nothing_is_zero_and_of_something_over_nothing_is_infinite():
    assert relative_error([zero()], [zero()]) == 0.0
    assert relative_error([pair()], [zero()]) == math.inf
    assert relative_error([zero()], [pair()]) == pytest.approx(1.0)
    assert relative_error([], []) == 0.0


def test_relative_error_takes_all_layers_as_one_vector():
    a, b = pair(seed=1), pair(seed=2, m=9)
    wrong = FactorPair(B=b.B * 1.1, A=b.A)
    expected = 0.1 * norm(b) / math.hypot(norm(a), norm(b))
    assert relative_error([a, wrong], [a, b]) == pytest.approx(expected, rel=1e-6)


def test_signs_of_singular_vectors_do_not_depend_on_the_signs_of_the_factors():
    one = pair(3)
    other = FactorPair(B=-one.B, A=-one.A)
    for left, right in zip(factor_svd(one), factor_svd(other), strict=True):
        torch.testing.assert_close(left, right)

"""No example, however odd, moves the sum before noise by more than the clipping norm: on models that clients train."""

from __future__ import annotations

from functools import lru_cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_trained import KINDS, METHODS, PAD, Trained, clipped_sum, texts, trained

ODD = ("as it is", "a million times", "NaN", "infinite", "empty", "all padding", "one token", "duplicate")


@lru_cache(maxsize=8)
def model_of(kind: str, method: str) -> Trained:
    return trained(kind, method)


def summed(kind: str, method: str, ids: list[list[int]], factors: list[float], norm: float, *, clip: bool):
    made = model_of(kind, method)

    def losses() -> torch.Tensor:
        return made.losses(ids) * torch.tensor(factors)

    if clip:
        return clipped_sum(made.params, losses, made.model, norm)
    # The broken variant: what an ordinary step adds up.
    return torch.cat([g.flatten() for g in torch.autograd.grad(losses().sum(), made.params)])


def moved_by_one(
    kind: str,
    method: str,
    odd: str,
    where: int,
    lengths: list[int],
    clipping_norm: float,
    *,
    clip: bool = True,
) -> float:
    """L2 distance of the sums with and without one odd example."""
    ids = texts(lengths)
    where %= len(ids)
    if odd == "duplicate":
        ids[where] = ids[where - 1]
    if odd in ("empty", "all padding", "one token"):
        ids[where] = {"empty": [PAD], "all padding": [PAD] * 9, "one token": [65]}[odd]
    factor = {"a million times": 1e6, "NaN": float("nan"), "infinite": float("inf")}.get(odd, 1.0)
    ids.append(ids.pop(where))  # labels go by position: without the last, the others keep theirs
    factors = [1.0] * (len(ids) - 1) + [factor]
    whole = summed(kind, method, ids, factors, clipping_norm, clip=clip)
    return float((whole - summed(kind, method, ids[:-1], factors[:-1], clipping_norm, clip=clip)).norm())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", list(KINDS))
@settings(max_examples=12, deadline=None)
@given(
    odd=st.sampled_from(ODD),
    where=st.integers(0, 5),
    lengths=st.lists(st.integers(1, 20), min_size=2, max_size=6),
    clipping_norm=st.sampled_from([1e-3, 0.1, 10.0]),
)
def test_any_one_example_moves_the_sum_by_at_most_the_clipping_norm(
    kind, method, odd, where, lengths, clipping_norm
):
    # The others keep their share up to float32: padded to another length they are rounded otherwise.
    others = 2e-6 * len(lengths) * max(clipping_norm, 1.0)
    assert (
        moved_by_one(kind, method, odd, where, lengths, clipping_norm) <= clipping_norm * (1 + 1e-5) + others
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", list(KINDS))
def test_a_million_times_an_example_moves_a_sum_that_is_not_clipped_by_far_more(kind, method):
    assert moved_by_one(kind, method, "a million times", 1, [9, 9, 9], 0.1, clip=False) > 100
    assert moved_by_one(kind, method, "a million times", 1, [9, 9, 9], 0.1) <= 0.1 * (1 + 1e-5) + 1e-6


@pytest.mark.parametrize("odd", ["NaN", "infinite"])
@pytest.mark.parametrize("kind", list(KINDS))
def test_an_example_that_is_not_finite_moves_nothing(kind, odd):
    assert moved_by_one(kind, "fedit", odd, 1, [9, 9, 9], 0.1) <= 1e-6
    assert moved_by_one(kind, "fedit", "as it is", 1, [9, 9, 9], 0.1) > 0.09  # the same example, finite

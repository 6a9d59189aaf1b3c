"""The unit can be the person: all of a person's examples together count for at most C."""

from __future__ import annotations

import math

import pytest
import torch

from privacy.dpsgd import DpSgd
from privacy.noise import SystemNoise

CLIPPING_NORM = 0.3
OWNERS = {"bert": 8, "gpt2": 6, "llama": 6, "linear_head": 7, "fed_sb": 7}


def flat(tensors) -> torch.Tensor:
    return torch.cat([t.detach().flatten() for t in tensors])


def summed(problem, rows, owners, *, scale=None, parts=1, clipping_norm=CLIPPING_NORM) -> torch.Tensor:
    """The sum before noise, over ``rows``, with ``owners[row]`` as each row's person (None: every row for itself)."""
    params = problem.params
    engine = DpSgd(
        problem.model,
        torch.optim.SGD(params, lr=0.0),
        clipping_norm=clipping_norm,
        noise_multiplier=0.0,
        expected_batch_size=1.0,
        noise=SystemNoise(),
    )
    try:
        for part in torch.tensor(rows, dtype=torch.int64).tensor_split(parts):
            losses = problem.loss(part)
            if scale is not None:
                losses = losses * scale[part]
            engine.accumulate(losses, None if owners is None else [owners[row] for row in part.tolist()])
        return flat([p.summed_grad for p in params])
    finally:
        engine.close()


def test_each_persons_summed_gradient_is_clipped_as_a_whole(problem):
    rows = list(range(problem.num_examples))
    owners = [row % 3 for row in rows]
    expected = torch.zeros(sum(p.numel() for p in problem.params))
    for person in range(3):
        own = torch.tensor([row for row in rows if owners[row] == person])
        gradient = flat(torch.autograd.grad(problem.loss(own).sum(), problem.params))
        expected += gradient * min(1.0, 0.01 / (float(gradient.norm()) + 1e-6))
    got = summed(problem, rows, owners, clipping_norm=0.01)
    assert float((got - expected).norm() / expected.norm()) < 1e-5
    each = summed(problem, rows, None, clipping_norm=0.01)
    assert (
        float((each - expected).norm() / expected.norm()) > 1e-2
    )  # positive control: example by example differs


@pytest.mark.parametrize("bad", [1.0, 1e6, math.inf, math.nan])
def test_a_whole_person_moves_the_sum_by_at_most_the_clipping_norm(problem, bad):
    """Neighbours differ by one person with half of all examples, whatever these are."""
    rows = list(range(problem.num_examples))
    mine = rows[: len(rows) // 2]
    owners = [0 if row in mine else row for row in rows]
    scale = torch.ones(len(rows))
    scale[mine[-1]] = bad
    rest = [row for row in rows if row not in mine]
    difference = summed(problem, rows, owners, scale=scale) - summed(problem, rest, owners)
    assert float(difference.norm()) <= CLIPPING_NORM * (1 + 1e-5)


def test_without_owners_a_person_moves_the_sum_by_more_so_that_the_test_is_not_blind(head):
    rows = [2] * 5 + [0, 1]  # one person wrote the same thing five times
    difference = summed(head, rows, None) - summed(head, [0, 1], None)
    assert float(difference.norm()) > 2 * CLIPPING_NORM
    together = summed(head, rows, {2: 9, 0: 0, 1: 1}) - summed(head, [0, 1], {0: 0, 1: 1})
    assert float(together.norm()) <= CLIPPING_NORM * (1 + 1e-5)


def test_a_person_with_a_bad_example_contributes_exactly_zero(head):
    scale = torch.ones(head.num_examples)
    scale[3] = math.nan
    owners = [0, 0, 1, 1, 2, 2, 2]
    got = summed(head, list(range(7)), owners, scale=scale)
    torch.testing.assert_close(got, summed(head, [0, 1, 4, 5, 6], owners), rtol=1e-6, atol=1e-7)


def test_micro_batches_of_whole_persons_equal_one_batch(head):
    owners = [0, 0, 1, 1, 2, 2]
    torch.testing.assert_close(
        summed(head, list(range(6)), owners, parts=3), summed(head, list(range(6)), owners)
    )


def test_a_person_who_is_spread_over_two_calls_of_a_step_is_refused(head):
    with pytest.raises(ValueError, match="one accumulate call"):
        summed(head, [0, 1, 2, 3], [0, 1, 2, 0], parts=2)
    # What the refusal prevents: each half would be clipped by itself, and count twice.
    halves = summed(head, [2], [0] * 3) + summed(head, [2], [0] * 3)
    assert float(halves.norm()) > 1.5 * CLIPPING_NORM


def test_the_next_step_takes_the_same_person_again(head):
    params = head.params
    engine = DpSgd(
        head.model,
        torch.optim.SGD(params, lr=0.1),
        clipping_norm=1.0,
        noise_multiplier=0.0,
        expected_batch_size=1.0,
        noise=SystemNoise(),
    )
    for _ in range(2):
        engine.accumulate(head.loss(torch.tensor([0, 1])), [5, 5])
        engine.step()
    with pytest.raises(ValueError, match="owners"):
        engine.accumulate(head.loss(torch.tensor([0, 1])), [5])
    engine.close()

"""The clipped sum is exact, no example counts for more than C, and noise is added once."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from privacy.dpsgd import DpSgd
from privacy.errors import NonFiniteUpdateError, PerExampleGradientError, PrivacyError, UnsupportedModelError
from privacy.noise import SeededNoise, SystemNoise

CLIPPING_NORM = 0.3


def start(
    model: nn.Module, *, clipping_norm=CLIPPING_NORM, noise_multiplier=0.0, expected=1.0, noise=None, rate=1.0
):
    params = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(params, lr=rate)
    return DpSgd(
        model,
        optimizer,
        clipping_norm=clipping_norm,
        noise_multiplier=noise_multiplier,
        expected_batch_size=expected,
        noise=noise or SystemNoise(),
    )


def flat(tensors) -> torch.Tensor:
    return torch.cat([t.detach().flatten() for t in tensors])


def moved_by_step(problem, batches, **kwargs) -> torch.Tensor:
    """The step's descent direction: with SGD at rate 1 and divisor 1 it is the clipped sum."""
    params = problem.params
    before = flat(params)
    engine = start(problem.model, **kwargs)
    for rows in batches:
        engine.accumulate(problem.loss(rows))
    engine.step()
    engine.close()
    moved = before - flat(params)
    with torch.no_grad():
        offset = 0
        for p in params:
            p.copy_(before[offset : offset + p.numel()].view_as(p))
            offset += p.numel()
    return moved


def clipped_sum_of_loop(problem, rows, clipping_norm=CLIPPING_NORM) -> torch.Tensor:
    total = torch.zeros(sum(p.numel() for p in problem.params))
    for row in rows.tolist():
        gradient = flat(torch.autograd.grad(problem.loss(torch.tensor([row])).sum(), problem.params))
        total += gradient * min(1.0, clipping_norm / (float(gradient.norm()) + 1e-6))
    return total


def relative(got: torch.Tensor, expected: torch.Tensor) -> float:
    return float((got - expected).norm() / expected.norm())


@pytest.mark.parametrize("clipping_norm", [0.01, 0.3, 1e3])
def test_the_clipped_sum_equals_a_loop_over_single_examples(problem, clipping_norm):
    rows = torch.arange(problem.num_examples)
    expected = clipped_sum_of_loop(problem, rows, clipping_norm)
    got = moved_by_step(problem, [rows], clipping_norm=clipping_norm)
    # Parameters are float32, so what moved is rounded at about 1e-7 of their size as well.
    rounding = 2e-7 * float(flat(problem.params).norm()) / float(expected.norm())
    assert relative(got, expected) < 1e-5 + rounding


def test_the_gradient_handed_to_the_optimizer_is_exact_to_1e_5(problem):
    rows = torch.arange(problem.num_examples)
    expected = clipped_sum_of_loop(problem, rows, 0.01)
    engine = start(problem.model, clipping_norm=0.01, rate=0.0)
    engine.accumulate(problem.loss(rows))
    got = flat([p.summed_grad for p in problem.params])
    engine.close()
    assert relative(got, expected) < 1e-5


def test_unclipped_the_loop_differs_so_the_comparison_is_not_blind(problem):
    rows = torch.arange(problem.num_examples)
    assert (
        relative(moved_by_step(problem, [rows], clipping_norm=1e3), clipped_sum_of_loop(problem, rows, 1e-2))
        > 0.5
    )


def test_micro_batches_equal_one_batch(problem):
    rows = torch.arange(problem.num_examples)
    whole = moved_by_step(problem, [rows])
    parts = moved_by_step(problem, [rows[:1], rows[1:4], rows[4:]])
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("bad", [1e6, 1e30, math.inf, math.nan])
def test_no_example_moves_the_sum_by_more_than_the_clipping_norm(problem, bad):
    rows = torch.arange(problem.num_examples)
    scale = torch.ones(problem.num_examples)
    scale[2] = bad

    def clipped_sum(chosen):
        engine = start(problem.model)
        engine.accumulate(problem.loss(chosen) * scale[chosen])
        total = flat([p.summed_grad for p in problem.params])
        engine.close()
        return total

    with_it, without = clipped_sum(rows), clipped_sum(rows[rows != 2])
    assert torch.isfinite(with_it).all()
    assert float((with_it - without).norm()) <= CLIPPING_NORM * (1 + 1e-5)


def test_an_example_a_thousand_times_larger_can_not_lift_the_sum_over_b_times_c(problem):
    rows = torch.arange(problem.num_examples)
    scale = torch.ones(problem.num_examples)
    scale[0] = 1e3
    engine = start(problem.model)
    engine.accumulate(problem.loss(rows) * scale)
    total = float(flat([p.summed_grad for p in problem.params]).norm())
    engine.close()
    assert total <= CLIPPING_NORM * problem.num_examples * (1 + 1e-5)


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_an_example_that_is_not_finite_contributes_exactly_zero(head, bad):
    rows = torch.arange(head.num_examples)
    scale = torch.ones(head.num_examples)
    scale[4] = bad

    def total(weights, chosen):
        engine = start(head.model)
        engine.accumulate(head.loss(chosen) * weights[chosen])
        result = flat([p.summed_grad for p in head.params])
        engine.close()
        return result

    torch.testing.assert_close(
        total(scale, rows), total(torch.ones(7), rows[rows != 4]), rtol=1e-6, atol=1e-7
    )


def test_an_empty_batch_is_a_step_with_noise_alone(problem):
    moved = torch.cat([moved_by_step(problem, [], noise_multiplier=2.0) for _ in range(40)])
    band = 6 / math.sqrt(2 * moved.numel())  # six standard errors of a standard deviation
    assert band < 0.3
    assert float(moved.std()) == pytest.approx(2.0 * CLIPPING_NORM, rel=band)


def test_a_loss_of_no_examples_adds_nothing(head):
    moved = moved_by_step(head, [torch.zeros(0, dtype=torch.int64)])
    assert not moved.any()


def test_the_noise_has_standard_deviation_sigma_times_c_over_the_expected_batch_size():
    model = nn.Linear(400, 250, bias=False).train()
    engine = start(model, clipping_norm=0.5, noise_multiplier=3.0, expected=16.0)
    before = model.weight.detach().clone()
    engine.step()
    engine.close()
    std = float((before - model.weight.detach()).double().std())
    assert std == pytest.approx(3.0 * 0.5 / 16.0, rel=0.015)
    # Positive control: noise scaled after the mean, or half the noise, is out of the band.
    assert std != pytest.approx(3.0 * 0.5, rel=0.015)
    assert std / 2 != pytest.approx(3.0 * 0.5 / 16.0, rel=0.015)


def test_noise_is_added_exactly_once_however_many_micro_batches(head):
    class CountingNoise(SeededNoise):
        calls = 0

        def normal(self, shape, std):
            self.calls += 1
            return super().normal(shape, std)

    noise = CountingNoise(0)
    engine = start(head.model, noise_multiplier=1.0, noise=noise)
    for row in range(5):
        engine.accumulate(head.loss(torch.tensor([row])))
    engine.step()
    engine.close()
    assert noise.calls == 1


def test_the_divisor_is_the_expected_batch_size_whatever_was_drawn(head):
    rows = torch.arange(3)
    one = moved_by_step(head, [rows])
    ten = moved_by_step(head, [rows], expected=10.0)
    torch.testing.assert_close(ten, one / 10, rtol=1e-3, atol=1e-6)


def test_the_sum_is_forgotten_after_the_step(head):
    engine = start(head.model)
    engine.accumulate(head.loss(torch.arange(4)))
    engine.step()
    before = flat(head.params)
    engine.step()
    engine.close()
    assert torch.equal(before, flat(head.params))


def test_close_leaves_the_model_as_it_came(problem):
    before = {
        id(m): (set(vars(m)), len(m._forward_hooks), len(m._backward_hooks)) for m in problem.model.modules()
    }
    engine = start(problem.model)
    engine.accumulate(problem.loss(torch.arange(2)))
    engine.step()
    engine.close()
    engine.close()
    after = {
        id(m): (set(vars(m)), len(m._forward_hooks), len(m._backward_hooks)) for m in problem.model.modules()
    }
    assert after == before
    for param in problem.model.parameters():
        assert param.grad is None
        assert not {"grad_sample", "summed_grad", "_forward_counter"} & set(vars(param))
    with pytest.raises(PerExampleGradientError, match="closed"):
        engine.step()


def test_a_second_engine_on_the_same_model_is_refused(head):
    engine = start(head.model)
    with pytest.raises(UnsupportedModelError, match="close"):
        start(head.model)
    engine.close()


class OwnWeight(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, x):
        return x * self.weight


def test_a_trainable_module_without_a_sampler_is_refused_by_name():
    with pytest.raises(UnsupportedModelError, match=r"1\.weight is trainable but OwnWeight"):
        start(nn.Sequential(nn.Linear(3, 3), OwnWeight()).train())


def test_a_subclass_of_linear_is_refused_since_its_forward_may_differ():
    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    with pytest.raises(UnsupportedModelError, match="Doubled"):
        start(nn.Sequential(Doubled(3, 3)).train())


def test_tied_weights_are_refused():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)).train()
    model[1].weight = model[0].weight
    with pytest.raises(UnsupportedModelError, match="tied"):
        start(model)


def test_batch_normalisation_is_refused():
    with pytest.raises(UnsupportedModelError, match="mixes examples"):
        start(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3).requires_grad_(False)).train())


def test_a_model_with_nothing_to_train_is_refused():
    model = nn.Linear(3, 3).requires_grad_(False)
    with pytest.raises(UnsupportedModelError, match="no trainable"):
        DpSgd(
            model,
            torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0),
            clipping_norm=1.0,
            noise_multiplier=1.0,
            expected_batch_size=1,
            noise=SystemNoise(),
        )


def test_an_optimizer_over_other_parameters_is_refused():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)).train()
    optimizer = torch.optim.SGD(model[0].parameters(), lr=1.0)
    with pytest.raises(UnsupportedModelError, match=r"1\.weight"):
        DpSgd(
            model,
            optimizer,
            clipping_norm=1.0,
            noise_multiplier=1.0,
            expected_batch_size=1,
            noise=SystemNoise(),
        )


def test_a_weight_used_around_its_module_is_noticed_and_nothing_is_added():
    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 4, bias=False)

        def forward(self, x):
            return self.inner(x) + x @ self.inner.weight

    model = Around().train()
    engine = start(model)
    with pytest.raises(PerExampleGradientError, match=r"inner\.weight"):
        engine.accumulate(model(torch.randn(5, 4)).square().sum(1))
    assert model.inner.weight.summed_grad is None
    engine.close()


def test_a_parameter_that_saw_no_backward_stops_the_batch():
    model = nn.ModuleList([nn.Linear(3, 1), nn.Linear(3, 1)]).train()
    engine = start(model)
    with pytest.raises(PerExampleGradientError, match=r"1\.weight"):
        engine.accumulate(model[0](torch.randn(4, 3)).sum(1))
    engine.close()


def test_evaluation_mode_alters_nothing_but_dropout(head):
    rows = torch.arange(head.num_examples)
    expected = clipped_sum_of_loop(head, rows)
    head.model.eval()
    assert relative(moved_by_step(head, [rows]), expected) < 1e-5


def test_a_forward_pass_that_was_abandoned_does_not_disturb_the_next(head):
    rows = torch.arange(4)
    expected = clipped_sum_of_loop(head, rows)
    engine = start(head.model, rate=0.0)
    head.loss(torch.arange(6))
    engine.accumulate(head.loss(rows))
    got = flat([p.summed_grad for p in head.params])
    engine.close()
    assert relative(got, expected) < 1e-5


def test_what_the_graph_gave_before_does_not_enter_the_batch(head):
    rows = torch.arange(4)
    expected = clipped_sum_of_loop(head, rows)
    engine = start(head.model, rate=0.0)
    head.loss(rows).sum().backward()
    engine.accumulate(head.loss(rows))
    got = flat([p.summed_grad for p in head.params])
    engine.close()
    assert relative(got, expected) < 1e-5


def test_a_loss_of_one_example_that_reaches_another_stops_the_batch(head):
    def contrastive(rows: torch.Tensor) -> torch.Tensor:
        losses = head.loss(rows)
        return losses - 0.1 * losses.mean()

    engine = start(head.model)
    with pytest.raises(PerExampleGradientError, match="one example depends on another"):
        engine.accumulate(contrastive(torch.arange(4)))
    assert all(p.summed_grad is None for p in head.params)
    engine.accumulate(head.loss(torch.arange(4)))  # the same without the mean is taken
    engine.close()


def test_a_layer_with_positions_first_is_noticed_even_where_the_sizes_agree():
    class PositionsFirst(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 4)

        def forward(self, x):
            return self.inner(x.transpose(0, 1)).transpose(0, 1)

    model = PositionsFirst().train()
    engine = start(model)
    with pytest.raises(PerExampleGradientError, match="batch does not come first"):
        engine.accumulate(model(torch.randn(5, 5, 4)).square().sum((1, 2)))
    engine.close()


def test_two_passes_with_batches_of_two_sizes_are_refused(head):
    engine = start(head.model)
    with pytest.raises(PerExampleGradientError):
        engine.accumulate(head.loss(torch.arange(4)) + head.loss(torch.arange(1)))
    engine.close()


def test_no_weight_gets_the_gradient_of_the_whole_batch(head):
    engine = start(head.model)
    engine.accumulate(head.loss(torch.arange(4)))
    assert all(p.grad is None for p in head.params)
    engine.close()
    head.loss(torch.arange(4)).sum().backward()
    assert all(p.grad is not None for p in head.params)


def test_batch_normalisation_switched_on_later_stops_the_batch():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3).requires_grad_(False)).eval()
    engine = start(model)
    model.train()
    with pytest.raises(UnsupportedModelError, match="mixes examples"):
        engine.accumulate(model(torch.randn(4, 3)).square().sum(1))
    engine.close()


def test_weight_normalisation_is_refused():
    model = nn.Sequential(nn.utils.weight_norm(nn.Linear(3, 3)))
    with pytest.raises(UnsupportedModelError, match="weight_g is trainable"):
        start(model)


def test_examples_whose_positions_cancel_are_clipped_by_what_is_added():
    # Norms from Gram matrices lose such a gradient in rounding, and would let it through larger than C.
    model = nn.Linear(16, 16, bias=False).train()
    x = 1e4 * torch.randn(1, 64, 16)
    inputs = torch.cat([x, x * (1 + 1e-6 * torch.randn(1, 64, 16))], 1)
    signs = torch.cat([torch.ones(1, 64, 1), -torch.ones(1, 64, 1)], 1)
    engine = start(model, clipping_norm=1e-2, rate=0.0)
    engine.accumulate((model(inputs) * signs).sum((1, 2)))
    norm = float(model.weight.summed_grad.norm())
    engine.close()
    assert norm == pytest.approx(1e-2, rel=1e-3)
    assert norm <= 1e-2 * (1 + 1e-5)


@pytest.mark.parametrize("small", [1e-30, 1e-23, 1e-10])
def test_tiny_inputs_with_huge_gradients_are_clipped_too(small):
    model = nn.Linear(8, 2, bias=False).train()
    engine = start(model, clipping_norm=1e-3, rate=0.0)
    engine.accumulate((model(torch.full((1, 8), small)) * (1e-2 / small)).sum(1))
    norm = float(model.weight.summed_grad.norm())
    engine.close()
    assert norm == pytest.approx(1e-3, rel=1e-3)


def test_a_scalar_loss_is_refused(head):
    engine = start(head.model)
    with pytest.raises(ValueError, match="one loss for each example"):
        engine.accumulate(head.loss(torch.arange(3)).mean())
    engine.close()


def test_a_noised_gradient_that_overflows_is_not_applied(head):
    before = flat(head.params)
    engine = start(head.model, clipping_norm=1e30, noise_multiplier=1e30)
    with pytest.raises(NonFiniteUpdateError):
        engine.step()
    engine.close()
    assert torch.equal(before, flat(head.params))


@pytest.mark.parametrize(
    "bad",
    [
        {"clipping_norm": 0.0},
        {"clipping_norm": math.nan},
        {"noise_multiplier": -1.0},
        {"noise_multiplier": math.inf},
        {"expected": 0.0},
    ],
)
def test_numbers_out_of_range_are_refused(head, bad):
    with pytest.raises(ValueError, match="must be finite"):
        start(head.model, **bad)


def test_two_clients_with_the_same_global_seed_add_different_noise():
    moves = []
    for _ in range(2):
        torch.manual_seed(5)
        np.random.seed(5)  # noqa: NPY002
        model = nn.Linear(100, 100, bias=False).train()
        before = model.weight.detach().clone()
        engine = start(model, noise_multiplier=1.0)
        engine.step()
        engine.close()
        moves.append((before - model.weight.detach()).flatten())
    correlation = float(torch.corrcoef(torch.stack(moves))[0, 1])
    assert abs(correlation) < 7 / math.sqrt(10_000)


def test_low_precision_gradients_are_clipped_in_float32_and_added_in_float64():
    model = nn.Linear(64, 64).to(torch.bfloat16).train()
    engine = start(model, clipping_norm=1.0)
    inputs = 50 * torch.randn(9, 64, dtype=torch.bfloat16)
    engine.accumulate(model(inputs).square().sum(1))
    total = flat([p.summed_grad for p in model.parameters()])
    engine.close()
    assert total.dtype == torch.float64
    assert float(total.norm()) <= 9 * (1 + 1e-5)


def test_every_refusal_is_a_privacy_error():
    for kind in (NonFiniteUpdateError, PerExampleGradientError, UnsupportedModelError):
        assert issubclass(kind, PrivacyError)


def test_memory_that_is_used_again_holds_nothing_of_an_earlier_step():
    """Batches grow and shrink, and a layer is used twice in one pass; each step is as if it were the first."""

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(5, 5, bias=False), nn.Linear(5, 2)

        def forward(self, x):
            return self.second(self.first(self.first(x))).flatten(1).sum(1)

    def engine(model):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        return DpSgd(
            model,
            optimizer,
            clipping_norm=0.5,
            noise_multiplier=0.0,
            expected_batch_size=4,
            noise=SeededNoise(0),
        )

    torch.manual_seed(0)
    lasting = Twice()
    used = engine(lasting)
    for size in (3, 1, 6, 2, 0, 6):
        fresh = Twice()
        fresh.load_state_dict({k: v.clone() for k, v in lasting.state_dict().items()})
        batch, once = torch.randn(size, 4, 5), engine(fresh)
        for model, steps in ((lasting, used), (fresh, once)):
            steps.accumulate(model(batch) ** 2)
            steps.step()
        once.close()
        for mine, theirs in zip(lasting.parameters(), fresh.parameters(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-7)
    used.close()

"""The clipped sum against a loop over single examples and against Opacus as it ships, hooks and ghost clipping."""

from __future__ import annotations

import pytest
import torch
from opacus.grad_sample import GradSampleModule
from opacus.grad_sample.grad_sample_module_fast_gradient_clipping import GradSampleModuleFastGradientClipping
from opacus.optimizers import DPOptimizer
from tiny_trained import KINDS, METHODS, Trained, clipped_sum, looped_sum, texts, trained
from torch import nn

LENGTHS = [9, 4, 12, 1, 7]
EQUAL = [6, 6, 6]
# A language model has nothing to predict in texts of one token.
CASES = [*((kind, lengths) for kind in KINDS for lengths in (LENGTHS, EQUAL)), ("bert", [1, 1, 1])]


def opacus_hooks(made: Trained, ids: list[list[int]], clipping_norm: float) -> torch.Tensor:
    wrapped = GradSampleModule(made.model, loss_reduction="sum")
    params = [p for p in wrapped.parameters() if p.requires_grad]
    optimizer = DPOptimizer(
        torch.optim.SGD(params, lr=1.0),
        noise_multiplier=0.0,
        max_grad_norm=clipping_norm,
        expected_batch_size=None,
        loss_reduction="sum",
    )
    made.losses(ids, wrapped).sum().backward()
    optimizer.pre_step()
    return torch.cat([p.grad.flatten() for p in params])


def opacus_ghost(made: Trained, ids: list[list[int]], clipping_norm: float) -> torch.Tensor:
    wrapped = GradSampleModuleFastGradientClipping(
        made.model, max_grad_norm=clipping_norm, use_ghost_clipping=True, loss_reduction="sum"
    )
    params = [p for p in wrapped.parameters() if p.requires_grad]
    each = made.losses(ids, wrapped)
    each.sum().backward(retain_graph=True)
    factors = wrapped.get_clipping_coef()
    for param in params:
        param.grad = None
    wrapped.disable_hooks()
    (factors * each).sum().backward()
    return torch.cat([p.grad.flatten() for p in params])


def batch_1_loop(made: Trained, ids: list[list[int]], clipping_norm: float) -> torch.Tensor:
    def loss(i: int) -> torch.Tensor:
        return (
            made.losses([*ids[:i], ids[i]])[i] if made.recipe.task.has_classes else made.losses([ids[i]])[0]
        )

    return looped_sum(made.params, loss, len(ids), clipping_norm)


def distance(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours.double() - theirs.double()).norm() / theirs.double().norm())


@pytest.mark.filterwarnings("ignore:Full backward hook")
@pytest.mark.parametrize("theirs", [batch_1_loop, opacus_hooks, opacus_ghost])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("kind", "lengths"), CASES)
def test_the_clipped_sum_equals_that_of_another_program(kind, method, theirs, lengths):
    ids = texts(lengths)
    made = trained(kind, method)
    for clipping_norm in (0.05, 100.0):
        ours = clipped_sum(made.params, lambda: made.losses(ids), made.model, clipping_norm)
        assert distance(ours, theirs(trained(kind, method), ids, clipping_norm)) < 1e-5
    # Positive control: a norm one percent away is seen.
    other = clipped_sum(made.params, lambda: made.losses(ids), made.model, 0.0505)
    assert distance(other, theirs(trained(kind, method), ids, 0.05)) > 1e-3


class Mixed(nn.Module):
    """A frozen layer in one dtype, LoRA's factors in another, as peft casts between them; and a head."""

    def __init__(self, base: torch.dtype, adapter: torch.dtype) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.base = nn.Linear(12, 10).to(base).requires_grad_(False)
        self.a = nn.Linear(12, 3, bias=False).to(adapter)
        self.b = nn.Linear(3, 10, bias=False).to(adapter)
        self.head = nn.Linear(10, 2).to(adapter)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept = self.base.weight.dtype
        low = self.b(self.a(x.to(self.a.weight.dtype)))
        return self.head(torch.tanh(self.base(x.to(kept)) + low.to(kept)).to(self.a.weight.dtype).mean(1))


DTYPES = [
    (torch.float32, torch.float32, 1e-5),
    (torch.float64, torch.float64, 1e-12),
    (torch.bfloat16, torch.float32, 1e-5),
    (torch.float16, torch.float32, 1e-5),
    (torch.float32, torch.float64, 1e-5),
    (torch.bfloat16, torch.bfloat16, 2e-2),  # the loop rounds each gradient to bfloat16, we do not
]


@pytest.mark.parametrize(("base", "adapter", "bound"), DTYPES)
def test_the_clipped_sum_equals_the_loop_in_equal_and_mixed_dtypes(base, adapter, bound):
    model = Mixed(base, adapter)
    params = [p for p in model.parameters() if p.requires_grad]
    inputs = torch.randn(6, 5, 12, generator=torch.Generator().manual_seed(1))
    for clipping_norm in (0.1, 100.0):
        whole = model(inputs).square().sum(1)
        expected = looped_sum(params, lambda i, losses=whole: losses[i], 6, clipping_norm)
        ours = clipped_sum(params, lambda: model(inputs).square().sum(1), model, clipping_norm)
        assert distance(ours, expected) < bound
        assert distance(1.05 * ours, expected) > bound  # positive control


def test_the_clipped_sum_equals_the_loop_under_autocast():
    model = Mixed(torch.float32, torch.float32)
    params = [p for p in model.parameters() if p.requires_grad]
    inputs = torch.randn(6, 5, 12, generator=torch.Generator().manual_seed(1))

    def losses() -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return model(inputs).float().square().sum(1)

    whole = losses()
    expected = looped_sum(params, lambda i: whole[i], 6, 0.1)
    assert distance(clipped_sum(params, losses, model, 0.1), expected) < 2e-2


def test_the_clipped_sum_is_the_same_with_checkpointed_activations():
    model, plain = (trained("llama", "fedit") for _ in range(2))
    model.model.gradient_checkpointing_enable({"use_reentrant": False})
    ids = texts(LENGTHS)
    ours = clipped_sum(model.params, lambda: model.losses(ids), model.model, 0.05)
    assert distance(ours, clipped_sum(plain.params, lambda: plain.losses(ids), plain.model, 0.05)) < 1e-6

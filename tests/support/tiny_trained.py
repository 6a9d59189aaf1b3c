"""Tiny models with an adapter that is not zero, put on as clients put it, and losses of their examples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from aggregation.adapter import AdapterState, FactorPair
from client.adapters import attach, fed_sb_bases
from client.inputs import per_example_loss
from client.tokens import TokenisedExamples
from motet.modeling import initial_dense, layer_shapes, load_base
from motet.recipe import Recipe, parse_recipe
from privacy.dpsgd import DpSgd
from privacy.noise import SeededNoise

KINDS = {
    "bert": ("tiny-bert", "{kind: sequence-classification, num_labels: 3, max_length: 24}", "[query, value]"),
    "llama": ("tiny-llama", "{kind: causal-lm, max_length: 24}", "[q_proj, v_proj, down_proj]"),
    "gpt2": ("tiny-gpt2", "{kind: causal-lm, max_length: 24}", "[c_attn, c_fc]"),
}
METHODS = ("fedit", "fed-sb")
PAD = 256


@dataclass(frozen=True)
class Trained:
    """A recipe and its model in training mode, with LoRA or Fed-SB of rank 4 on it."""

    recipe: Recipe
    model: nn.Module

    @property
    def params(self) -> list[nn.Parameter]:
        return [p for p in self.model.parameters() if p.requires_grad]

    def losses(self, ids: list[list[int]], model: nn.Module | None = None) -> torch.Tensor:
        """(B,) of these texts; example i has label i mod 3 where the task has labels."""
        examples = TokenisedExamples(ids=ids, labels=[i % 3 for i in range(len(ids))], pad_id=PAD)
        return per_example_loss(self.recipe, model or self.model, examples, range(len(ids)))[0]


def trained(kind: str, method: str) -> Trained:
    tiny, task, targets = KINDS[kind]
    recipe = parse_recipe(
        f"name: t\nbase_model: {{tiny: {tiny}}}\ntask: {task}\ndata: {{path: x.jsonl}}\n"
        f"adapter: {{lora_rank: 4, targets: {targets}}}\nmethod: {{name: {method}}}\ncohort: {{clients: [a, b]}}\n"
        "training: {rounds: 1, local_steps: 1, expected_batch_size: 8, learning_rate: 5e-3}\nseed: 3\n"
    )
    made = torch.Generator().manual_seed(5)
    model, shapes = load_base(recipe), layer_shapes(recipe)
    dense = initial_dense(recipe)
    if method == "fed-sb":
        cores = {n: torch.randn(4, 4, generator=made) for n in shapes}
        bases = fed_sb_bases(model, recipe, 4)
        attach(model, recipe, AdapterState(cores=cores, dense=dense), bases=bases, scale=2.0)
    else:
        lora = {
            n: FactorPair(
                B=0.1 * torch.randn(m, 4, generator=made), A=torch.randn(4, k, generator=made), scale=2.0
            )
            for n, (m, k) in shapes.items()
        }
        attach(model, recipe, AdapterState(lora=lora, dense=dense))
    return Trained(recipe, model.train())


def texts(lengths: list[int]) -> list[list[int]]:
    """Random bytes, the same for the same lengths."""
    drawn = torch.Generator().manual_seed(sum(lengths))
    return [torch.randint(0, 256, (n,), generator=drawn).tolist() for n in lengths]


def clipped_sum(
    params: list[nn.Parameter], losses: Callable[[], torch.Tensor], model: nn.Module, clipping_norm: float
) -> torch.Tensor:
    """What ``DpSgd`` adds up for one batch, as one vector in the order of ``params``."""
    engine = DpSgd(
        model,
        torch.optim.SGD(params, lr=0.0),
        clipping_norm=clipping_norm,
        noise_multiplier=0.0,
        expected_batch_size=1.0,
        noise=SeededNoise(0),
    )
    try:
        engine.accumulate(losses())
        return torch.cat([p.summed_grad.flatten() for p in params])
    finally:
        engine.close()


def looped_sum(
    params: list[nn.Parameter], losses: Callable[[int], torch.Tensor], count: int, clipping_norm: float
) -> torch.Tensor:
    """The same by a loop over single examples and torch's own gradients; ``losses(i)`` is a scalar."""
    total = torch.zeros(sum(p.numel() for p in params), dtype=torch.float64)
    for i in range(count):
        gradients = torch.autograd.grad(losses(i), params, retain_graph=True)
        gradient = torch.cat([g.flatten() for g in gradients]).double()
        total += gradient * min(1.0, clipping_norm / (float(gradient.norm()) + 1e-6))
    return total

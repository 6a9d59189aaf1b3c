"""Our clipping against Opacus as it ships; our RDP against two other accountants."""

from __future__ import annotations

import math

import dp_accounting
import pytest
import torch
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant
from opacus.accountants import RDPAccountant as OpacusRdpAccountant
from opacus.grad_sample import GradSampleModule
from opacus.grad_sample.grad_sample_module_fast_gradient_clipping import GradSampleModuleFastGradientClipping
from opacus.optimizers import DPOptimizer
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from privacy.accounting import _ORDERS, epsilon_pld, epsilon_rdp
from privacy.dpsgd import DpSgd
from privacy.events import PoissonGaussianEvent
from privacy.noise import SeededNoise

SETTINGS = [(1.0, 0.064, 200), (1.1, 256 / 60_000, 1_000), (4.0, 1.0, 1), (2.0, 0.3, 30), (0.8, 0.02, 50)]


def lora_llama() -> nn.Module:
    torch.manual_seed(4)
    config = LlamaConfig(
        vocab_size=61,
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=32,
    )
    model = get_peft_model(
        LlamaForCausalLM(config), LoraConfig(r=3, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    )
    for name, param in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(param, std=0.05)
    return model.train()


def losses(model: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    logits = model(input_ids=tokens).logits[:, :-1]
    flat = nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
    return flat.view(len(tokens), -1).mean(1)


def clipped_sum_of_ours(model: nn.Module, tokens: torch.Tensor, clipping_norm: float) -> torch.Tensor:
    params = [p for p in model.parameters() if p.requires_grad]
    engine = DpSgd(
        model,
        torch.optim.SGD(params, lr=1.0),
        clipping_norm=clipping_norm,
        noise_multiplier=0.0,
        expected_batch_size=1.0,
        noise=SeededNoise(0),
    )
    engine.accumulate(losses(model, tokens))
    got = torch.cat([p.summed_grad.flatten() for p in params]).float()
    engine.close()
    return got


def clipped_sum_of_opacus(model: nn.Module, tokens: torch.Tensor, clipping_norm: float) -> torch.Tensor:
    wrapped = GradSampleModule(model, loss_reduction="sum")
    params = [p for p in wrapped.parameters() if p.requires_grad]
    optimizer = DPOptimizer(
        torch.optim.SGD(params, lr=1.0),
        noise_multiplier=0.0,
        max_grad_norm=clipping_norm,
        expected_batch_size=None,
        loss_reduction="sum",
    )
    losses(wrapped, tokens).sum().backward()
    optimizer.pre_step()
    return torch.cat([p.grad.flatten() for p in params])


def clipped_sum_of_opacus_ghost(model: nn.Module, tokens: torch.Tensor, clipping_norm: float) -> torch.Tensor:
    wrapped = GradSampleModuleFastGradientClipping(
        model, max_grad_norm=clipping_norm, use_ghost_clipping=True, loss_reduction="sum"
    )
    params = [p for p in wrapped.parameters() if p.requires_grad]
    each = losses(wrapped, tokens)
    each.sum().backward(retain_graph=True)
    factors = wrapped.get_clipping_coef()
    for param in params:
        param.grad = None
    wrapped.disable_hooks()
    (factors * each).sum().backward()
    return torch.cat([p.grad.flatten() for p in params])


@pytest.mark.filterwarnings("ignore:Full backward hook")
@pytest.mark.parametrize("theirs", [clipped_sum_of_opacus, clipped_sum_of_opacus_ghost])
@pytest.mark.parametrize("clipping_norm", [0.05, 100.0])
def test_the_clipped_sum_equals_that_of_opacus_as_it_ships(clipping_norm, theirs):
    tokens = torch.randint(0, 61, (6, 10), generator=torch.Generator().manual_seed(1))
    got = clipped_sum_of_ours(lora_llama(), tokens, clipping_norm)
    expected = theirs(lora_llama(), tokens, clipping_norm)
    assert float((got - expected).norm() / expected.norm()) < 1e-5
    # Positive control: another clipping norm is another sum.
    other = clipped_sum_of_ours(lora_llama(), tokens, 0.9 * min(clipping_norm, 0.1))
    assert float((other - expected).norm() / expected.norm()) > 1e-2


def event(noise, rate, steps) -> PoissonGaussianEvent:
    return PoissonGaussianEvent(noise_multiplier=noise, sampling_rate=rate, num_steps=steps)


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("delta", [1e-3, 1e-5])
def test_own_rdp_equals_dp_accounting_at_the_same_orders(setting, delta):
    noise, rate, steps = setting
    accountant = RdpAccountant(orders=list(_ORDERS))
    accountant.compose(dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(noise)), steps)
    theirs = accountant.get_epsilon(delta)
    assert epsilon_rdp([event(*setting)], delta) == pytest.approx(theirs, rel=1e-4)


@pytest.mark.filterwarnings("ignore:Optimal order")
@pytest.mark.parametrize("setting", SETTINGS)
def test_pld_is_below_the_rdp_of_opacus_which_is_not_above_ours(setting):
    noise, rate, steps = setting
    accountant = OpacusRdpAccountant()
    accountant.history = [(noise, rate, steps)]
    theirs = accountant.get_epsilon(delta=1e-5)
    assert epsilon_pld([event(*setting)], 1e-5) <= theirs
    assert theirs <= epsilon_rdp([event(*setting)], 1e-5) * 1.01
    assert math.isfinite(theirs)


def test_replacing_an_example_costs_what_the_threat_model_says():
    accountant = PLDAccountant(
        dp_accounting.NeighboringRelation.REPLACE_ONE, value_discretization_interval=1e-3
    )
    accountant.compose(dp_accounting.PoissonSampledDpEvent(0.064, dp_accounting.GaussianDpEvent(1.0)), 200)
    assert accountant.get_epsilon(1e-5) == pytest.approx(9.415, abs=0.01)
    assert epsilon_pld([event(1.0, 0.064, 200)], 1e-5) == pytest.approx(6.181, abs=0.002)

"""Tiny models, one for each kind of trainable part, with inputs and a loss for each example."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    Dinov2Config,
    Dinov2ForImageClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

VOCABULARY = 97


@dataclass(frozen=True)
class Problem:
    """A model in training mode and ``loss(indices) -> (B,)`` on some of its examples."""

    model: nn.Module
    loss: Callable[[torch.Tensor], torch.Tensor]
    num_examples: int

    @property
    def params(self) -> list[nn.Parameter]:
        return [p for p in self.model.parameters() if p.requires_grad]


def _with_lora(model: nn.Module, targets: list[str], **kwargs) -> nn.Module:
    model = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=targets, **kwargs))
    for name, param in model.named_parameters():
        if "lora_B" in name:  # at zero the gradient of A is zero too, and a test would not see it
            nn.init.normal_(param, std=0.05)
    return model.train()


def _causal_loss(model: nn.Module, tokens: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    tokens = tokens[rows]
    logits = model(input_ids=tokens).logits[:, :-1]
    losses = nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
    return losses.view(len(rows), -1).mean(1)


def bert() -> Problem:
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=32,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        num_labels=3,
    )
    model = _with_lora(
        BertForSequenceClassification(config),
        ["query", "value"],
        task_type="SEQ_CLS",
        modules_to_save=["classifier"],
    )
    tokens, labels = torch.randint(5, VOCABULARY, (8, 12)), torch.randint(0, 3, (8,))
    mask = torch.arange(12)[None, :] < torch.tensor([12, 1, 5, 12, 7, 3, 9, 2])[:, None]

    def loss(rows: torch.Tensor) -> torch.Tensor:
        logits = model(input_ids=tokens[rows], attention_mask=mask[rows].long()).logits
        return nn.functional.cross_entropy(logits, labels[rows], reduction="none")

    return Problem(model, loss, 8)


def gpt2() -> Problem:
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=32,
        n_embd=32,
        n_layer=2,
        n_head=2,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = _with_lora(GPT2LMHeadModel(config), ["c_attn"], task_type="CAUSAL_LM", fan_in_fan_out=True)
    tokens = torch.randint(5, VOCABULARY, (6, 12))
    return Problem(model, lambda rows: _causal_loss(model, tokens, rows), 6)


def llama() -> Problem:
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=32,
    )
    model = _with_lora(LlamaForCausalLM(config), ["q_proj", "v_proj", "down_proj"], task_type="CAUSAL_LM")
    tokens = torch.randint(5, VOCABULARY, (6, 12))
    return Problem(model, lambda rows: _causal_loss(model, tokens, rows), 6)


def dinov2() -> Problem:
    config = Dinov2Config(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        mlp_ratio=2,
        patch_size=4,
        image_size=16,
        num_labels=3,
    )
    targets = ["q_proj", "v_proj", "fc1"]
    model = _with_lora(Dinov2ForImageClassification(config), targets, modules_to_save=["classifier"])
    pictures, labels = torch.randn(6, 3, 12, 12), torch.randint(0, 3, (6,))

    def loss(rows: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(model(pictures[rows]).logits, labels[rows], reduction="none")

    return Problem(model, loss, 6)


def linear_head() -> Problem:
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).train()
    inputs, labels = torch.randn(7, 6), torch.randint(0, 3, (7,))

    def loss(rows: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(model(inputs[rows]), labels[rows], reduction="none")

    return Problem(model, loss, 7)


class CoreLayer(nn.Module):
    """Fed-SB's layer: ``W x + B R A x`` with frozen W, B, A; used twice, as a shared layer would be."""

    def __init__(self, size: int, rank: int) -> None:
        super().__init__()
        self.base = nn.Linear(size, size).requires_grad_(False)
        self.register_buffer("A", torch.linalg.qr(torch.randn(size, rank))[0].T.contiguous())
        self.register_buffer("B", torch.linalg.qr(torch.randn(size, rank))[0])
        self.R = nn.Linear(rank, rank, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + nn.functional.linear(self.R(nn.functional.linear(x, self.A)), self.B)


def fed_sb() -> Problem:
    layer = CoreLayer(10, 4).train()
    inputs = torch.randn(7, 3, 10)

    def loss(rows: torch.Tensor) -> torch.Tensor:
        return layer(torch.tanh(layer(inputs[rows]))).square().mean((1, 2))

    return Problem(layer, loss, 7)


PROBLEMS = {
    "bert": bert,
    "gpt2": gpt2,
    "llama": llama,
    "dinov2": dinov2,
    "linear_head": linear_head,
    "fed_sb": fed_sb,
}


@pytest.fixture(params=sorted(PROBLEMS))
def problem(request: pytest.FixtureRequest) -> Problem:
    torch.manual_seed(11)
    return PROBLEMS[request.param]()


@pytest.fixture
def head() -> Problem:
    torch.manual_seed(11)
    return linear_head()

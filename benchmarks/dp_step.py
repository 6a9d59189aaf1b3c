"""What privacy costs in time: one DP-SGD step over one plain step of the same adapter.

Two shapes with random weights (the time does not depend on their values): a MiniLM-L6 classifier (22 M
parameters, B = 8, T = 64) and a small Llama (hidden 256, 4 layers, B = 4, T = 128); LoRA rank 8 on the query
and value projections. One thread. Each repetition times a plain step and a DP step one after the other, in
changing order, by process CPU time; the ratio is taken for each pair and the median is reported, so that a
busy machine disturbs both sides alike.

Run: python benchmarks/dp_step.py [--repetitions 40]. Writes benchmarks/results/dp_step.json.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import opacus
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForCausalLM

from privacy.dpsgd import DpSgd
from privacy.noise import SystemNoise

RESULT = Path(__file__).parent / "results" / "dp_step.json"
Losses = Callable[[], torch.Tensor]


def with_lora(model: nn.Module, targets: list[str], **kwargs: object) -> nn.Module:
    return get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules=targets, **kwargs)).train()


def minilm() -> tuple[nn.Module, Losses, int]:
    config = BertConfig(
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=12,
        intermediate_size=1536,
        num_labels=4,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    model = with_lora(
        BertForSequenceClassification(config),
        ["query", "value"],
        task_type="SEQ_CLS",
        modules_to_save=["classifier"],
    )
    tokens, labels = torch.randint(5, 4_000, (8, 64)), torch.randint(0, 4, (8,))

    def losses() -> torch.Tensor:
        return nn.functional.cross_entropy(model(input_ids=tokens).logits, labels, reduction="none")

    return model, losses, 8


def llama() -> tuple[nn.Module, Losses, int]:
    config = LlamaConfig(
        vocab_size=4_000,
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
    )
    model = with_lora(LlamaForCausalLM(config), ["q_proj", "v_proj"], task_type="CAUSAL_LM")
    tokens = torch.randint(5, 4_000, (4, 128))

    def losses() -> torch.Tensor:
        logits = model(input_ids=tokens).logits[:, :-1]
        flat = nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
        return flat.view(4, -1).mean(1)

    return model, losses, 4


def plain_step(build: Callable[[], tuple[nn.Module, Losses, int]]) -> Callable[[], None]:
    model, losses, _ = build()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)

    def step() -> None:
        optimizer.zero_grad()
        losses().mean().backward()
        optimizer.step()

    return step


def private_step(build: Callable[[], tuple[nn.Module, Losses, int]]) -> Callable[[], None]:
    model, losses, batch_size = build()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    engine = DpSgd(
        model,
        optimizer,
        clipping_norm=0.1,
        noise_multiplier=1.0,
        expected_batch_size=batch_size,
        noise=SystemNoise(),
    )

    def step() -> None:
        engine.accumulate(losses())
        engine.step()

    return step


def seconds(step: Callable[[], None]) -> float:
    started = time.process_time()
    step()
    return time.process_time() - started


def measure(build: Callable[[], tuple[nn.Module, Losses, int]], repetitions: int) -> dict[str, float | int]:
    torch.manual_seed(0)
    plain, private = plain_step(build), private_step(build)
    for _ in range(3):
        plain()
        private()
    pairs = []
    for repetition in range(repetitions):
        if repetition % 2:
            second = seconds(private)
            pairs.append((seconds(plain), second))
        else:
            first = seconds(plain)
            pairs.append((first, seconds(private)))
    ratios = sorted(private_s / plain_s for plain_s, private_s in pairs)
    return {
        "plain_ms": round(1e3 * statistics.median(p for p, _ in pairs), 1),
        "private_ms": round(1e3 * statistics.median(p for _, p in pairs), 1),
        "median_ratio": round(statistics.median(ratios), 3),
        "ratio_p10": round(ratios[len(ratios) // 10], 3),
        "ratio_p90": round(ratios[(9 * len(ratios)) // 10], 3),
        "pairs": repetitions,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=40)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, object] = {
        "what": "CPU time, DP-SGD step over plain step of the same LoRA adapter, paired, one thread",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "opacus": opacus.__version__,
    }
    for name, build in (("minilm_l6_classifier", minilm), ("llama_256x4_causal_lm", llama)):
        result[name] = measure(build, arguments.repetitions)
        print(name, json.dumps(result[name]))
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""What privacy costs in time and memory: one DP-SGD step over one plain step of the same adapter.

Two models with random weights (the time does not depend on their values): a MiniLM-L6 classifier (22 M parameters) and
a Llama of SmolLM2-135M's width with 4 of its 30 layers and 8,192 tokens (19 M), with the batches of the two demos.
Each carries LoRA of rank 8 on the query and value projections, LoRA of rank 16 on every linear layer, or Fed-SB cores
of rank 32 on every linear layer. Beside our step stand Opacus as it ships, with hooks and with ghost clipping; its
noise is torch's, ours is cryptographic.

One thread. A repetition times a plain step and ours one after the other, and in every third Opacus' as well, in an
order that changes, by process CPU time; each step is divided by the plain one of its own repetition, and the median is
reported, so that a busy machine disturbs all alike. Memory: what a process of its own holds at most during two steps,
over what it held before them.

Run: python benchmarks/dp_step.py [--repetitions 24]. Writes benchmarks/results/dp_step.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import opacus
import torch
from opacus.grad_sample import GradSampleModule
from opacus.grad_sample.grad_sample_module_fast_gradient_clipping import GradSampleModuleFastGradientClipping
from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import DPTensorFastGradientClipping
from peft import LoraConfig, inject_adapter_in_model
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForCausalLM

# benchmarks/aggregation.py lies beside this file and must not hide the package.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from aggregation.initial import orthonormal_bases  # noqa: E402
from client.adapters import SquareLinear  # noqa: E402
from privacy.dpsgd import DpSgd  # noqa: E402
from privacy.noise import SystemNoise  # noqa: E402

RESULT = Path(__file__).parent / "results" / "dp_step.json"
CLIPPING_NORM, NOISE_MULTIPLIER = 0.1, 1.0
Step = Callable[[], None]
Losses = Callable[[nn.Module], torch.Tensor]


def minilm(batch: int, length: int) -> tuple[nn.Module, Losses]:
    config = BertConfig(
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=12,
        intermediate_size=1536,
        num_labels=8,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    tokens, labels = torch.randint(5, 4_000, (batch, length)), torch.randint(0, 8, (batch,))

    def losses(model: nn.Module) -> torch.Tensor:
        return nn.functional.cross_entropy(model(input_ids=tokens).logits, labels, reduction="none")

    return BertForSequenceClassification(config), losses


def llama(batch: int, length: int) -> tuple[nn.Module, Losses]:
    config = LlamaConfig(
        vocab_size=8_192,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=4,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=512,
        tie_word_embeddings=True,
    )
    tokens = torch.randint(5, 8_000, (batch, length))

    def losses(model: nn.Module) -> torch.Tensor:
        logits = model(input_ids=tokens).logits[:, :-1]
        flat = nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
        return flat.view(batch, -1).mean(1)

    return LlamaForCausalLM(config), losses


# Model -> how it is made; batch and length when timed; when its memory is measured; which layers are targets.
MODELS: Mapping[
    str, tuple[Callable[[int, int], tuple[nn.Module, Losses]], tuple[int, int], tuple[int, int]]
] = {
    "minilm": (minilm, (32, 24), (64, 24)),
    "llama": (llama, (4, 64), (16, 64)),
}
TARGETS = {
    "minilm": (("query", "value"), ("query", "key", "value", "dense")),
    "llama": (
        ("q_proj", "v_proj"),
        ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    ),
}
ADAPTERS = ("lora-8-query-value", "lora-16-all", "fed-sb-32-all")
BOUND = {"lora-8-query-value": 1.10, "lora-16-all": 1.10, "fed-sb-32-all": 1.05}


def with_lora(model: nn.Module, targets: tuple[str, ...], rank: int) -> None:
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=list(targets)), model)


def with_fed_sb(model: nn.Module, targets: tuple[str, ...], rank: int) -> None:
    layers = {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and name.rsplit(".", 1)[-1] in targets
    }
    bases = orthonormal_bases({n: tuple(m.weight.shape) for n, m in layers.items()}, rank, 0)
    for name, layer in layers.items():
        parent, _, leaf = name.rpartition(".")
        square = SquareLinear(layer, *bases[name], torch.zeros(rank, rank), 1.0)
        setattr(model.get_submodule(parent), leaf, square)


def build(model_name: str, adapter: str, shape: tuple[int, int]) -> tuple[nn.Module, Losses, int]:
    torch.manual_seed(0)
    model, losses = MODELS[model_name][0](*shape)
    model.requires_grad_(False)
    few, every = TARGETS[model_name]
    if adapter == "fed-sb-32-all":
        with_fed_sb(model, every, 32)
    else:
        with_lora(model, few if adapter == "lora-8-query-value" else every, 8 if "-8-" in adapter else 16)
    if isinstance(model, BertForSequenceClassification):
        model.classifier.requires_grad_(True)
    return model.train(), losses, shape[0]


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)


def plain(model: nn.Module, losses: Losses, batch: int) -> Step:
    del batch
    optimizer = sgd(model)

    def step() -> None:
        optimizer.zero_grad()
        losses(model).mean().backward()
        optimizer.step()

    return step


def ours(model: nn.Module, losses: Losses, batch: int) -> Step:
    engine = DpSgd(
        model,
        sgd(model),
        clipping_norm=CLIPPING_NORM,
        noise_multiplier=NOISE_MULTIPLIER,
        expected_batch_size=batch,
        noise=SystemNoise(),
    )

    def step() -> None:
        engine.accumulate(losses(model))
        engine.step()

    return step


def opacus_hooks(model: nn.Module, losses: Losses, batch: int) -> Step:
    wrapped = GradSampleModule(model, loss_reduction="mean")
    optimizer = DPOptimizer(
        sgd(wrapped),
        noise_multiplier=NOISE_MULTIPLIER,
        max_grad_norm=CLIPPING_NORM,
        expected_batch_size=batch,
    )

    def step() -> None:
        optimizer.zero_grad()
        losses(wrapped).mean().backward()
        optimizer.step()

    return step


def opacus_ghost(model: nn.Module, losses: Losses, batch: int) -> Step:
    wrapped = GradSampleModuleFastGradientClipping(
        model, max_grad_norm=CLIPPING_NORM, use_ghost_clipping=True, loss_reduction="mean"
    )
    optimizer = DPOptimizerFastGradientClipping(
        sgd(wrapped),
        noise_multiplier=NOISE_MULTIPLIER,
        max_grad_norm=CLIPPING_NORM,
        expected_batch_size=batch,
    )

    def step() -> None:
        optimizer.zero_grad()
        DPTensorFastGradientClipping(wrapped, optimizer, losses(wrapped), "mean").backward()
        optimizer.step()

    return step


STEPS: Mapping[str, Callable[[nn.Module, Losses, int], Step]] = {
    "plain": plain,
    "ours": ours,
    "opacus_hooks": opacus_hooks,
    "opacus_ghost": opacus_ghost,
}


def seconds(step: Step) -> float:
    started = time.process_time()
    step()
    return time.process_time() - started


def measure(model_name: str, adapter: str, repetitions: int) -> dict[str, object]:
    steps = {name: make(*build(model_name, adapter, MODELS[model_name][1])) for name, make in STEPS.items()}
    names = list(steps)
    rows: list[dict[str, float]] = []
    for repetition in range(-3, repetitions):
        turn = repetition % len(names)  # those below 0 are not counted: first steps are dear
        in_turn = [n for n in names[turn:] + names[:turn] if repetition % 3 == 0 or n in ("plain", "ours")]
        row = {name: seconds(steps[name]) for name in in_turn}
        if repetition >= 0:
            rows.append(row)
    result: dict[str, object] = {
        "parameters": sum(
            p.numel() for p in build(model_name, adapter, (1, 1))[0].parameters() if p.requires_grad
        ),
        "plain_ms": round(1e3 * statistics.median(row["plain"] for row in rows), 1),
    }
    for name in names[1:]:
        ratios = sorted(row[name] / row["plain"] for row in rows if name in row)
        result[name] = {
            "median_ratio": round(statistics.median(ratios), 3),
            "pairs": len(ratios),
            "quartiles": [round(ratios[len(ratios) // 4], 3), round(ratios[3 * len(ratios) // 4], 3)],
        }
    result["peak_mb"] = {name: peak_of_own_process(model_name, adapter, name) for name in names}
    return result


def peak_of_own_process(model_name: str, adapter: str, step: str) -> float:
    command = [sys.executable, __file__, "--peak", f"{model_name},{adapter},{step}"]
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=dict(os.environ))
    return float(run.stdout.split()[-1])


def resident_mb(field: str) -> float:
    text = Path("/proc/self/status").read_text()
    return next(float(line.split()[1]) for line in text.splitlines() if line.startswith(field)) / 1024


def print_peak(model_name: str, adapter: str, step_name: str) -> None:
    step = STEPS[step_name](*build(model_name, adapter, MODELS[model_name][2]))
    before = resident_mb("VmRSS:")
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    step()
    step()
    print(round(resident_mb("VmHWM:") - before, 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=24)
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="Full backward hook is firing")
    if arguments.peak:
        print_peak(*arguments.peak.split(","))
        return
    result: dict[str, object] = {
        "what": "CPU time and memory of a DP-SGD step over a plain step of the same adapter, paired, one thread",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "opacus": opacus.__version__,
        "repetitions": arguments.repetitions,
        "shapes": {name: {"timed": m[1], "memory": m[2]} for name, m in MODELS.items()},
        "bounds": BOUND,
    }
    for model_name in MODELS:
        for adapter in ADAPTERS:
            found = measure(model_name, adapter, arguments.repetitions)
            result[f"{model_name} {adapter}"] = found
            print(model_name, adapter, json.dumps(found), flush=True)
            result["load"] = round(os.getloadavg()[0], 1)
            RESULT.parent.mkdir(exist_ok=True)
            RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Write what a run learned in the formats that others load: a PEFT folder, or a whole merged model.

The exported adapter is the product of all rounds, whatever the method: FLoRA's accumulated stack, Fed-SB's
``B R`` and ``A``, FedIT's pair. It is written at one rank for all layers (narrower layers are padded with
zeros, which changes no product) and with ``lora_alpha = r``, so that PEFT's scale is 1 and no reader has to
know ours.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file

from aggregation.sketch_rounds import clipping_words
from motet.errors import MotetError
from motet.folders import write_folder, write_json
from motet.modeling import is_conv1d_model, load_base, write_input_settings
from motet.recipe.units import TRUST_WORDS, UNIT_WORDS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from aggregation.adapter import FactorPair
    from motet.recipe import Recipe


THIS_CLIENT = "this client"  # in place of a name, in what a client exports for itself


class ExportError(MotetError):
    """The folder cannot be written; the message says why and what to do."""

    exit_code = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class CardFacts:
    """What the model card states.

    Attributes:
      run_id, rounds, clients, adapter_sha256: of the run.
      epsilons: client id -> epsilon at ``target_delta``; empty without privacy.
      num_epsilons_unknown: clients of a private run whose epsilon could not be told.
      learned_rank: the rank before a serving cap cut it; 0 where nothing was cut.
      truncation_error: what the cut took, relative to the whole product (Frobenius).
    """

    run_id: str
    rounds: int
    clients: int
    adapter_sha256: str
    epsilons: Mapping[str, float] = field(default_factory=dict)
    num_epsilons_unknown: int = 0
    learned_rank: int = 0
    truncation_error: float = 0.0


def pad_to_rank(pair: FactorPair, lora_rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """``(B, A)`` in float32 with scale folded into B and zeros up to ``lora_rank``; the product is unchanged.

    Returns:
      B (m, lora_rank) and A (lora_rank, n), contiguous.
    """
    rows, columns = pair.shape
    b = torch.zeros(rows, lora_rank)
    a = torch.zeros(lora_rank, columns)
    b[:, : pair.lora_rank] = pair.B.float() * pair.scale
    a[: pair.lora_rank] = pair.A.float()
    return b, a


def adapter_config(recipe: Recipe, layers: list[str], lora_rank: int, heads: list[str]) -> dict[str, Any]:
    """The ``adapter_config.json`` that peft reads; only public keys, no versions of ours."""
    base = recipe.base_model
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM" if recipe.task.kind == "causal-lm" else None,
        "base_model_name_or_path": base.hub or base.path or base.material or base.tiny,
        "r": lora_rank,
        "lora_alpha": lora_rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": layers,
        "modules_to_save": heads or None,
        "fan_in_fan_out": is_conv1d_model(recipe),
        "inference_mode": True,
        "init_lora_weights": True,
        "use_rslora": False,
        "use_dora": False,
    }


def peft_tensors(
    product: Mapping[str, FactorPair], dense: Mapping[str, torch.Tensor], lora_rank: int
) -> dict[str, torch.Tensor]:
    """The tensors of ``adapter_model.safetensors`` under peft's names."""
    tensors: dict[str, torch.Tensor] = {}
    for layer, pair in sorted(product.items()):
        b, a = pad_to_rank(pair, lora_rank)
        tensors[f"base_model.model.{layer}.lora_A.weight"] = a
        tensors[f"base_model.model.{layer}.lora_B.weight"] = b
    for name, value in sorted(dense.items()):
        tensors[f"base_model.model.{name}"] = value.float().contiguous()
    return tensors


def _privacy_words(recipe: Recipe, facts: CardFacts) -> str:
    """What the run promises, and for whom; of a client whose epsilon is not known nothing is promised."""
    privacy = recipe.privacy
    if privacy is None:
        return "None: the adapter was trained without differential privacy."
    return (
        f"Differential privacy for {UNIT_WORDS[privacy.unit]} (add/remove neighbours, Poisson sampling): "
        f"{_epsilon_words(facts, privacy.target_delta)}, "
        f"clipping norm {clipping_words(privacy.clipping_norm, recipe.method.model_dump())}; "
        f"{TRUST_WORDS[privacy.unit]}."
    )


def _epsilon_words(facts: CardFacts, target_delta: float) -> str:
    unknown = facts.num_epsilons_unknown
    if not facts.epsilons:
        return "epsilon is not known here (the audit bundle has it)"
    most = max(facts.epsilons.values())
    if not math.isfinite(most):
        return "epsilon is infinite: some charge had no noise, or is not understood, and nothing is promised"
    told = f"epsilon at most {most:.2f} at delta {target_delta:g}"
    if unknown:
        return f"{told} for {len(facts.epsilons)} clients, not known here for {unknown} (the audit bundle has it)"
    return f"{told} for {THIS_CLIENT if facts.epsilons.keys() == {THIS_CLIENT} else 'every client'}"


def model_card(recipe: Recipe, facts: CardFacts, lora_rank: int) -> str:
    """README.md of the exported folder, for people and for the hub."""
    base = recipe.base_model
    rank = str(lora_rank) if lora_rank else "none: merged"
    if facts.learned_rank:
        rank += f", cut from {facts.learned_rank} with relative error {facts.truncation_error:.3g}"
    return (
        "---\nlibrary_name: peft\ntags: [lora, federated-learning, motet]\n---\n"
        f"# {recipe.name}\n\nA low-rank adapter that {facts.clients} data owners trained together with Motet; "
        "no example left its owner.\n\n"
        f"| | |\n|---|---|\n| run | `{facts.run_id}` |\n"
        f"| base model | `{base.hub or base.path or base.material or base.tiny}` |\n"
        f"| task | {recipe.task.kind} |\n| method | {recipe.method.name} |\n| rounds | {facts.rounds} |\n"
        f"| clients | {facts.clients} |\n| rank of this export | {rank} |\n"
        f"| adapter sha256 | `{facts.adapter_sha256}` |\n\n"
        f"## Privacy\n{_privacy_words(recipe, facts)}\n\n## Use\n```python\nfrom peft import PeftModel\n"
        "from motet.modeling import load_base_for\n"
        'model = PeftModel.from_pretrained(load_base_for("THIS_FOLDER"), "THIS_FOLDER")\n```\n'
        "For a causal language model any `transformers` base of the same weights will do instead of `load_base_for`.\n"
    )


def _write_about(folder: Path, recipe: Recipe, facts: CardFacts, lora_rank: int) -> None:
    """What is beside the weights: how inputs are prepared, the card, and the recipe and facts as JSON."""
    write_input_settings(recipe, folder)
    (folder / "README.md").write_text(model_card(recipe, facts, lora_rank), encoding="utf-8")
    epsilons = {client: e if math.isfinite(e) else None for client, e in facts.epsilons.items()}
    about = {"recipe": recipe.model_dump(mode="json"), "facts": asdict(facts) | {"epsilons": epsilons}}
    write_json(folder / "motet.json", about)


def export_peft(
    recipe: Recipe,
    product: Mapping[str, FactorPair],
    dense: Mapping[str, torch.Tensor],
    out_dir: Path,
    facts: CardFacts,
) -> Path:
    """Write a folder that ``peft.PeftModel.from_pretrained(base, out_dir)`` loads unchanged, heads included.

    Written beside and renamed: a crash leaves no half folder. The base model is not loaded.

    Args:
      recipe: of the run.
      product: layer name -> whole learned change, all layers that the recipe targets; may be empty (head only).
      dense: parameter name -> trained head tensor.
      out_dir: must not exist, or be an earlier export (it has an ``adapter_config.json``), which is replaced.
      facts: for the model card.

    Raises:
      ExportError: ``out_dir`` holds something else, or cannot be written.
    """
    layers = sorted(product)
    lora_rank = max((pair.lora_rank for pair in product.values()), default=1)
    heads = sorted({name.rsplit(".", 1)[0] for name in dense})

    def fill(folder: Path) -> None:
        save_file(
            peft_tensors(product, dense, lora_rank),
            folder / "adapter_model.safetensors",
            metadata={"format": "pt"},
        )
        config = adapter_config(recipe, layers, lora_rank, heads)
        (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        _write_about(folder, recipe, facts, lora_rank)

    return write_folder(out_dir, "adapter_config.json", fill, ExportError)


def export_merged(
    recipe: Recipe,
    product: Mapping[str, FactorPair],
    dense: Mapping[str, torch.Tensor],
    out_dir: Path,
    facts: CardFacts,
) -> Path:
    """Write a whole model: base weights plus ``scale * B @ A``, in the base's own type; heads replaced.

    A classifier with mean pooling has no class of its own in transformers: its folder holds the merged backbone
    and ``head.safetensors``, and ``motet.modeling.load_merged`` reads both.

    Raises:
      ExportError: ``out_dir`` holds something else, or cannot be written.
    """
    model = load_base(recipe)
    parameters = dict(model.named_parameters())
    conv1d = is_conv1d_model(recipe)
    with torch.no_grad():
        for layer, pair in product.items():
            weight = parameters[f"{layer}.weight"]
            delta = pair.scale * (pair.B.double() @ pair.A.double())
            weight.copy_((weight.double() + (delta.T if conv1d else delta)).to(weight.dtype))
        for name, value in dense.items():
            parameters[name].copy_(value)

    def fill(folder: Path) -> None:
        backbone: Any = getattr(model, "backbone", model)
        backbone.save_pretrained(folder)
        if backbone is not model:
            save_file({k: v.float().contiguous() for k, v in dense.items()}, folder / "head.safetensors")
        _write_about(folder, recipe, facts, 0)

    return write_folder(out_dir, "config.json", fill, ExportError)

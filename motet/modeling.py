"""Models and tokenizers of a recipe: real weights, or tiny random ones for tests; shapes need no weights.

Layer names are those of ``named_modules`` of what ``load_base`` returns; every side of Motet uses them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import constants as hub_constants
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    Dinov2Config,
    GPT2Config,
    LlamaConfig,
    PreTrainedTokenizerFast,
)
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.pytorch_utils import Conv1D
from transformers.utils import logging as transformers_logging

from aggregation.initial import generator_for
from motet.errors import MotetError
from motet.materials import model_path
from motet.recipe import Recipe, from_canonical_json
from motet.vision import VISION_MODELS, ImageClassifier, write_preprocessor

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PretrainedConfig, PreTrainedTokenizerBase

transformers_logging.disable_progress_bar()  # a bar for each model is noise in a round

TINY_SEED = 20_240_101
HEAD_STD = 0.02
_DROPOUTS = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "attention_dropout",
    "embd_pdrop",
    "attn_pdrop",
    "resid_pdrop",
)


class ModelError(MotetError):
    """A model can not be loaded, or does not have what the recipe asks of it."""

    exit_code = 10


class SequenceClassifier(nn.Module):
    """A backbone, the mean of its last hidden states over real tokens, and one linear head.

    Encoders that were trained with mean pooling (all-MiniLM) lose much of their worth through the stock pooler.
    Forward: input_ids (B, T), attention_mask (B, T) -> logits (B, num_labels).
    """

    def __init__(self, backbone: nn.Module, num_labels: int) -> None:
        super().__init__()
        self.backbone = backbone
        config: Any = backbone.config
        self.config = config
        self.head = nn.Linear(config.hidden_size, num_labels)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        labels: torch.Tensor | None = None,
        **_unused: Any,  # noqa: ANN401 - peft passes what transformers models take
    ) -> SequenceClassifierOutput:
        """Logits, and the mean cross-entropy when labels are given."""
        hidden_BTH = self.backbone(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask_BT1 = attention_mask.unsqueeze(-1).to(hidden_BTH.dtype)
        pooled_BH = (hidden_BTH * mask_BT1).sum(1) / mask_BT1.sum(1).clamp(min=1.0)
        logits = self.head(pooled_BH)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


def _tiny_config(name: str) -> PretrainedConfig:
    if name == "tiny-dinov2":
        return Dinov2Config(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            mlp_ratio=2,
            patch_size=4,
            image_size=16,
        )
    common = {"vocab_size": 261, "max_position_embeddings": 256}
    if name == "tiny-bert":
        return BertConfig(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            **common,
        )
    if name == "tiny-gpt2":
        return GPT2Config(
            vocab_size=261,
            n_positions=256,
            n_embd=32,
            n_layer=2,
            n_head=2,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=257,
            eos_token_id=258,
            pad_token_id=256,
        )
    return LlamaConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        bos_token_id=257,
        eos_token_id=258,
        pad_token_id=256,
        **common,
    )


def _source(recipe: Recipe) -> str:
    base = recipe.base_model
    if base.material is not None:
        return str(model_path(base.material))
    return str(Path(base.path).expanduser()) if base.path is not None else str(base.hub)


def _loaded(kind: Any, recipe: Recipe, **options: Any) -> Any:  # noqa: ANN401 - transformers' own classes
    """``kind.from_pretrained`` from disk; a hub id that is not on disk yet is fetched, once, without code."""
    source = _source(recipe)
    options["trust_remote_code"] = False
    try:
        return kind.from_pretrained(source, local_files_only=True, **options)
    except (OSError, ValueError):
        if recipe.base_model.hub is None:
            raise
    was_offline, hub_constants.HF_HUB_OFFLINE = hub_constants.HF_HUB_OFFLINE, False
    try:
        return kind.from_pretrained(source, **options)
    finally:
        hub_constants.HF_HUB_OFFLINE = was_offline


def load_config(recipe: Recipe) -> PretrainedConfig:
    """The base model's configuration; its own dropout is off, ``adapter.dropout`` of the recipe is the only one.

    Raises:
      ModelError: no such model, its folder has no readable configuration, it reads fewer tokens than
        ``task.max_length``, or no pictures of ``task.image_size``.
    """
    if recipe.base_model.tiny is not None:
        config = _tiny_config(recipe.base_model.tiny)
    else:
        source = _source(recipe)
        try:
            config = _loaded(AutoConfig, recipe)
        except (OSError, ValueError) as e:
            raise ModelError(
                f"base_model: no usable model at {source}",
                hint="check base_model, or list what there is: motet materials list",
            ) from e
        for name in _DROPOUTS:
            if hasattr(config, name):
                setattr(config, name, 0.0)
        if not recipe.task.reads_images and getattr(config, "pad_token_id", None) is None:
            config.pad_token_id = config.eos_token_id  # as load_tokenizer pads
    if recipe.task.reads_images:
        _check_vision(recipe, config)
        return config
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and recipe.task.max_length > positions:
        raise ModelError(
            f"task.max_length: {recipe.task.max_length} tokens are asked, this model reads at most {positions}",
            hint=f"set task.max_length to {positions} or less",
        )
    return config


def _check_vision(recipe: Recipe, config: PretrainedConfig) -> None:
    size, patch = recipe.task.image_size, getattr(config, "patch_size", 1)
    if config.model_type not in VISION_MODELS:
        raise ModelError(
            f"base_model: {config.model_type} can not classify images",
            hint=f"these can: {', '.join(sorted(VISION_MODELS))}",
        )
    if size % patch:
        raise ModelError(
            f"task.image_size: {size} pixels do not divide into patches of {patch}",
            hint=f"set task.image_size to {max(1, round(size / patch)) * patch}",
        )


def _has_own_head(recipe: Recipe) -> bool:
    task = recipe.task
    return task.reads_images or (task.kind == "sequence-classification" and task.pooling == "mean")


def _build(recipe: Recipe, config: PretrainedConfig, *, weights: bool) -> nn.Module:
    causal = recipe.task.kind == "causal-lm"
    own_head = _has_own_head(recipe)
    if not causal and not own_head:
        config.num_labels = recipe.task.num_labels
    kind: Any = AutoModelForSequenceClassification
    if causal or own_head:
        kind = AutoModelForCausalLM if causal else AutoModel
    extra = {"add_pooling_layer": False} if own_head and config.model_type in ("bert", "vit") else {}
    try:
        if not weights or recipe.base_model.tiny is not None:
            model: nn.Module = kind.from_config(config, **extra)
        else:
            model = _loaded(kind, recipe, config=config, dtype=torch.float32, use_safetensors=True, **extra)
    except (OSError, ValueError) as e:
        raise ModelError(
            f"base_model: {type(e).__name__} while building {config.model_type}: {str(e)[:200]}"
        ) from e
    if recipe.task.reads_images:
        return ImageClassifier(model, int(recipe.task.num_labels or 2), pooling=recipe.task.pooling)
    if own_head:
        model = SequenceClassifier(model, int(recipe.task.num_labels or 2))
    return model


def load_base(recipe: Recipe) -> nn.Module:
    """The base model with its weights: float32, CPU, frozen, in evaluation mode; heads as ``initial_dense``.

    Raises:
      ModelError: it can not be found, or is not of a kind that fits the task.
    """
    config = load_config(recipe)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(TINY_SEED)
        model = _build(recipe, config, weights=True)
    model.requires_grad_(False)
    parameters = dict(model.named_parameters())
    for name, value in initial_dense(recipe).items():
        parameters[name].data.copy_(value)
    return model.eval()


def skeleton(recipe: Recipe) -> nn.Module:
    """The model on the meta device: names and shapes, no weights, no memory."""
    config = load_config(recipe)
    with torch.device("meta"):
        return _build(recipe, config, weights=False)


def target_layers(model: nn.Module, recipe: Recipe) -> dict[str, nn.Module]:
    """Layers that get an adapter: linear, ending in one of ``adapter.targets``, within ``adapter.layers``.

    Raises:
      ModelError: a target matches no layer, and the message lists endings that exist; or a layer shares its weight with
        another one, which a change of the base or a merge would change as well.
    """
    linear = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear | Conv1D)}
    wanted = recipe.adapter.layers
    found: dict[str, nn.Module] = {}
    for target in recipe.adapter.targets:
        hits = {n: m for n, m in linear.items() if n == target or n.endswith("." + target)}
        if wanted is not None:
            hits = {n: m for n, m in hits.items() if _layer_indices(n) & set(wanted)}
        if not hits:
            endings = sorted({n.rsplit(".", 1)[-1] for n in linear if "." in n})
            raise ModelError(
                f"adapter.targets: no layer of this model ends in {target!r}"
                + (f" within layers {wanted}" if wanted is not None else ""),
                hint=f"it has: {', '.join(endings)}",
            )
        found.update(hits)
    _check_not_tied(model, found)
    return dict(sorted(found.items()))


def _check_not_tied(model: nn.Module, layers: Mapping[str, nn.Module]) -> None:
    """Refuse a layer whose weight is that of another module: lm_head, where it is the embedding of words."""
    holders: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            holders.setdefault(id(parameter), []).append(name)
    for layer, module in layers.items():
        others = [name for name in holders.get(id(module.weight), ()) if name != layer]
        if others:
            raise ModelError(
                f"adapter.targets: {layer} shares its weight with {others[0]}, which would change with it",
                hint=f"leave {layer.rsplit('.', 1)[-1]} out of adapter.targets",
            )


def _layer_indices(name: str) -> set[int]:
    return {int(part) for part in name.split(".") if part.isdigit()}


def shape_of(layer: nn.Module) -> tuple[int, int]:
    """(out_features, in_features), also for GPT-2's transposed Conv1D.

    Raises:
      ValueError: the layer has no weight matrix.
    """
    weight = layer.weight
    if not isinstance(weight, torch.Tensor) or weight.ndim != 2:
        raise ValueError(f"{type(layer).__name__} has no weight matrix")
    rows, columns = weight.shape
    return (columns, rows) if isinstance(layer, Conv1D) else (rows, columns)


def layer_shapes(recipe: Recipe) -> dict[str, tuple[int, int]]:
    """Layer name -> (out, in) of everything that gets an adapter. No weights are read.

    Raises:
      ModelError: as in ``target_layers``; or Fed-SB's core would be larger than a layer.
    """
    shapes = {name: shape_of(layer) for name, layer in target_layers(skeleton(recipe), recipe).items()}
    if recipe.method.name == "fed-sb":
        rank = recipe.lora_rank_of("default")
        small = min(min(s) for s in shapes.values())
        if rank > small:
            raise ModelError(
                f"adapter.lora_rank: fed-sb's core of {rank} exceeds a layer's smaller side, {small}",
                hint=f"set adapter.lora_rank to {small} or less",
            )
    return shapes


def is_conv1d_model(recipe: Recipe) -> bool:
    """Whether the adapted layers keep their weight transposed (GPT-2)."""
    return any(isinstance(layer, Conv1D) for layer in target_layers(skeleton(recipe), recipe).values())


def dense_shapes(recipe: Recipe) -> dict[str, tuple[int, ...]]:
    """Parameter name -> shape of the heads that are trained whole; empty for causal language models."""
    if recipe.task.kind == "causal-lm":
        return {}
    named = dict(skeleton(recipe).named_parameters())
    heads = ("head.",) if _has_own_head(recipe) else ("classifier.", "score.")
    return {name: tuple(p.shape) for name, p in named.items() if name.startswith(heads)}


def initial_dense(recipe: Recipe) -> dict[str, torch.Tensor]:
    """Heads before training: normal with std 0.02 from the recipe's seed, biases zero."""
    made = {}
    for name, shape in dense_shapes(recipe).items():
        if name.endswith("bias"):
            made[name] = torch.zeros(shape)
        else:
            made[name] = torch.randn(shape, generator=generator_for(recipe.seed, "head", name)) * HEAD_STD
    return made


def load_tokenizer(recipe: Recipe) -> PreTrainedTokenizerBase:
    """The base model's tokenizer, with a padding token; for tiny models one that reads bytes.

    Raises:
      ModelError: the model's folder has no tokenizer.
    """
    if recipe.base_model.tiny is not None:
        return byte_tokenizer()
    source = _source(recipe)
    try:
        tokenizer: PreTrainedTokenizerBase = _loaded(AutoTokenizer, recipe)
    except (OSError, ValueError) as e:
        raise ModelError(f"base_model: no usable tokenizer at {source}") from e
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def write_input_settings(recipe: Recipe, folder: Path) -> None:
    """Write what turns raw examples into the model's inputs: the tokenizer, or how pictures are prepared.

    Raises:
      ModelError: the base model has no tokenizer.
    """
    if recipe.task.reads_images:
        write_preprocessor(recipe.task.image_size, folder)
    else:
        load_tokenizer(recipe).save_pretrained(folder)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte (ids 0 to 255), and padding, begin, end: 256, 257, 258. Needs no files."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: i for i, letter in enumerate(alphabet)} | {"<pad>": 256, "<s>": 257, "</s>": 258}
    core = Tokenizer(models.BPE(vocabulary, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    specials = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=core, model_max_length=256, **specials)


def load_base_for(folder: str | Path) -> nn.Module:
    """The base model that an exported adapter folder belongs to, for ``peft.PeftModel.from_pretrained``.

    Raises:
      ModelError: the folder was not written by ``motet export``.
    """
    return load_base(_exported_recipe(folder))


def load_merged(folder: str | Path) -> nn.Module:
    """The whole model in a folder of ``motet export --merged``.

    Raises:
      ModelError: the folder was not written by ``motet export --merged``.
    """
    recipe = _exported_recipe(folder)
    elsewhere = {"material": None, "hub": None, "tiny": None, "path": str(folder)}
    base = recipe.base_model.model_copy(update=elsewhere)
    model = load_base(recipe.model_copy(update={"base_model": base}))
    head = Path(folder) / "head.safetensors"
    if head.exists():
        from safetensors.torch import load_file

        model.load_state_dict(load_file(head), strict=False)
    return model


def _exported_recipe(folder: str | Path) -> Recipe:
    try:
        stored: Mapping[str, Any] = json.loads((Path(folder) / "motet.json").read_text(encoding="utf-8"))
        return from_canonical_json(json.dumps(stored["recipe"]))
    except (OSError, ValueError, KeyError) as e:
        raise ModelError(f"{folder} was not written by motet export") from e

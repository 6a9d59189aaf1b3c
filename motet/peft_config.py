"""``adapter_config.json`` of a PEFT LoRA adapter: what it means for the product, and what we do not merge."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from motet.errors import MotetError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

CONFIG_FILE = "adapter_config.json"
_LARGEST_CONFIG = 4 << 20
_LONGEST_PATTERN = 300
_MOST_REPEATS = 3
_REPEATS_A_GROUP = re.compile(r"\)[*+?{]")

# What changes the product, or the base, in a way that a pair of factors can not say.
_REFUSED = {
    "use_dora": "DoRA scales the columns of the merged weight, which is not linear in the factors",
    "use_qalora": "QA-LoRA pools the inputs of its factors",
    "lora_bias": "its factors have biases",
    "layer_replication": "it repeats layers of the base",
    "trainable_token_indices": "it trains single rows of the embedding",
    "target_parameters": "it adapts bare parameters, not layers",
    "alora_invocation_tokens": "it is switched on by tokens of the text (aLoRA)",
    "use_bdlora": "its factors are block-diagonal",
    "arrow_config": "it is a router over other adapters",
    "kasa_config": "it changes the base (KaSA)",
    "monteclora_config": "its factors are drawn at random (MonteCLoRA)",
}
_BASE_CHANGING_STARTS = ("pissa", "olora", "corda", "loftq", "lora_ga")


class AdapterFolderError(MotetError):
    """A PEFT folder can not be used; the message names the file and what is wrong with it."""

    exit_code = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterConfig:
    """The parts of the configuration that are read. ``raw`` is all of it, as it came.

    Attributes:
      base_model: name or path of the base; empty where the file names none.
      revision: of the base, where named.
      task_type: peft's word, such as ``CAUSAL_LM``; None where not named.
      lora_rank: the rank of layers that ``rank_pattern`` does not name.
      lora_alpha: likewise; > 0.
      rank_pattern: regular expression of the end of a layer's name -> rank.
      alpha_pattern: likewise -> alpha.
      use_rslora: the scale is alpha / sqrt(r), Kalajdzievski 2023, https://arxiv.org/abs/2312.03732.
      fan_in_fan_out: base weights lie transposed (GPT-2's Conv1D).
      modules_to_save: endings of modules that were trained whole.
      raw: the JSON object.
    """

    base_model: str
    revision: str | None
    task_type: str | None
    lora_rank: int
    lora_alpha: float
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    use_rslora: bool
    fan_in_fan_out: bool
    modules_to_save: tuple[str, ...]
    raw: Mapping[str, Any]

    def rank_of(self, layer: str) -> int:
        """The rank that the configuration gives a layer."""
        key = _matching(self.rank_pattern, layer)
        return self.lora_rank if key is None else self.rank_pattern[key]

    def scale_of(self, layer: str) -> float:
        """The scale: alpha / r, or alpha / sqrt(r) with rsLoRA, as peft applies it to a layer."""
        key = _matching(self.alpha_pattern, layer)
        alpha = self.lora_alpha if key is None else self.alpha_pattern[key]
        rank = self.rank_of(layer)
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)


def _matching(pattern: Mapping[str, object], layer: str) -> str | None:
    """The first key that matches, as peft's ``get_pattern_key`` looks for it."""
    return next((key for key in pattern if re.match(rf"(.*\.)?({key})$", layer)), None)


def read_config(folder: Path) -> AdapterConfig:
    """Read and check ``adapter_config.json``.

    Raises:
      AdapterFolderError: it is missing, no JSON, of another PEFT type than LoRA, or of a variant of LoRA whose
        change of a layer is not ``scale * B @ A``.
    """
    path = folder / CONFIG_FILE
    raw = _json_object(path)
    kind = raw.get("peft_type")
    if kind != "LORA":
        raise AdapterFolderError(
            f"{path}: peft_type is {kind!r}, only LORA is understood",
            hint="other adapter types have no B and A to combine",
        )
    _refuse_variants(path, raw)
    numbers = _Numbers(path)
    heads = raw.get("modules_to_save") or ()
    if not isinstance(heads, list | tuple) or not all(isinstance(h, str) and h for h in heads):
        raise AdapterFolderError(f"{path}: modules_to_save is not a list of names")
    return AdapterConfig(
        base_model=_text(path, raw, "base_model_name_or_path") or "",
        revision=_text(path, raw, "revision"),
        task_type=_text(path, raw, "task_type"),
        lora_rank=numbers.rank("r", raw.get("r", 8)),
        lora_alpha=numbers.alpha("lora_alpha", raw.get("lora_alpha", 8)),
        rank_pattern={
            k: numbers.rank(f"rank_pattern {k}", v) for k, v in _patterns(path, raw, "rank_pattern")
        },
        alpha_pattern={
            k: numbers.alpha(f"alpha_pattern {k}", v) for k, v in _patterns(path, raw, "alpha_pattern")
        },
        use_rslora=bool(raw.get("use_rslora", False)),
        fan_in_fan_out=bool(raw.get("fan_in_fan_out", False)),
        modules_to_save=tuple(sorted(set(heads))),
        raw=raw,
    )


def _json_object(path: Path) -> dict[str, Any]:
    try:
        size = path.stat().st_size
        if size > _LARGEST_CONFIG:
            raise AdapterFolderError(f"{path}: {size} bytes are too many for a configuration")
        raw = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_constant)
    except FileNotFoundError as e:
        raise AdapterFolderError(
            f"{path.parent} has no {CONFIG_FILE}, so it is not a PEFT adapter folder",
            hint="give the folder that save_pretrained or motet export wrote",
        ) from e
    except OSError as e:
        raise AdapterFolderError(f"{path} can not be read: {e.strerror or e}") from e
    except (ValueError, RecursionError) as e:
        raise AdapterFolderError(f"{path} is not JSON: {str(e)[:120]}") from e
    if not isinstance(raw, dict):
        raise AdapterFolderError(f"{path} is not a JSON object")
    return raw


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not a number")


def _refuse_variants(path: Path, raw: Mapping[str, Any]) -> None:
    for key, why in _REFUSED.items():
        if raw.get(key):
            raise AdapterFolderError(
                f"{path}: {key} is set: {why}",
                hint="only plain LoRA, its change scale * B @ A, can be combined",
            )
    bias = raw.get("bias", "none")
    if bias != "none":
        raise AdapterFolderError(
            f"{path}: bias is {bias!r}: it changes biases of the base", hint="train with bias='none'"
        )
    start = raw.get("init_lora_weights", True)
    if isinstance(start, str) and start.lower().startswith(_BASE_CHANGING_STARTS):
        raise AdapterFolderError(
            f"{path}: init_lora_weights is {start!r}: its factors belong to a base that was changed at the start",
            hint="save it with path_initial_model_for_weight_conversion, which gives plain LoRA, then try again",
        )


def _text(path: Path, raw: Mapping[str, Any], key: str) -> str | None:
    value = raw.get(key)
    if value is not None and not isinstance(value, str):
        raise AdapterFolderError(f"{path}: {key} is not a text")
    return value or None


def _patterns(path: Path, raw: Mapping[str, Any], key: str) -> list[tuple[str, Any]]:
    """The items of a pattern, whose keys are regular expressions that somebody else wrote."""
    table = raw.get(key) or {}
    if not isinstance(table, dict):
        raise AdapterFolderError(f"{path}: {key} is not a table")
    for pattern in table:
        # Matching time of what is left is bounded by a small power of a name's length.
        repeats = sum(pattern.count(sign) for sign in "*+?{")
        if len(pattern) > _LONGEST_PATTERN or repeats > _MOST_REPEATS or _REPEATS_A_GROUP.search(pattern):
            raise AdapterFolderError(
                f"{path}: {key}: {pattern[:60]!r} is more than a simple pattern",
                hint=f"at most {_MOST_REPEATS} repeats, none of a group; or write the layers' names",
            )
        try:
            re.compile(pattern)
        except re.error as e:
            raise AdapterFolderError(f"{path}: {key}: {pattern[:60]!r} is no pattern ({e})") from e
    return list(table.items())


@dataclass(frozen=True, slots=True)
class _Numbers:
    path: Path

    def rank(self, what: str, value: object) -> int:
        if type(value) is not int or not 0 < value < 1 << 20:
            raise AdapterFolderError(f"{self.path}: {what} is {value!r}, not a positive whole number")
        return value

    def alpha(self, what: str, value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise AdapterFolderError(f"{self.path}: {what} is {value!r}, not a positive number")
        return float(value)

"""PEFT adapter folders, read one tensor at a time and checked whole before anything uses them.

The weights are safetensors only: a pickle is never opened. A layer's tensors are
``base_model.model.<layer>.lora_A.weight`` (r, n) and ``lora_B.weight`` (m, r); what was trained whole is
``base_model.model.<module>.<parameter>`` for the modules in ``modules_to_save``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open

from aggregation.adapter import FactorPair
from motet.folders import file_sha256
from motet.peft_config import CONFIG_FILE, AdapterConfig, AdapterFolderError, read_config

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

WEIGHTS_FILE = "adapter_model.safetensors"
PREFIX = "base_model.model."
_FLOATING = {"F16", "BF16", "F32", "F64"}
_SUFFIX = {"A": ".lora_A.weight", "B": ".lora_B.weight"}


class NoSuchAdapterError(AdapterFolderError):
    """There is no such folder."""

    exit_code = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerKind:
    """What a layer's pair looks like: (m, n), r, and the PEFT scale."""

    shape: tuple[int, int]
    lora_rank: int
    scale: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterFolder:
    """One adapter on disk, checked: every tensor is understood, fits the configuration and is finite.

    Attributes:
      path: as it was given.
      config: what ``adapter_config.json`` says.
      layers: layer name -> its kind, sorted.
      dense: parameter name -> shape of what was trained whole, sorted.
      sha256: file name -> hex digest.
    """

    path: Path
    config: AdapterConfig
    layers: Mapping[str, LayerKind]
    dense: Mapping[str, tuple[int, ...]]
    sha256: Mapping[str, str]

    def pair(self, layer: str) -> FactorPair:
        """One layer's factors, read now, in the type they are stored in."""
        a, b = self._read(PREFIX + layer + _SUFFIX["A"]), self._read(PREFIX + layer + _SUFFIX["B"])
        return FactorPair(B=b, A=a, scale=self.layers[layer].scale)

    def dense_tensor(self, name: str) -> torch.Tensor:
        """One tensor that was trained whole, read now."""
        return self._read(PREFIX + name)

    def _read(self, key: str) -> torch.Tensor:
        try:
            with safe_open(self.path / WEIGHTS_FILE, framework="pt") as file:
                value: torch.Tensor = file.get_tensor(key)
        except (OSError, SafetensorError) as e:
            raise AdapterFolderError(
                f"{self.path / WEIGHTS_FILE} changed or went away while it was read",
                hint="try again when nobody writes there",
            ) from e
        return value


def open_adapter(path: Path) -> AdapterFolder:
    """Check a PEFT LoRA folder completely; one tensor is in memory at a time.

    Raises:
      NoSuchAdapterError: no such folder.
      AdapterFolderError: configuration or weights are missing, malformed, of a variant that is not plain LoRA,
        do not fit each other, or hold NaN or infinity.
    """
    if not path.is_dir():
        raise NoSuchAdapterError(
            f"{path} is not a folder", hint="give the folder that save_pretrained or motet export wrote"
        )
    config = read_config(path)
    weights = path / WEIGHTS_FILE
    if not weights.is_file():
        raise _no_weights(path)
    try:
        sha256 = {name: file_sha256(path / name) for name in (WEIGHTS_FILE, CONFIG_FILE)}
        with safe_open(weights, framework="pt") as file:
            shapes = {key: _shape(weights, file, key) for key in sorted(file.keys())}
            layers, dense = _sort_out(weights, shapes, config)
            for key in shapes:
                if not bool(torch.isfinite(file.get_tensor(key)).all()):
                    raise AdapterFolderError(
                        f"{weights}: {key} holds NaN or infinity", hint="its training diverged; leave it out"
                    )
    except OSError as e:
        raise AdapterFolderError(f"{weights} can not be read: {e.strerror or e}") from e
    except SafetensorError as e:
        raise AdapterFolderError(
            f"{weights} is truncated or no safetensors file: {e}", hint="copy it again and compare its sha256"
        ) from e
    return AdapterFolder(path=path, config=config, layers=layers, dense=dense, sha256=sha256)


def _no_weights(path: Path) -> AdapterFolderError:
    pickles = sorted(p.name for p in path.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".pkl"))
    if pickles:
        return AdapterFolderError(
            f"{path}: {pickles[0]} is a pickle, which can run any code, so it is not opened",
            hint="whoever trusts it can load it with peft and save it again: save_pretrained writes safetensors",
        )
    return AdapterFolderError(
        f"{path} has no {WEIGHTS_FILE}", hint="give a folder with the adapter's weights"
    )


def _shape(weights: Path, file: Any, key: str) -> tuple[int, ...]:  # noqa: ANN401 - safetensors has no types
    view = file.get_slice(key)
    if view.get_dtype() not in _FLOATING:
        raise AdapterFolderError(f"{weights}: {key} is of type {view.get_dtype()}, not a floating type")
    return tuple(int(side) for side in view.get_shape())


def _sort_out(
    weights: Path, shapes: Mapping[str, tuple[int, ...]], config: AdapterConfig
) -> tuple[dict[str, LayerKind], dict[str, tuple[int, ...]]]:
    """Every key is a factor of a layer or a parameter of a saved module; nothing else is let through."""
    factors: dict[str, dict[str, tuple[int, ...]]] = {}
    dense: dict[str, tuple[int, ...]] = {}
    for key, shape in shapes.items():
        name = key.removeprefix(PREFIX)
        side = next((s for s, suffix in _SUFFIX.items() if name.endswith(suffix)), None)
        if name == key or "lora_embedding_" in name or "lora_magnitude_vector" in name:
            raise AdapterFolderError(
                f"{weights}: {key} is not a factor of a linear layer, nor a module of modules_to_save",
                hint="adapters of embeddings and variants such as DoRA can not be combined",
            )
        if side is not None:
            factors.setdefault(name.removesuffix(_SUFFIX[side]), {})[side] = shape
        elif any(f".{head}." in f".{name}" for head in config.modules_to_save):
            dense[name] = shape
        else:
            raise AdapterFolderError(
                f"{weights}: {key} is neither a factor nor in modules_to_save of {CONFIG_FILE}"
            )
    if not factors:
        raise AdapterFolderError(f"{weights} holds no LoRA factors")
    return {layer: _kind(weights, layer, found, config) for layer, found in sorted(factors.items())}, dense


def _kind(
    weights: Path, layer: str, found: Mapping[str, tuple[int, ...]], config: AdapterConfig
) -> LayerKind:
    if found.keys() != {"A", "B"}:
        raise AdapterFolderError(f"{weights}: {layer} has lora_{next(iter(found))} alone")
    a, b = found["A"], found["B"]
    if len(a) != 2 or len(b) != 2:
        raise AdapterFolderError(
            f"{weights}: {layer} has factors {b} and {a}, not matrices; convolutions can not be combined"
        )
    rank = config.rank_of(layer)
    if a[0] != rank or b[1] != rank or 0 in (*a, *b):
        raise AdapterFolderError(
            f"{weights}: {layer} has B {b} and A {a}, but {CONFIG_FILE} says rank {rank}",
            hint="weights and configuration are of different adapters",
        )
    return LayerKind(shape=(b[0], a[1]), lora_rank=rank, scale=config.scale_of(layer))

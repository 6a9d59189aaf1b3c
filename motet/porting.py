"""``motet port``: an adapter carried to a newer version of its base, without training, with the drift told.

PortLLM, Khan et al. 2024, https://arxiv.org/abs/2410.10870: the adapter's change is kept and added to the new base, so
its factors are written as they were. Bases are read a few rows at a time; see ``aggregation.drift`` for the figures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file

from aggregation.drift import Drift, layer_drift, together, transposed
from motet.base_folder import BaseFolder, BaseFolderError, open_base, renaming
from motet.folders import check_apart, check_replaceable, file_sha256, write_folder, write_json
from motet.peft_config import CONFIG_FILE
from motet.peft_folder import PREFIX, WEIGHTS_FILE, AdapterFolder, open_adapter

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from aggregation.adapter import FactorPair

REPORT_FILE = "motet-port.json"
_NAMES_SHOWN = 3
# What says nothing about how weights are used.
_CONFIG_NOISE = {"_name_or_path", "transformers_version", "torch_dtype", "dtype", "architectures"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bases:
    """Both bases, and the names that the adapter's parameters have in each."""

    old: BaseFolder
    new: BaseFolder
    in_old: Callable[[str], str]
    in_new: Callable[[str], str]


def port_adapter(
    path: Path,
    old: Path,
    new: Path,
    out_dir: Path,
    *,
    base_name: str | None = None,
    on_layer: Callable[[int, int], None] = lambda _done, _of: None,
) -> dict[str, Any]:
    """Carry a PEFT LoRA folder from one version of its base to another and write it with ``motet-port.json``.

    The factors keep every bit. A tensor of ``modules_to_save`` that both bases have moves with the base (what training
    added to it is kept); one that is the adapter's own, such as a new head, is kept as it is.

    Args:
      path: the adapter.
      old: local folder of the base it was trained on.
      new: local folder of the newer version.
      out_dir: must not exist, be empty, or be what an earlier port wrote.
      base_name: what the written adapter calls its base; ``new`` where None.
      on_layer: told after each layer how many were compared, and of how many.

    Returns:
      The report: ``ratio`` (norm of the base's change over that of the adapter's, all layers as one vector), ``cosine``
      between them, both for each layer, ``larger`` (layers whose ratio is above 1), ``warnings``, and sha256.

    Raises:
      AdapterFolderError: the adapter can not be used.
      BaseFolderError: a base can not be used, or the bases' kinds or shapes differ.
      OutputFolderError: ``out_dir`` is an input, holds something else, or can not be written.
    """
    check_apart((path, old, new), out_dir)
    check_replaceable(out_dir, REPORT_FILE)
    adapter = open_adapter(path)
    bases = _open_bases(adapter, old, new)
    drifts: dict[str, Drift] = {}
    for layer in adapter.layers:
        drifts[layer] = _drift(bases, adapter, layer)
        on_layer(len(drifts), len(adapter.layers))
    heads = {name: _moves(bases, name, shape) for name, shape in adapter.dense.items()}
    report = _report(adapter, bases, drifts, heads)
    config = dict(adapter.config.raw) | {"base_model_name_or_path": base_name or str(new), "revision": None}

    def fill(folder: Path) -> None:
        save_file(_tensors(adapter, bases, heads), folder / WEIGHTS_FILE, metadata={"format": "pt"})
        write_json(folder / CONFIG_FILE, config)
        (folder / "README.md").write_text(_card(report), encoding="utf-8")
        report["sha256"] = {name: file_sha256(folder / name) for name in (WEIGHTS_FILE, CONFIG_FILE)}
        write_json(folder / REPORT_FILE, report)

    write_folder(out_dir, REPORT_FILE, fill)
    return report


def _open_bases(adapter: AdapterFolder, old_path: Path, new_path: Path) -> _Bases:
    old, new = open_base(old_path), open_base(new_path)
    kinds = old.config.get("model_type"), new.config.get("model_type")
    if None not in kinds and kinds[0] != kinds[1]:
        raise BaseFolderError(
            f"{new.path} is a {kinds[1]} model, {old.path} a {kinds[0]} model",
            hint="an adapter can be carried between versions of one model only",
        )
    names = [f"{layer}.weight" for layer in adapter.layers]
    bases = _Bases(old=old, new=new, in_old=renaming(old, names), in_new=renaming(new, names))
    for name in names:
        before, after = old.tensors[bases.in_old(name)].shape, new.tensors[bases.in_new(name)].shape
        if before != after:
            raise BaseFolderError(
                f"{name} is {before} in {old.path} and {after} in {new.path}",
                hint="an adapter can be carried between bases of the same shapes only",
            )
    return bases


def _drift(bases: _Bases, adapter: AdapterFolder, layer: str) -> Drift:
    name = f"{layer}.weight"
    pair = _as_stored(adapter, layer, bases.old.tensors[bases.in_old(name)].shape, bases.old.path)
    old, new = bases.old.rows(bases.in_old(name)), bases.new.rows(bases.in_new(name))
    drift = layer_drift(pair, zip(old, new, strict=True))
    if not math.isfinite(drift.change_square):
        raise BaseFolderError(
            f"{name}: a base holds NaN or infinity there", hint="check both folders' sha256"
        )
    return drift


def _as_stored(adapter: AdapterFolder, layer: str, shape: tuple[int, ...], base: Path) -> FactorPair:
    """The pair in the orientation of the base's weight; ``fan_in_fan_out`` decides where it is square."""
    pair = adapter.pair(layer)
    straight, turned = shape == pair.shape, shape == pair.shape[::-1]
    if straight and not (turned and adapter.config.fan_in_fan_out):
        return pair
    if turned:
        return transposed(pair)
    raise BaseFolderError(
        f"{layer} is {shape} in {base}, the adapter's is {pair.shape}",
        hint="this is not the base that the adapter was trained on",
    )


def _moves(bases: _Bases, name: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor that was trained whole began as one of the base's, which has a newer version.

    Raises:
      BaseFolderError: it has one of another shape, or none.
    """
    old = bases.old.tensors.get(bases.in_old(name)) or bases.old.tensors.get(name)
    if old is None or old.shape != shape:
        return False
    new = bases.new.tensors.get(bases.in_new(name)) or bases.new.tensors.get(name)
    if new is None or new.shape != shape:
        found = "missing" if new is None else str(new.shape)
        raise BaseFolderError(
            f"{name}, which the adapter trained whole, is {shape} in {bases.old.path} and {found} in {bases.new.path}",
            hint="train this module on the new base, or leave it out of modules_to_save",
        )
    return True


def _tensors(adapter: AdapterFolder, bases: _Bases, heads: Mapping[str, bool]) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    for layer in adapter.layers:
        pair = adapter.pair(layer)
        tensors[f"{PREFIX}{layer}.lora_A.weight"] = pair.A
        tensors[f"{PREFIX}{layer}.lora_B.weight"] = pair.B
    for name, moves in heads.items():
        value = adapter.dense_tensor(name)
        tensors[PREFIX + name] = value if not moves else _moved(value, bases, name)
    return tensors


def _moved(value: torch.Tensor, bases: _Bases, name: str) -> torch.Tensor:
    old_name = bases.in_old(name) if bases.in_old(name) in bases.old.tensors else name
    new_name = bases.in_new(name) if bases.in_new(name) in bases.new.tensors else name
    old = torch.cat([rows.double().reshape(-1) for rows in bases.old.rows(old_name)])
    new = torch.cat([rows.double().reshape(-1) for rows in bases.new.rows(new_name)])
    return (value.double() + (new - old).reshape(value.shape)).to(value.dtype)


def _report(
    adapter: AdapterFolder, bases: _Bases, drifts: Mapping[str, Drift], heads: Mapping[str, bool]
) -> dict[str, Any]:
    whole = together(drifts.values())
    larger = sorted((k for k, d in drifts.items() if d.ratio > 1), key=lambda k: -drifts[k].ratio)
    return {
        "report": "motet port",
        "adapter": str(adapter.path),
        "from": str(bases.old.path),
        "to": str(bases.new.path),
        "ratio": _number(whole.ratio),
        "cosine": _number(whole.cosine),
        "larger": larger,
        "warnings": _warnings(bases, drifts, larger),
        "layers": {
            layer: {
                "shape": list(adapter.layers[layer].shape),
                "lora_rank": adapter.layers[layer].lora_rank,
                "base_change_norm": math.sqrt(drift.change_square),
                "adapter_norm": math.sqrt(drift.adapter_square),
                "ratio": _number(drift.ratio),
                "cosine": _number(drift.cosine),
            }
            for layer, drift in drifts.items()
        },
        "modules_to_save": {name: "moved with the base" if m else "kept" for name, m in heads.items()},
        "inputs": {"sha256": dict(adapter.sha256)},
    }


def _number(value: float) -> float | None:
    """JSON has no infinity and no NaN: null where a figure has no meaning."""
    return value if math.isfinite(value) else None


def _warnings(bases: _Bases, drifts: Mapping[str, Drift], larger: list[str]) -> list[str]:
    found = []
    if larger:
        found.append(
            f"in {len(larger)} of {len(drifts)} layers the base has moved by more than the adapter changes it, most in "
            f"{larger[0]} ({drifts[larger[0]].ratio:.3g} times): judge it on held-out data, or train it again"
        )
    if all(drift.change_square == 0 for drift in drifts.values()):
        found.append("both bases have the same weights in every adapted layer")
    old, new = bases.old.config, bases.new.config
    changed = {key for key in old.keys() | new.keys() if old.get(key) != new.get(key)} - _CONFIG_NOISE
    if changed:
        found.append(f"the bases' config.json differ in {_some(changed)}")
    others = _other_shapes(bases)
    if others:
        found.append(f"other tensors of the bases differ in shape or are in one alone: {_some(others)}")
    types = {
        (bases.old.tensors[bases.in_old(name)].dtype, bases.new.tensors[bases.in_new(name)].dtype)
        for name in (f"{layer}.weight" for layer in drifts)
    }
    mixed = sorted((before, after) for before, after in types if before != after)
    if mixed:
        found.append(f"weights are stored as {mixed[0][0]} and as {mixed[0][1]}: rounding counts as change")
    return found


def _other_shapes(bases: _Bases) -> set[str]:
    old, new = bases.old.tensors, bases.new.tensors
    if bases.in_old != bases.in_new:  # every name differs by its leading parts
        return set()
    return {
        name
        for name in old.keys() | new.keys()
        if name not in old or name not in new or old[name].shape != new[name].shape
    }


def _some(names: set[str]) -> str:
    shown = ", ".join(sorted(names)[:_NAMES_SHOWN])
    return shown if len(names) <= _NAMES_SHOWN else f"{shown} and {len(names) - _NAMES_SHOWN} more"


def _card(report: Mapping[str, Any]) -> str:
    ratio, cosine = report["ratio"], report["cosine"]
    warnings = "".join(f"- {warning}\n" for warning in report["warnings"])
    return (
        "---\nlibrary_name: peft\ntags: [lora, motet]\n---\n# Ported adapter\n\n"
        "Carried to a newer version of its base with `motet port`, without training. The base's change in the adapted "
        f"layers is {'unknown' if ratio is None else f'{ratio:.3g}'} times the adapter's; cosine "
        f"{'unknown' if cosine is None else f'{cosine:.3f}'}. Figures of each layer: `{REPORT_FILE}`.\n"
        + (f"\n{warnings}" if warnings else "")
    )

"""``motet merge``: adapter folders that exist already, combined offline into one that peft loads.

No server, recipe or base weights: what a method would fold into the base becomes extra rank of the written adapter.
Folders are read one layer at a time. See ``aggregation.merge`` for the numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file

from aggregation.kernels import norm
from aggregation.merge import (
    CannotMergeError,
    MergedLayer,
    check_offline,
    merge_dense,
    merge_layer,
    share_of,
)
from aggregation.methods import get_method
from aggregation.table import refusal
from motet.errors import MotetError
from motet.folders import check_apart, check_replaceable, file_sha256, write_folder, write_json
from motet.peft_config import CONFIG_FILE, AdapterFolderError
from motet.peft_folder import PREFIX, WEIGHTS_FILE, AdapterFolder, open_adapter

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from aggregation.adapter import FactorPair
    from aggregation.methods import Method

REPORT_FILE = "motet-merge.json"
_NAMES_SHOWN = 3


class MergeRefusedError(MotetError):
    """The options can not be used with these adapters."""

    exit_code = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeOptions:
    """How to combine.

    Attributes:
      method: a name of ``aggregation.methods``.
      method_options: ``ridge`` of lora-fair, ``energy`` of florist.
      weights: one an adapter, positive, not normalised; empty for equal ones.
      lora_rank: the largest rank to write; None for what the method gives.
      base: the base that all adapters are of, whatever their folders call it; None to read it from them.
    """

    method: str
    method_options: Mapping[str, float] = field(default_factory=dict)
    weights: Sequence[float] = ()
    lora_rank: int | None = None
    base: str | None = None


def merge_adapters(
    paths: Sequence[Path],
    out_dir: Path,
    options: MergeOptions,
    on_layer: Callable[[int, int], None] = lambda _done, _of: None,
) -> dict[str, Any]:
    """Combine PEFT LoRA folders into one and write it with its report, ``motet-merge.json``.

    Everything is checked before anything is written, and the folder appears whole or not at all.

    Args:
      paths: at least one folder; their order changes rounding alone.
      out_dir: must not exist, be empty, or be what an earlier merge wrote.
      options: see there.
      on_layer: told after each layer how many are merged, and of how many.

    Returns:
      The report: method, weights, base, ranks, ``relative_error`` against the exact weighted sum of
      ``scale * B @ A``, ``discarded_energy`` that rank limits cut, each layer's own, and the sha256 of all inputs
      and of what was written.

    Raises:
      MergeRefusedError: weights, rank or method do not fit these adapters.
      AdapterFolderError: a folder is not a sound LoRA adapter, or is of another base or other layers.
      OutputFolderError: ``out_dir`` is an input, holds something else, or can not be written.
    """
    weights = _weights(options.weights, len(paths))
    if options.lora_rank is not None and options.lora_rank < 1:
        raise MergeRefusedError(f"--lora-rank {options.lora_rank}: must be at least 1")
    method = _method(options)
    check_apart(paths, out_dir)
    check_replaceable(out_dir, REPORT_FILE)
    adapters = [open_adapter(path) for path in paths]
    base = _check_same(adapters, options.base)
    layers, pairs = _merge_layers(method, adapters, weights, options.lora_rank, on_layer)
    dense = {
        name: merge_dense([adapter.dense_tensor(name) for adapter in adapters], weights)
        for name in adapters[0].dense
    }
    _check_finite(pairs, dense)
    config = _merged_config(adapters, base, max(pair.lora_rank for pair in pairs.values()))
    report = _report(options, method, adapters, weights, layers, config)
    write_folder(out_dir, REPORT_FILE, lambda folder: _fill(folder, pairs, dense, config, report))
    return report


def _weights(given: Sequence[float], count: int) -> list[float]:
    if not count:
        raise MergeRefusedError("no adapters given", hint="name at least one adapter folder")
    weights = list(given) or [1.0] * count
    if len(weights) != count:
        raise MergeRefusedError(
            f"--weights: {len(weights)} numbers for {count} adapters", hint="give one number for each adapter"
        )
    odd = [w for w in weights if not (math.isfinite(w) and w > 0)]
    if odd:
        raise MergeRefusedError(
            f"--weights: {odd[0]:g} is not a positive number",
            hint="leave an adapter out to give it no weight",
        )
    return weights


def _method(options: MergeOptions) -> Method:
    try:
        check_offline(options.method)
        return get_method(options.method, **options.method_options)
    except CannotMergeError as e:
        raise MergeRefusedError(f"--method: {e}", hint=f"use --method {e.instead}") from e
    except KeyError as e:
        raise MergeRefusedError(f"--method: {e.args[0]}") from e


def _check_same(adapters: Sequence[AdapterFolder], base: str | None) -> str:
    """Base, task, layers, shapes and heads must agree; returns the base's name."""
    first = adapters[0]
    for other in adapters[1:]:
        if base is None and _base_of(other) != _base_of(first):
            raise AdapterFolderError(
                f"{other.path} is of base {_said(other)}, {first.path} of {_said(first)}",
                hint="if they are one base under two names, say its name: --base NAME",
            )
        tasks = {first.config.task_type, other.config.task_type} - {None}
        if len(tasks) > 1:
            raise AdapterFolderError(
                f"{other.path} is for {other.config.task_type}, not {first.config.task_type}"
            )
        _check_names(first, other, "layers", first.layers.keys() ^ other.layers.keys())
        _check_names(first, other, "modules_to_save", first.dense.keys() ^ other.dense.keys())
        for layer, kind in first.layers.items():
            found = other.layers[layer].shape
            if found != kind.shape:
                raise AdapterFolderError(
                    f"{other.path}: {layer} is {found}, in {first.path} it is {kind.shape}",
                    hint="their bases differ",
                )
        for name, shape in first.dense.items():
            if other.dense[name] != shape:
                raise AdapterFolderError(
                    f"{other.path}: {name} is {other.dense[name]}, in {first.path} it is {shape}",
                    hint="their heads have other classes",
                )
    return first.config.base_model if base is None else base


def _base_of(adapter: AdapterFolder) -> tuple[str, str | None]:
    return adapter.config.base_model, adapter.config.revision


def _said(adapter: AdapterFolder) -> str:
    name, revision = _base_of(adapter)
    return f"{name or 'no name'}{'' if revision is None else f' at revision {revision}'}"


def _check_names(first: AdapterFolder, other: AdapterFolder, what: str, odd: set[str]) -> None:
    if odd:
        shown = ", ".join(sorted(odd)[:_NAMES_SHOWN])
        raise AdapterFolderError(
            f"{other.path} and {first.path} have other {what}: {shown} ({len(odd)} in one of them alone)",
            hint="only adapters of the same target_modules and modules_to_save can be combined",
        )


def _merge_layers(
    method: Method,
    adapters: Sequence[AdapterFolder],
    weights: Sequence[float],
    lora_rank: int | None,
    on_layer: Callable[[int, int], None],
) -> tuple[dict[str, MergedLayer], dict[str, FactorPair]]:
    sizes = [_size(adapter) for adapter in adapters] if method.name == "hetlora" else None
    layers: dict[str, MergedLayer] = {}
    for layer in adapters[0].layers:
        pairs = [adapter.pair(layer) for adapter in adapters]
        try:
            layers[layer] = merge_layer(method, pairs, weights, lora_rank=lora_rank, sizes=sizes)
        except CannotMergeError as e:
            refused = refusal(method.name, "mixed_ranks")
            near = e.instead or (refused.instead if refused is not None else "flora")
            other = "" if near == "flora" else f", or {near}, which is nearest to {method.name}"
            raise MergeRefusedError(
                f"--method {method.name}: {layer}: {e}", hint=f"use --method flora, which is exact{other}"
            ) from e
        on_layer(len(layers), len(adapters[0].layers))
    return layers, {layer: merged.pair for layer, merged in layers.items()}


def _size(adapter: AdapterFolder) -> float:
    """The norm of an adapter's whole change, one layer in memory at a time."""
    return math.sqrt(math.fsum(norm(adapter.pair(layer)) ** 2 for layer in adapter.layers))


def _check_finite(pairs: Mapping[str, FactorPair], dense: Mapping[str, torch.Tensor]) -> None:
    named = [(k, t) for k, p in pairs.items() for t in (p.A, p.B * p.scale)] + list(dense.items())
    odd = next((name for name, tensor in named if not bool(torch.isfinite(tensor).all())), None)
    if odd is not None:
        raise AdapterFolderError(
            f"{odd}: the result does not fit into float32",
            hint="an input is out of all proportion; leave it out",
        )


def _merged_config(adapters: Sequence[AdapterFolder], base: str, lora_rank: int) -> dict[str, Any]:
    first = adapters[0].config
    task = next((a.config.task_type for a in adapters if a.config.task_type is not None), None)
    heads = sorted({head for adapter in adapters for head in adapter.config.modules_to_save})
    return {
        "peft_type": "LORA",
        "auto_mapping": first.raw.get("auto_mapping"),
        "base_model_name_or_path": base or None,
        "revision": first.revision,
        "task_type": task,
        "r": lora_rank,
        "lora_alpha": lora_rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": list(adapters[0].layers),
        "modules_to_save": heads or None,
        "fan_in_fan_out": any(adapter.config.fan_in_fan_out for adapter in adapters),
        "inference_mode": True,
        "init_lora_weights": True,
        "use_rslora": False,
        "use_dora": False,
    }


def _report(
    options: MergeOptions,
    method: Method,
    adapters: Sequence[AdapterFolder],
    weights: Sequence[float],
    layers: Mapping[str, MergedLayer],
    config: Mapping[str, Any],
) -> dict[str, Any]:
    total = math.fsum(weights)
    merged = layers.values()
    return {
        "report": "motet merge",
        "method": method.name,
        "method_options": dict(options.method_options),
        "base_model": config["base_model_name_or_path"],
        "lora_rank": config["r"],
        "lora_rank_limit": options.lora_rank,
        "relative_error": _number(share_of([(m.miss_square, m.exact_square) for m in merged])),
        "discarded_energy": _number(share_of([(m.cut_square, m.whole_square) for m in merged]) ** 2),
        "inputs": [
            {
                "path": str(adapter.path),
                "weight": weight,
                "share": weight / total,
                "lora_ranks": sorted({kind.lora_rank for kind in adapter.layers.values()}),
                "scales": sorted({kind.scale for kind in adapter.layers.values()}),
                "sha256": dict(adapter.sha256),
            }
            for adapter, weight in zip(adapters, weights, strict=True)
        ],
        "layers": {
            layer: {
                "shape": list(m.pair.shape),
                "lora_rank": m.pair.lora_rank,
                "norm": math.sqrt(m.exact_square),
                "relative_error": _number(m.relative_error),
                "discarded_energy": _number(m.discarded_energy),
            }
            for layer, m in layers.items()
        },
        "modules_to_save": sorted(adapters[0].dense),
    }


def _number(value: float) -> float | None:
    """JSON has no infinity: null where a result stands beside an exact sum of zero."""
    return value if math.isfinite(value) else None


def _fill(
    folder: Path,
    pairs: Mapping[str, FactorPair],
    dense: Mapping[str, torch.Tensor],
    config: Mapping[str, Any],
    report: dict[str, Any],
) -> None:
    tensors: dict[str, torch.Tensor] = {}
    for layer, pair in pairs.items():
        a, b = padded(pair, int(config["r"]))
        tensors[f"{PREFIX}{layer}.lora_A.weight"] = a
        tensors[f"{PREFIX}{layer}.lora_B.weight"] = b
    tensors.update({PREFIX + name: value.contiguous() for name, value in dense.items()})
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    write_json(folder / CONFIG_FILE, config)
    (folder / "README.md").write_text(_card(report), encoding="utf-8")
    report["sha256"] = {name: file_sha256(folder / name) for name in (WEIGHTS_FILE, CONFIG_FILE)}
    write_json(folder / REPORT_FILE, report)


def padded(pair: FactorPair, lora_rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A (r, n) and B (m, r) at PEFT scale 1, zeros behind their rank, which changes no product; float32."""
    rows, columns = pair.shape
    a, b = torch.zeros(lora_rank, columns), torch.zeros(rows, lora_rank)
    a[: pair.lora_rank] = pair.A.float()
    b[:, : pair.lora_rank] = (pair.B.double() * pair.scale).float()
    return a, b


def _card(report: Mapping[str, Any]) -> str:
    """README.md of the folder. A path is written as code, so that it is no markup of its own."""
    rows = "\n".join(
        f"| `{row['path'].replace('`', '').replace('|', '')}` | {row['share']:.4f} | "
        f"{', '.join(map(str, row['lora_ranks']))} | `{row['sha256'][WEIGHTS_FILE][:16]}` |"
        for row in report["inputs"]
    )
    error = report["relative_error"]
    return (
        "---\nlibrary_name: peft\ntags: [lora, motet]\n---\n# Merged adapter\n\n"
        f"{len(report['inputs'])} adapters combined with `motet merge --method {report['method']}`; rank "
        f"{report['lora_rank']}; relative error against their exact weighted sum "
        f"{'unknown' if error is None else f'{error:.2e}'}. Figures of each layer: `{REPORT_FILE}`.\n\n"
        f"| adapter | share | ranks | sha256 |\n|---|---|---|---|\n{rows}\n"
    )

"""A base model's folder, read lazily: names, shapes and rows of tensors, never the whole model. Safetensors only."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from motet.errors import MotetError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    import torch

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_FLOATING = {"F16", "BF16", "F32", "F64"}
_BLOCK_NUMBERS = 1 << 22
_MOST_DROPPED = 2


class BaseFolderError(MotetError):
    """A base model's folder can not be used, or does not fit the adapter."""

    exit_code = 10


class NoSuchBaseError(BaseFolderError):
    """There is no such folder."""

    exit_code = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseTensor:
    """Where a tensor lies and what it looks like; its numbers are not read yet."""

    file: Path
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseFolder:
    """One base model on disk.

    Attributes:
      path: as it was given.
      config: ``config.json``; empty where there is none.
      tensors: name -> where and what.
    """

    path: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, BaseTensor]

    def rows(self, name: str) -> Iterator[torch.Tensor]:
        """A tensor in blocks of rows, at most about 4 million numbers each, in the type it is stored in.

        A tensor without sides is one block of its own.

        Raises:
          BaseFolderError: it is not stored as floating numbers, or can not be read.
        """
        tensor = self.tensors[name]
        if tensor.dtype not in _FLOATING:
            raise BaseFolderError(
                f"{tensor.file}: {name} is stored as {tensor.dtype}",
                hint="a quantised base can not be compared; give the folder of its 16 or 32 bit weights",
            )
        try:
            with safe_open(tensor.file, framework="pt") as file:
                if not tensor.shape:
                    yield file.get_tensor(name)
                    return
                view = file.get_slice(name)
                step = max(1, _BLOCK_NUMBERS // max(1, math.prod(tensor.shape[1:])))
                for start in range(0, tensor.shape[0], step):
                    yield view[start : min(start + step, tensor.shape[0])]
        except (OSError, SafetensorError) as e:
            raise BaseFolderError(f"{tensor.file}: {name} can not be read: {e}") from e


def open_base(path: Path) -> BaseFolder:
    """Read the names and shapes of a local folder, whole or in shards.

    Raises:
      NoSuchBaseError: no such folder.
      BaseFolderError: it holds no safetensors, they are truncated or malformed, or a shard is missing.
    """
    if not path.is_dir():
        raise NoSuchBaseError(
            f"{path} is not a folder", hint="a base is a local folder with model.safetensors and config.json"
        )
    tensors: dict[str, BaseTensor] = {}
    for file in _files(path):
        try:
            with safe_open(file, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118 - not a dict
                    view = opened.get_slice(name)
                    shape = tuple(int(side) for side in view.get_shape())
                    tensors[name] = BaseTensor(file=file, shape=shape, dtype=view.get_dtype())
        except OSError as e:
            raise BaseFolderError(f"{file} can not be read: {e.strerror or e}") from e
        except SafetensorError as e:
            raise BaseFolderError(
                f"{file} is truncated or no safetensors file: {e}",
                hint="copy it again and compare its sha256",
            ) from e
    config = path / "config.json"
    return BaseFolder(path=path, config=_json(config) if config.is_file() else {}, tensors=tensors)


def base_files(path: Path) -> list[Path]:
    """What the content of a base model is: configuration, weights and their index, in the order of names.

    Raises:
      NoSuchBaseError: no such folder.
      BaseFolderError: it holds no safetensors, or a shard is missing.
    """
    if not path.is_dir():
        raise NoSuchBaseError(
            f"{path} is not a folder", hint="a base is a local folder with model.safetensors and config.json"
        )
    beside = [path / name for name in ("config.json", _INDEX) if (path / name).is_file()]
    return sorted({*_files(path), *beside})


def _files(path: Path) -> list[Path]:
    if (path / _SINGLE).is_file():
        return [path / _SINGLE]
    if not (path / _INDEX).is_file():
        pickles = any(p.suffix == ".bin" for p in path.iterdir())
        raise BaseFolderError(
            f"{path} has no {_SINGLE}" + (", only a pickle, which is not opened" if pickles else ""),
            hint="save the model with save_pretrained, which writes safetensors",
        )
    table = _json(path / _INDEX).get("weight_map")
    if not isinstance(table, dict) or not all(isinstance(name, str) for name in table.values()):
        raise BaseFolderError(f"{path / _INDEX} has no weight_map")
    names = sorted(set(table.values()))
    outside = [name for name in names if "/" in name or "\\" in name or not name.endswith(".safetensors")]
    if outside:
        raise BaseFolderError(f"{path / _INDEX} names {outside[0]!r}, which is no shard of this folder")
    missing = [name for name in names if not (path / name).is_file()]
    if missing:
        raise BaseFolderError(f"{path} lacks the shard {missing[0]} ({len(missing)} of {len(names)})")
    return [path / name for name in names]


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise BaseFolderError(f"{path} can not be read: {e.strerror or e}") from e
    except (ValueError, RecursionError) as e:
        raise BaseFolderError(f"{path} is not JSON: {str(e)[:120]}") from e
    if not isinstance(value, dict):
        raise BaseFolderError(f"{path} is not a JSON object")
    return value


@dataclass(frozen=True, slots=True)
class Renaming:
    """How a model's names become a folder's: leading parts dropped, others put before.

    A model with a head calls its backbone ``bert.encoder...``; a folder of the bare backbone calls it ``encoder...``.
    """

    drop: int
    add: str

    def __call__(self, name: str) -> str:
        """The folder's name of a parameter."""
        return self.add + ".".join(name.split(".")[self.drop :])


def renaming(base: BaseFolder, names: Iterable[str]) -> Renaming:
    """The one change of leading parts that finds every name in the folder.

    Args:
      base: the folder.
      names: parameters as the adapter's model calls them; at least one.

    Raises:
      BaseFolderError: none does, or two do.
    """
    wanted = sorted(names)
    for drop in range(_MOST_DROPPED + 1):
        tail = ".".join(wanted[0].split(".")[drop:])
        ends = sorted(t[: -len(tail)] for t in base.tensors if t == tail or t.endswith("." + tail))
        fits = [r for r in (Renaming(drop, add) for add in ends) if all(r(n) in base.tensors for n in wanted)]
        plain = [r for r in fits if r.add == ""]
        if plain or len(fits) == 1:
            return (plain or fits)[0]
        if fits:
            raise BaseFolderError(
                f"{base.path}: {wanted[0]} could be {fits[0](wanted[0])} or {fits[1](wanted[0])}",
                hint="give the folder of the model that the adapter was trained on",
            )
    missing = [n for n in wanted if n not in base.tensors]
    raise BaseFolderError(
        f"{base.path} has no {(missing or wanted)[0]} ({len(missing)} of {len(wanted)} layers are missing)",
        hint=f"it has, for example, {', '.join(sorted(base.tensors)[:3])}; is it the adapter's base?",
    )

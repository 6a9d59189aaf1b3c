"""The content hash of a base model, for owners who allow models by what they are and not by what they are called."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from motet.base_folder import BaseFolderError, base_files
from motet.folders import file_sha256
from motet.materials import MaterialError, model_path
from motet.materials.cache import find_material

if TYPE_CHECKING:
    from motet.recipe import Recipe


def base_sha256s(recipe: Recipe) -> set[str]:
    """Every hash that the recipe's base model goes by on this machine; empty where it is none of a folder's content.

    A material has the hash of its archive as ``motet materials list --json`` shows it, if it is here, and that of its
    folder; a local folder has the latter. Models by hub id and random ones have none.
    """
    base = recipe.base_model
    try:
        if base.material is not None:
            return {find_material(base.material).sha256, folder_sha256(model_path(base.material))}
        if base.path is not None:
            return {folder_sha256(Path(base.path).expanduser())}
    except (BaseFolderError, MaterialError, OSError):
        return set()
    return set()


def folder_sha256(folder: Path) -> str:
    """SHA-256 over the lines that ``sha256sum`` prints for ``config.json`` and the weights, in the order of names.

    In a shell: ``cd FOLDER; sha256sum config.json *.safetensors | sort -k2 | sha256sum`` (with the index of a model in
    shards). Files are read again only after a change.

    Raises:
      BaseFolderError: no folder of a base model.
      OSError: a file can not be read.
    """
    files = base_files(folder)
    lines = [f"{_file_sha256(f, f.stat().st_size, f.stat().st_mtime_ns)}  {f.name}\n" for f in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


@lru_cache(maxsize=64)
def _file_sha256(path: Path, _size: int, _changed_ns: int) -> str:
    return file_sha256(path)

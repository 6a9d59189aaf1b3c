"""The file of a backup: a tar of plain files, the last two of them the manifest and the ledger key's word on it.

ledger/…            the signed ledger
tables/NAME.jsonl   rows of one moment (``coordinator.storage.rows``)
artifacts/…         as they lie, encrypted or not
tls/…, join.json    what is no secret
keys.json           key files under a passphrase, unless they were left out
manifest.json       every file with its size and SHA-256
manifest.note       SHA-256 of the manifest, signed by the ledger's key
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

from coordinator.backup.errors import BackupError
from privacy.ledger.errors import LedgerFormatError, SignatureError
from privacy.ledger.notes import Verifier, open_note

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

FORMAT = "motet-backup/1"
MANIFEST, NOTE, KEYS = "manifest.json", "manifest.note", "keys.json"
_NAME = re.compile(
    r"(ledger|tables|artifacts|tls)/[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)?|join\.json|keys\.json"
)
# Files of a home that no backup has in the clear: keys, and the place of one.
_NEVER = frozenset({"tls/ca.key", "tls/server.key", "ledger/ledger.key", "artifacts/keyring.path"})
_MOST_MANIFEST = 256 << 20
_BLOCK = 1 << 20


class Writer:
    """Adds files to a backup and remembers what they were.

    Args:
      file: open for writing.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._tar = tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115 - ``close``
        self.files: list[dict[str, Any]] = []

    def add(self, name: str, data: bytes) -> None:
        """A member from memory."""
        self._add(name, io.BytesIO(data), len(data))

    def add_file(self, name: str, path: Path) -> None:
        """A member from a file that does not change.

        Raises:
          OSError: it can not be read.
        """
        with path.open("rb") as file:
            self._add(name, file, path.stat().st_size)

    def close(self, facts: Mapping[str, Any], sign: Callable[[str], str]) -> None:
        """Write the manifest and the ledger key's word on it."""
        manifest = json.dumps({"format": FORMAT, **facts, "files": self.files}, indent=1).encode() + b"\n"
        self._put(MANIFEST, io.BytesIO(manifest), len(manifest))
        note = sign(note_text(manifest)).encode()
        self._put(NOTE, io.BytesIO(note), len(note))
        self._tar.close()

    def _add(self, name: str, file: IO[bytes], size: int) -> None:
        hashing = _Hashing(file)
        self._put(name, hashing, size)
        self.files.append({"name": name, "bytes": size, "sha256": hashing.digest.hexdigest()})

    def _put(self, name: str, file: Any, size: int) -> None:  # noqa: ANN401 - whatever reads
        info = tarfile.TarInfo(name)
        info.size, info.mode = size, 0o600
        self._tar.addfile(info, file)


class _Hashing:
    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.digest = file, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self.digest.update(data)
        return data


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A backup whose every byte was held against its manifest.

    Attributes:
      path: the file.
      manifest: as it was signed.
      key: that signed it, ``name+hash+key``.
      small: ledger files, keys and the like, by name.
    """

    path: Path
    manifest: Mapping[str, Any]
    key: str
    small: Mapping[str, bytes]


def note_text(manifest: bytes) -> str:
    """What is signed of a manifest."""
    return f"motet-backup\n{hashlib.sha256(manifest).hexdigest()}\n"


def check(path: Path) -> Checked:
    """Read a backup from end to end.

    Raises:
      BackupError: it is none, is cut, or a byte is not what the manifest says; or its key did not sign the manifest.
    """
    seen: dict[str, tuple[int, str]] = {}
    small: dict[str, bytes] = {}
    for name, size, file in members(path):
        is_known = name in {MANIFEST, NOTE} or (_NAME.fullmatch(name) and name not in _NEVER)
        if name in seen or not is_known:
            raise BackupError(f"{path}: member {name[:100]!r} does not belong into a backup")
        keep = not name.startswith(("artifacts/", "tables/")) and size <= _MOST_MANIFEST
        seen[name], data = _read(file, keep=keep)
        if keep:
            small[name] = data
    if MANIFEST not in small or NOTE not in small:
        raise BackupError(
            f"{path} is no whole backup: it has no manifest", hint="it was cut; take another one"
        )
    try:
        manifest = json.loads(small[MANIFEST])
        told = {row["name"]: (row["bytes"], row["sha256"]) for row in manifest["files"]}
        is_known, key = manifest["format"] == FORMAT, str(manifest["ledger"]["key"])
    except (ValueError, KeyError, TypeError) as e:
        raise BackupError(f"{path}: the manifest is damaged") from e
    if not is_known:
        raise BackupError(
            f"{path} is a backup of another version: {manifest['format']}", hint="pip install -U motet"
        )
    try:
        signed = open_note(small[NOTE].decode(), Verifier.from_text(key))
    except (LedgerFormatError, SignatureError, UnicodeDecodeError) as e:
        raise BackupError(f"{path}: the manifest is not signed by the ledger's key: {e}") from e
    if signed != note_text(small[MANIFEST]):
        raise BackupError(f"{path}: the manifest is not the one that was signed")
    found = {name: facts for name, facts in seen.items() if name not in {MANIFEST, NOTE}}
    if found != told:
        wrong = sorted(n for n in {*found, *told} if found.get(n) != told.get(n))
        raise BackupError(f"{path}: {len(wrong)} files are not what the manifest says, first {wrong[0]}")
    return Checked(path=path, manifest=manifest, key=key, small=small)


class Content:
    """What a member holds; a fault of the file is a fault of the backup, whoever reads."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self._path, self._file = path, file

    def read(self, size: int = -1) -> bytes:
        """Up to ``size`` bytes; empty at the end.

        Raises:
          BackupError: the backup is cut, or can not be read.
        """
        try:
            return self._file.read(size)
        except (OSError, tarfile.TarError, EOFError) as e:
            raise BackupError(f"{self._path} can not be read as a backup: {e}", hint="it is cut") from e


def members(path: Path) -> Iterator[tuple[str, int, Content]]:
    """Name, size and content of each member, in order; plain files only.

    Raises:
      BackupError: it can not be read, or is no tar of plain files.
    """
    try:
        with tarfile.open(path, "r:") as tar:
            for info in tar:
                is_plain = info.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not info.issparse()
                file = tar.extractfile(info) if is_plain else None
                if file is None:
                    raise BackupError(f"{path}: member {info.name[:100]!r} is no plain file")
                yield info.name, info.size, Content(path, file)
    except (FileNotFoundError, IsADirectoryError, PermissionError) as e:
        raise BackupError(f"{path}: {e.strerror}", hint="check the path and its rights") from e
    except (OSError, tarfile.TarError, EOFError, ValueError) as e:
        raise BackupError(
            f"{path} can not be read as a backup: {e}", hint="it is cut or is something else"
        ) from e


def _read(file: Content, *, keep: bool) -> tuple[tuple[int, str], bytes]:
    digest, size, parts = hashlib.sha256(), 0, []
    while part := file.read(_BLOCK):
        digest.update(part)
        size += len(part)
        if keep:
            parts.append(part)
    return (size, digest.hexdigest()), b"".join(parts)

"""Files by their content: written beside, synced, renamed. A name that exists is whole.

``<sha256>`` holds plain bytes, ``<sha256>.enc`` the same bytes encrypted (``sealing``). A store with a file
``keyring.path`` writes encrypted ones under the newest key of the ring that it names; it reads both.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from aggregation.errors import MalformedUpdateError
from coordinator.errors import StorageError
from coordinator.storage.keyring import Keyring, WrappingKey, read_keyring
from coordinator.storage.sealing import FRAME_BYTES, Header, seal, unseal
from motet.durable import sync_folder, write_whole

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from aggregation.adapter import AdapterState

SEALED = ".enc"
AT_ONCE = 16  # writes that wait for the disk beside each other
KEY_FILE = "artifact.keys"
_RING = "keyring.path"
_MISSING = "restore the artifacts folder; what `motet coordinator gc` was told not to keep is gone"


class ArtifactStore:
    """Adapter states and client updates under ``folder/<first two digits>/``.

    Args:
      folder: made with the first artifact. Encrypted where ``open_artifacts`` or ``rotate_keys`` said so.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ring: tuple[tuple[int, ...], Keyring] | None = None

    @property
    def folder(self) -> Path:
        """Where the files are."""
        return self._folder

    def path_of(self, sha256: str) -> Path:
        """Where an artifact lies, or would lie as plain bytes."""
        plain = self._folder / sha256[:2] / sha256
        sealed = plain.with_name(sha256 + SEALED)
        return sealed if sealed.exists() else plain

    def put(self, data: bytes, kind: str = "adapter") -> str:
        """Store durably; the same bytes twice are one file.

        Args:
          data: plain bytes.
          kind: adapter, update or optimizer.

        Returns:
          hex sha256.

        Raises:
          StorageError: the disk is full or not writable, or the key can not be read; nothing half is left.
        """
        sha256 = hashlib.sha256(data).hexdigest()
        with self.locked(shared=True):
            path = self.path_of(sha256)
            if path.exists():
                os.utime(path)  # young again: the collector leaves it alone
                return sha256
            ring = self.keyring()
            if ring is None:
                self.write(path, (data,))
            else:
                self.write(path.with_name(sha256 + SEALED), seal(data, sha256, kind, ring.current))
        return sha256

    def put_all(self, all_data: Sequence[bytes], kind: str = "adapter") -> list[str]:
        """Store several durably, beside each other: each waits for the disk, and disks take many waits as one.

        Args:
          all_data: plain bytes of each.
          kind: as of ``put``.

        Returns:
          hex sha256 of each, in their order.

        Raises:
          StorageError: as ``put``; others may be stored.
        """
        if len(all_data) < 2:
            return [self.put(data, kind) for data in all_data]
        with ThreadPoolExecutor(min(len(all_data), AT_ONCE)) as pool:
            return list(pool.map(partial(self.put, kind=kind), all_data))

    def write(self, path: Path, parts: Iterable[bytes]) -> None:
        """Write one file of the store, whole or not at all; durable on return.

        Raises:
          StorageError: the disk is full or not writable.
        """
        staging = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(3)}.tmp")
        try:
            if not path.parent.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                sync_folder(self._folder)
            with staging.open("wb") as file:
                for part in parts:
                    file.write(part)
                file.flush()
                os.fsync(file.fileno())
            staging.rename(path)
            sync_folder(path.parent)
        except OSError as e:
            staging.unlink(missing_ok=True)
            raise StorageError(
                f"{path.parent} can not be written: {e.strerror}",
                hint="free space or mend the folder's rights",
            ) from e

    def get(self, sha256: str) -> bytes:
        """The bytes, checked against their name.

        Raises:
          StorageError: missing, damaged, altered, or its key is missing.
        """
        return b"".join(self.chunks(sha256))

    def chunks(self, sha256: str) -> Iterator[bytes]:
        """The bytes in parts of up to 1 MiB; only when the last one is there do they match their name.

        Raises:
          StorageError: as ``get``.
        """
        digest = hashlib.sha256()
        for part in self._parts(sha256):
            digest.update(part)
            yield part
        if digest.hexdigest() != sha256:
            raise StorageError(
                f"artifact {sha256[:12]} is damaged on disk", hint="restore the artifacts folder"
            )

    def _parts(self, sha256: str) -> Iterator[bytes]:
        path = self.path_of(sha256)
        try:
            with path.open("rb") as file:
                if path.suffix == SEALED:
                    header = Header.read(file, sha256)
                    yield from unseal(file, header, self.key_of(header))
                else:
                    while part := file.read(FRAME_BYTES):
                        yield part
        except OSError as e:
            raise StorageError(f"artifact {sha256[:12]} is missing: {e.strerror}", hint=_MISSING) from e

    def load_state(self, sha256: str) -> AdapterState:
        """A stored adapter state.

        Raises:
          StorageError: missing, damaged, or not an adapter state.
        """
        from aggregation.serialize import from_bytes  # brings torch, which keys and files do without

        try:
            return from_bytes(self.get(sha256))
        except MalformedUpdateError as e:
            raise StorageError(f"artifact {sha256[:12]} is no adapter state: {e.reason}") from e

    # -- all of them ---------------------------------------------------------------------------------------------

    def files(self) -> Iterator[tuple[str, Path]]:
        """Every artifact's sha256 and file, in order of names; one that is there twice is given twice."""
        for path in sorted(self._folder.glob("[0-9a-f][0-9a-f]/*")):
            name = path.name.removesuffix(SEALED)
            if len(name) == 64 and path.parent.name == name[:2]:
                yield name, path

    def leftovers(self) -> Iterator[Path]:
        """Files of writes that a crash cut off, or that go on."""
        yield from sorted(self._folder.glob("[0-9a-f][0-9a-f]/*.tmp"))

    @contextmanager
    def locked(self, *, shared: bool = False) -> Iterator[None]:
        """Hold the store: shared to write an artifact, alone to change keys or to remove files.

        Raises:
          StorageError: the folder can not be written.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            lock = (self._folder / "lock").open("w")
        except OSError as e:
            raise StorageError(
                f"{self._folder} can not be written: {e.strerror}",
                hint="free space or mend the folder's rights",
            ) from e
        with lock:
            fcntl.flock(lock, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
            yield

    # -- keys ----------------------------------------------------------------------------------------------------

    def key_path(self) -> Path | None:
        """The file of keys; None where the store is not encrypted.

        Raises:
          StorageError: the file that names it can not be read.
        """
        try:
            text = (self._folder / _RING).read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as e:
            raise StorageError(f"{self._folder / _RING} can not be read", hint="check its rights") from e
        return self._folder / text  # an absolute path stays as it is

    def keyring(self) -> Keyring | None:
        """The keys as they are now; None where the store is not encrypted.

        Raises:
          StorageError: the file is missing, readable by others, or damaged.
        """
        path = self.key_path()
        if path is None:
            return None
        try:
            found = path.stat()
        except OSError as e:
            raise StorageError(
                f"{path}, the key of the artifacts, is missing: {e.strerror}",
                hint="restore it from its backup; without it the artifacts can not be read by anyone",
            ) from e
        stamp = (found.st_ino, found.st_size, found.st_mtime_ns, found.st_mode)
        if self._ring is None or self._ring[0] != stamp or self._ring[1].path != path:
            self._ring = stamp, read_keyring(path)
        return self._ring[1]

    def key_of(self, header: Header) -> WrappingKey:
        """The key that wraps an artifact's own.

        Raises:
          StorageError: it is not on the ring.
        """
        ring = self.keyring()
        key = ring.key(header.key_id) if ring is not None else None
        if key is None:
            where = ring.path if ring is not None else "no file of keys"
            raise StorageError(
                f"artifact {header.sha256[:12]} is encrypted under key {header.key_id.hex()}; {where} lacks it",
                hint="restore the newest backup of the key file",
            )
        return key

    def use_keys(self, path: Path) -> None:
        """From now on, write encrypted under the keys of ``path``; inside the home it is remembered relatively.

        Raises:
          StorageError: the folder can not be written.
        """
        home = self._folder.resolve().parent  # of the leader, where a standby's folder is a link
        absolute = path.resolve()
        text = (
            os.path.relpath(absolute, self._folder.resolve()) if home in absolute.parents else str(absolute)
        )
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_whole(self._folder / _RING, (text + "\n").encode())
        except OSError as e:
            raise StorageError(f"{self._folder} can not be written: {e.strerror}") from e


def open_artifacts(home: Path, key_file: Path | None = None) -> ArtifactStore:
    """The artifacts of a coordinator's home; a new home is encrypted.

    Args:
      home: the coordinator's state folder.
      key_file: where the keys are or are to be; ``artifact.keys`` in the home by default.

    Raises:
      StorageError: the home has another file of keys or plain artifacts, or the file can not be read or made.
    """
    store = ArtifactStore(home / "artifacts")
    with store.locked():
        known = store.key_path()
        files = [path for _, path in store.files()] if known is None else []
        if any(path.suffix == SEALED for path in files):
            raise StorageError(
                f"{store.folder / _RING} is missing, and artifacts there are encrypted",
                hint="write the path of their key file into it",
            )
        if known is None and not files:
            path = key_file or store.folder.resolve().parent / KEY_FILE
            if not path.exists():
                Keyring(path=path, keys=(WrappingKey.new(),)).save()
            read_keyring(path)
            store.use_keys(path)
        elif key_file is not None and (known is None or known.resolve() != key_file.resolve()):
            raise StorageError(
                f"the artifacts of {home} are "
                + (f"under the keys of {known}" if known else "not encrypted"),
                hint=f"motet coordinator rotate-keys --home {home} --artifact-key {key_file}",
            )
    store.keyring()
    return store

"""A new key for the artifacts: every data key is wrapped anew, plain artifacts are encrypted.

Safe beside a running coordinator, which sees the new key at its next write, and after a crash at any point: the ring
holds both keys until no artifact needs the old one, and the same call again finishes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from coordinator.errors import StorageError
from coordinator.storage.artifacts import KEY_FILE, SEALED, ArtifactStore
from coordinator.storage.keyring import Keyring, WrappingKey, read_keyring
from coordinator.storage.sealing import FRAME_BYTES, Header, seal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """What was done.

    Attributes:
      key_id: of the key that everything is under now.
      key_path: its file.
      rewrapped: artifacts whose header was made anew.
      encrypted: artifacts that were plain.
    """

    key_id: str
    key_path: Path
    rewrapped: int
    encrypted: int


def rotate_keys(home: Path, key_file: Path | None = None) -> Rotation:
    """Put every artifact of a home under a new key.

    Args:
      home: the coordinator's state folder.
      key_file: where the keys are to be from now on; where they are by default. The file of before is left.

    Raises:
      StorageError: an artifact is damaged (the others are done, and the old key stays), or a file can not be written.
    """
    store = ArtifactStore(home / "artifacts")
    with store.locked():
        ring = _begin(store, home, key_file)
    rewrapped, encrypted = 0, 0
    failures: list[str] = []
    for sha256, path in list(store.files()):
        try:
            with store.locked():
                if not path.exists():
                    continue
                if path.suffix == SEALED:
                    rewrapped += _rewrap(store, sha256, path, ring)
                else:
                    _encrypt(store, sha256, path, ring)
                    encrypted += 1
        except StorageError as e:
            failures.append(e.message)
    if failures:
        raise StorageError(
            f"{len(failures)} artifacts are not under the new key: {failures[0]}",
            hint=f"restore them and call it again; the old key stays in {ring.path} until then",
        )
    with store.locked():
        Keyring(path=ring.path, keys=(ring.current,)).save()
    return Rotation(
        key_id=ring.current.key_id.hex(), key_path=ring.path, rewrapped=rewrapped, encrypted=encrypted
    )


def _begin(store: ArtifactStore, home: Path, key_file: Path | None) -> Keyring:
    """The ring with the new key as its last; as an earlier call left it, where that was cut off."""
    old = store.keyring()
    path = key_file or (old.path if old is not None else store.folder.resolve().parent / KEY_FILE)
    if old is not None and path.resolve() == old.path.resolve():
        if len(old.keys) > 1:
            return old
        ring = Keyring(path=old.path, keys=(*old.keys, WrappingKey.new()))
        ring.save()
        return ring
    keys = old.keys if old is not None else ()
    if path.exists():
        ring = read_keyring(path)
        if not set(keys) <= set(ring.keys):
            raise StorageError(f"{path} holds other keys", hint="name a new file; it is made")
    else:
        ring = Keyring(path=path, keys=(*keys, WrappingKey.new()))
        ring.save()
    store.use_keys(path)
    return ring


def _rewrap(store: ArtifactStore, sha256: str, path: Path, ring: Keyring) -> bool:
    with path.open("rb") as file:
        header = Header.read(file, sha256)
        if header.key_id == ring.current.key_id:
            return False
        key = ring.key(header.key_id)
        if key is None:
            raise StorageError(
                f"artifact {sha256[:12]} is under key {header.key_id.hex()}, which is not in {ring.path}"
            )
        made = header.rewrapped(key, ring.current)

        def parts() -> Iterator[bytes]:
            yield made.to_bytes()
            while part := file.read(FRAME_BYTES):
                yield part

        store.write(path, parts())
    return True


def _encrypt(store: ArtifactStore, sha256: str, path: Path, ring: Keyring) -> None:
    sealed = path.with_name(sha256 + SEALED)
    if not sealed.exists():
        # What it is of stands in the database; an artifact of before there were keys is told by its content alone.
        store.write(sealed, seal(store.get(sha256), sha256, "earlier", ring.current))
    path.unlink()

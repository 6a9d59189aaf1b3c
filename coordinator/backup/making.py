"""``motet backup``: a running or a stopped coordinator's home in one file.

The ledger's signed file first, then one snapshot of the database, then the artifacts. So the file of the ledger may be
behind the database and is never ahead, and every artifact that the snapshot names is there: it was written before its
row, and nothing is collected meanwhile.
"""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from coordinator.backup.archive import KEYS, Writer
from coordinator.backup.errors import BackupError
from coordinator.backup.keys import seal_keys
from coordinator.storage.artifacts import KEY_FILE, ArtifactStore
from coordinator.storage.database import Database
from coordinator.storage.rows import Snapshot, snapshot
from coordinator.storage.where import database_of
from motet.audit.ledger import CoordinatorLedger
from motet.durable import sync_folder

if TYPE_CHECKING:
    from collections.abc import Callable

SECRETS = ("tls/ca.key", "tls/server.key", "ledger/ledger.key")
OPEN = ("tls/ca.crt", "tls/server.pem", "join.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """What was written.

    Attributes:
      path: the file.
      num_bytes: its size.
      revision: of the database.
      entries: of the ledger, in the database.
      artifacts: number of files.
      has_keys: whether the keys are in it, under the passphrase.
    """

    path: Path
    num_bytes: int
    revision: str
    entries: int
    artifacts: int
    has_keys: bool


def back_up(
    home: Path, out: Path, *, passphrase: str | None, after_snapshot: Callable[[], None] = lambda: None
) -> Backup:
    """Write a backup; whole or not there.

    Args:
      home: the coordinator's state folder; the coordinator may run.
      out: a file that is not there yet.
      passphrase: for the keys; None leaves them out.
      after_snapshot: called once the snapshot is taken; for tests.

    Raises:
      BackupError: ``out`` is there, nothing was ever recorded, or a file can not be read or written.
      StorageError: the database can not be read.
      JournalError: the ledger is damaged.
      LedgerKeyError: its key is missing: without it no backup can be signed.
    """
    if out.exists():
        raise BackupError(f"{out} is there already", hint="name a new file; a backup is never overwritten")
    staging = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        with staging.open("xb") as file:
            staging.chmod(0o600)
            made = _write(home, Writer(file), passphrase, after_snapshot)
            file.flush()
            os.fsync(file.fileno())
        num_bytes = staging.stat().st_size
        staging.rename(out)
        sync_folder(out.parent)
    except OSError as e:
        raise BackupError(
            f"{out} can not be made: {e.strerror}: {e.filename or out}", hint="check space and rights"
        ) from e
    finally:
        staging.unlink(missing_ok=True)
    revision, entries, artifacts = made
    return Backup(
        path=out,
        num_bytes=num_bytes,
        revision=revision,
        entries=entries,
        artifacts=artifacts,
        has_keys=passphrase is not None,
    )


def _write(
    home: Path, writer: Writer, passphrase: str | None, after_snapshot: Callable[[], None]
) -> tuple[str, int, int]:
    artifacts = ArtifactStore(home / "artifacts")
    ledger = CoordinatorLedger(home / "ledger")
    database = Database.as_it_is(database_of(home))
    try:
        with artifacts.locked(shared=True):
            leaves, notes = ledger.leaves(), ledger.checkpoints()
            if not leaves:
                raise BackupError(
                    f"{home} has no ledger yet", hint="start the coordinator once; nothing is recorded yet"
                )
            notes = [note for note in notes if int(note.split("\n", 2)[1]) <= len(leaves)]
            keys = ledger.backup_files(len(leaves), len(notes))
            for name, data in keys.items():
                writer.add(f"ledger/{name}", data)
            with snapshot(database) as seen:
                after_snapshot()
                entries = _tables(writer, seen, home)
                revision = seen.revision
            files = list(artifacts.files())
            for _, path in files:
                writer.add_file(f"artifacts/{path.parent.name}/{path.name}", path)
            for name in OPEN:
                if (home / name).exists():
                    writer.add_file(name, home / name)
            if passphrase is not None:
                writer.add(KEYS, seal_keys(_secrets(home, artifacts), passphrase))
        facts = {
            "made_at_ms": int(time.time() * 1000),
            "revision": revision,
            "dialect": "postgresql" if database.is_postgresql else "sqlite",
            "ledger": {"key": ledger.verifier().to_text(), "entries": entries, "signed": len(leaves)},
            "keys": "under a passphrase" if passphrase is not None else "left out",
            "is_encrypted": artifacts.key_path() is not None,
        }
        writer.close(facts, ledger.sign)
    finally:
        database.close()
    return revision, entries, len(files)


def _tables(writer: Writer, seen: Snapshot, home: Path) -> int:
    """All tables; the number of ledger entries."""
    entries = 0
    with tempfile.TemporaryDirectory(dir=home, prefix=".backup-") as folder:
        for name in seen.tables:
            path = Path(folder) / name
            with path.open("wb") as file:
                for line in seen.lines(name):
                    file.write(line)
                    entries += name == "ledger_entries"
            writer.add_file(f"tables/{name}.jsonl", path)
            path.unlink()
    return entries


def _secrets(home: Path, artifacts: ArtifactStore) -> dict[str, bytes]:
    found = {name: (home / name).read_bytes() for name in SECRETS if (home / name).exists()}
    path = artifacts.key_path()
    return found if path is None else found | {KEY_FILE: path.read_bytes()}

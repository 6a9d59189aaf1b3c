"""``motet restore``: everything is checked first, then a new home is filled beside its place and renamed."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import secrets
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import URL, make_url

from coordinator.backup.archive import KEYS, MANIFEST, NOTE, Checked, Content, check, members
from coordinator.backup.errors import BackupError, RolledBackError
from coordinator.backup.evidence import hold_against, read_checkpoint
from coordinator.backup.keys import open_keys
from coordinator.backup.making import SECRETS
from coordinator.storage.artifacts import KEY_FILE
from coordinator.storage.database import Database
from coordinator.storage.revision import known_revisions
from coordinator.storage.rows import is_empty, load
from coordinator.storage.where import database_of, remember
from motet.durable import sync_folder
from privacy.ledger.chain import entry_from_bytes, verify_chain
from privacy.ledger.entries import Genesis, Reserve
from privacy.ledger.errors import ChainError, LedgerFormatError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_RING = "artifacts/keyring.path"
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """What was put back.

    Attributes:
      home: the new home.
      revision: of the database; the next start upgrades it.
      entries: of the ledger.
      key: that signed the backup; compare it with the one that the operator knows.
      missing_keys: files that have to be put into the home by hand, as the backup has no keys.
      is_rolled_back: whether newer checkpoints are known, and the loss was accepted.
    """

    home: Path
    revision: str
    entries: int
    key: str
    missing_keys: tuple[str, ...]
    is_rolled_back: bool


def restore(
    backup: Path,
    home: Path,
    *,
    passphrase: str | None = None,
    database: str | None = None,
    checkpoints: Sequence[Path] = (),
    key: str | None = None,
    accept_rollback: bool = False,
) -> Restored:
    """Put a backup into a new home. Nothing is written before all of it was checked.

    Args:
      backup: the file.
      home: not there, or an empty folder.
      passphrase: of the keys, where the backup has them.
      database: URL of an empty PostgreSQL database; a SQLite file in the home by default. Either takes either's rows.
      checkpoints: where newer ones may be, see ``evidence.read_checkpoint``.
      key: the ledger's, as the operator knows it.
      accept_rollback: go on although a checkpoint is newer than the backup.

    Raises:
      BackupError: the backup is not whole, or is of another key; the home is not empty; the passphrase is wrong.
      RolledBackError: a checkpoint is newer than the backup, or of another ledger.
      StorageError: the database is not empty, or can not be written.
    """
    _check_place(home)
    checked = check(backup)
    if key is not None and key != checked.key:
        raise BackupError(f"{backup} is signed by another key than the one given: {checked.key}")
    revision = str(checked.manifest["revision"])
    if revision not in known_revisions():
        raise BackupError(f"{backup} has revision {revision}, of a newer Motet", hint="pip install -U motet")
    keys = _keys(checked, passphrase)
    leaves = _check_ledger(checked)
    is_rolled_back = _check_evidence(leaves, checked, checkpoints, accept=accept_rollback)
    staging = home.parent / f".{home.name}-{secrets.token_hex(4)}"
    try:
        staging.mkdir(parents=True, mode=0o700)
        tables = _extract(checked, staging, keys)
        if is_rolled_back:
            _note_rollback(staging, checked, checkpoints, len(leaves))
        where = _place(staging, database)
        _fill(where, revision, tables)
        shutil.rmtree(staging / "tables")
        if home.exists():
            home.rmdir()
        staging.rename(home)
        sync_folder(home.parent)
    except OSError as e:
        raise BackupError(f"{home} can not be made: {e.strerror}", hint="check space and rights") from e
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    wanted = [*SECRETS, *([KEY_FILE] if checked.manifest.get("is_encrypted") else [])]
    return Restored(
        home=home,
        revision=revision,
        entries=len(leaves),
        key=checked.key,
        missing_keys=tuple(name for name in wanted if not (home / name).exists()),
        is_rolled_back=is_rolled_back,
    )


def _check_place(home: Path) -> None:
    if home.is_symlink() or (home.exists() and (not home.is_dir() or any(home.iterdir()))):
        raise BackupError(
            f"{home} is not empty", hint="restore into a new folder; nothing is ever overwritten"
        )


def _keys(checked: Checked, passphrase: str | None) -> dict[str, bytes]:
    sealed = checked.small.get(KEYS)
    if sealed is None:
        return {}
    if passphrase is None:
        raise BackupError(
            f"{checked.path} has keys under a passphrase",
            hint="name the file that holds it: --passphrase-file FILE",
        )
    keys = open_keys(sealed, passphrase)
    if not set(keys) <= {*SECRETS, KEY_FILE}:
        raise BackupError(f"{checked.path} has keys that do not belong into a home")
    return keys


def _check_ledger(checked: Checked) -> list[bytes]:
    """Entries of the snapshot; the signed file is a beginning of them, and each charge of a table is in both."""
    signed = checked.small.get("ledger/entries.jsonl", b"").splitlines()
    leaves: list[bytes] = []
    charges: Counter[str] = Counter()
    budgets: dict[str, int] = {}
    reserved: set[str] = set()
    for name, _, file in members(checked.path):
        if name == "tables/ledger_entries.jsonl":
            leaves = [base64.b64decode(row["leaf"]["base64"], validate=True) for row in _rows(file)]
        elif name == "tables/privacy_events.jsonl":
            for row in _rows(file):
                charges[row["client_id"]] += 1
                reserved.add(row["reservation_id"])
        elif name == "tables/budgets.jsonl":
            budgets = {row["client_id"]: row["charges"] for row in _rows(file)}
    leaves = leaves or signed  # before revision 0002 the file alone held them
    try:
        entries = verify_chain(leaves)
        first = entry_from_bytes(leaves[0]).body if leaves else None
    except (ChainError, LedgerFormatError) as e:
        raise BackupError(f"{checked.path}: the ledger is no whole chain: {e}") from e
    if leaves[: len(signed)] != signed:
        raise BackupError(f"{checked.path}: the signed ledger is not the one in the database")
    if not isinstance(first, Genesis) or first.key != checked.key:
        raise BackupError(
            f"{checked.path}: the ledger began with another key than the one that signed the backup"
        )
    lost = {e.body.reservation_id for e in entries if isinstance(e.body, Reserve)} - reserved
    if lost or any(charges[c] != n for c, n in budgets.items()):
        raise BackupError(f"{checked.path}: charges are missing that its ledger or its budgets count")
    return leaves


def _rows(file: Content) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in file.read().splitlines()]
    except ValueError as e:
        raise BackupError("a row of the backup can not be read") from e


def _check_evidence(
    leaves: Sequence[bytes], checked: Checked, paths: Sequence[Path], *, accept: bool
) -> bool:
    """Whether the backup is older than what was seen, and that was accepted."""
    seen = [read_checkpoint(path, checked.key) for path in paths]
    try:
        hold_against(leaves, seen)
    except RolledBackError:
        if not accept:
            raise
        return True
    return False


def _extract(checked: Checked, staging: Path, keys: Mapping[str, bytes]) -> dict[str, Path]:
    """All files into the new home, each checked again as it is written; table -> its file of rows."""
    told = {row["name"]: row["sha256"] for row in checked.manifest["files"]}
    tables: dict[str, Path] = {}
    for name, _, file in members(checked.path):
        if name in {MANIFEST, NOTE, KEYS}:
            continue
        path = staging / name
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        digest = hashlib.sha256()
        with path.open("xb") as out:
            while part := file.read(_BLOCK):
                digest.update(part)
                out.write(part)
            out.flush()
            os.fsync(out.fileno())
        if digest.hexdigest() != told.get(name):
            raise BackupError(f"{checked.path} has changed while it was read")
        if name.startswith("tables/"):
            tables[Path(name).stem] = path
    for name, data in keys.items():
        path = staging / name
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
            out.write(data)
            os.fsync(out.fileno())
    if checked.manifest.get("is_encrypted"):
        (staging / "artifacts").mkdir(exist_ok=True, mode=0o700)
        (staging / _RING).write_text(
            f"../{KEY_FILE}\n", encoding="utf-8"
        )  # wherever it was: it is in the home now
    return tables


def _note_rollback(staging: Path, checked: Checked, paths: Sequence[Path], entries: int) -> None:
    """What was accepted, for auditors."""
    newest = max(read_checkpoint(path, checked.key).size for path in paths)
    told = {"entries": entries, "newest_seen": newest, "made_at_ms": checked.manifest.get("made_at_ms")}
    (staging / "ledger" / "rollback-accepted.json").write_text(json.dumps(told) + "\n", encoding="utf-8")


def _place(staging: Path, database: str | None) -> Path | URL:
    if database is None:
        return staging / "motet.db"
    remember(staging, database)
    where = database_of(staging)
    return where if isinstance(where, URL) else make_url(database)


def _fill(where: Path | URL, revision: str, tables: Mapping[str, Path]) -> None:
    made = Database.as_it_is(where)
    try:
        if not is_empty(made):
            raise BackupError(
                f"{made.shown} is not empty", hint="make a new database; nothing is ever overwritten"
            )
        load(made, revision, tables)
    finally:
        made.close()

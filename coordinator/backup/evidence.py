"""What is known of a ledger besides a backup of it: a backup that is older than that was rolled back."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from coordinator.backup.errors import BackupError, RolledBackError
from motet.audit.ledger import CoordinatorLedger
from motet.errors import MotetError
from privacy.ledger.errors import LedgerFormatError, SignatureError
from privacy.ledger.merkle import MerkleTree
from privacy.ledger.notes import Checkpoint, Verifier, open_checkpoint

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path


def read_checkpoint(path: Path, key: str) -> Checkpoint:
    """A signed checkpoint of a ledger.

    Args:
      path: a note; a client's ``ledger-seen.json``; or a coordinator's home or ledger folder.
      key: of the ledger, ``name+hash+key``.

    Raises:
      BackupError: there is none of this ledger.
    """
    try:
        note = _note(path)
        return open_checkpoint(note, Verifier.from_text(key))
    except (LedgerFormatError, SignatureError, MotetError, OSError, ValueError, KeyError, TypeError) as e:
        raise BackupError(
            f"{path} holds no checkpoint of this ledger: {e}",
            hint="name a signed checkpoint, a client's ledger-seen.json, or a coordinator's home",
        ) from e


def _note(path: Path) -> str:
    if path.is_dir():
        folder = path / "ledger" if (path / "ledger").is_dir() else path
        notes = CoordinatorLedger(folder).checkpoints()
        if not notes:
            raise ValueError("the ledger there is empty")
        return notes[-1]
    text = path.read_text(encoding="utf-8")
    return str(json.loads(text)["checkpoint"]) if text.startswith("{") else text


def hold_against(leaves: Sequence[bytes], seen: Iterable[Checkpoint]) -> None:
    """Raise where a checkpoint is not of the first entries of this ledger.

    Raises:
      RolledBackError: the ledger is older, or another from some entry on.
    """
    tree = MerkleTree(leaves)
    for checkpoint in seen:
        if checkpoint.size > len(tree):
            what = f"the backup's ledger has {len(tree)} entries; it had {checkpoint.size} when it was seen later"
        elif tree.root(checkpoint.size) != checkpoint.root:
            what = (
                f"the backup's ledger is another one: its first {checkpoint.size} entries are not those seen"
            )
        else:
            continue
        raise RolledBackError(
            f"{what}: charges in between would be forgotten",
            hint="restore a newer backup; if there is none, --accept-rollback, and tell every data owner",
        )

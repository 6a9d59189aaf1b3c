"""What can stop a backup or a restore."""

from __future__ import annotations

from motet.errors import MotetError


class BackupError(MotetError):
    """A backup can not be made, or is not whole; nothing was written."""

    exit_code = 8


class RolledBackError(BackupError):
    """The ledger was seen newer than the backup has it; nothing was written."""

    exit_code = 11

"""What can stop a ledger or an audit."""

from __future__ import annotations

from motet.errors import LedgerConflictError, MotetError

__all__ = ["AuditFailedError", "BundleError", "JournalError", "LedgerConflictError", "LedgerKeyError"]


class JournalError(MotetError):
    """A ledger file can not be read or written, was altered, or is an older copy of itself."""

    exit_code = 8


class LedgerKeyError(MotetError):
    """The key that signs the ledger is missing, or is another than the one it began with."""

    exit_code = 8


class BundleError(MotetError):
    """A bundle can not be read at all, or not be made from what is there."""

    exit_code = 2


class AuditFailedError(MotetError):
    """The audit found something that does not hold; the findings name the rows."""

    exit_code = 11

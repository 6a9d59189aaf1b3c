"""What can be wrong with a ledger: every error says what, and where."""

from __future__ import annotations

from privacy.errors import PrivacyError


class LedgerFormatError(PrivacyError):
    """Bytes are no entry, no checkpoint or no proof of a ledger, or a value has no canonical form."""


class ChainError(PrivacyError):
    """A hash chain does not hold: an entry was altered, removed, inserted or moved.

    Attributes:
      index: position of the entry that does not fit, from 0.
    """

    def __init__(self, index: int, message: str) -> None:
        super().__init__(message)
        self.index = index


class SignatureError(PrivacyError):
    """A signature is missing, is of another key, or does not fit what was signed."""

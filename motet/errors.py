"""The one base of all errors that a person may see: what happened, where, and what to do next.

Below it are the errors that mean the same on both sides of the control API.
"""

from __future__ import annotations


class MotetError(Exception):
    """A fact of the world that stops a command. Never a traceback for people.

    Attributes:
      exit_code: of the process; see docs/exit-codes.md. Subclasses set it.
      message: what happened and where.
      hint: what to do next, often a command; may be empty.
    """

    exit_code: int = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class StorageError(MotetError):
    """The database or an artifact can not be read or written."""

    exit_code = 8


class DatabaseAwayError(StorageError):
    """The database server can not be reached now; work goes on when it is back."""


class NotFoundError(MotetError):
    """There is nothing of that name."""

    exit_code = 2


class RunNotFoundError(NotFoundError):
    """No such run."""


class RunFailedError(MotetError):
    """A run ended without an adapter; the message is its reason."""

    exit_code = 9


class BudgetRefusedError(MotetError):
    """The next round would pass the recipe's epsilon limit; nobody was asked."""

    exit_code = 6


class WrongStateError(MotetError):
    """What is asked for can not be done in the state that the run is in; nothing was changed."""

    exit_code = 2


class LedgerConflictError(MotetError):
    """The database and the ledger tell different stories about one charge."""

    exit_code = 11

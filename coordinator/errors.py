"""What can stop a coordinator."""

from __future__ import annotations

from motet.errors import MotetError


class StorageError(MotetError):
    """The database or an artifact can not be read or written."""

    exit_code = 8


class RunNotFoundError(MotetError):
    """No such run."""

    exit_code = 2


class RunFailedError(MotetError):
    """A run ended without an adapter; the message is its reason."""

    exit_code = 9


class BudgetRefusedError(MotetError):
    """The next round would pass the recipe's epsilon limit; nobody was asked."""

    exit_code = 6


class DatabaseAwayError(StorageError):
    """The database server can not be reached now; work goes on when it is back."""


class IllegalTransitionError(StorageError):
    """The table of transitions has no way from the state that is stored; nothing was written."""


class LeadLostError(StorageError):
    """Another coordinator leads this database; what this one was about to write was not written."""

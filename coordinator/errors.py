"""What can stop a coordinator. Those that a peer of the control API can meet are ``motet.errors``'s."""

from __future__ import annotations

from motet.errors import (
    BudgetRefusedError,
    DatabaseAwayError,
    NotFoundError,
    RunFailedError,
    RunNotFoundError,
    StorageError,
    WrongStateError,
)

__all__ = [
    "BudgetRefusedError",
    "DatabaseAwayError",
    "IllegalTransitionError",
    "NotFoundError",
    "RunFailedError",
    "RunNotFoundError",
    "StorageError",
    "WrongStateError",
]


class IllegalTransitionError(StorageError):
    """The table of transitions has no way from the state that is stored; nothing was written."""


class LeadLostError(StorageError):
    """Another coordinator leads this database; what this one was about to write was not written."""

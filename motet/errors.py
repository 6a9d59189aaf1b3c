"""The one base of all errors that a person may see: what happened, where, and what to do next."""

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

"""What a call of the control API can end with, beside the errors of its subject."""

from __future__ import annotations

from motet.errors import MotetError
from motet.recipe.errors import RecipeError


class BadRequestError(MotetError):
    """The request can not be read, or says what has no meaning."""

    exit_code = 2


class RecipeRefusedError(RecipeError):
    """The coordinator refuses a recipe; the message holds every problem. ``problems`` is empty."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__((), hint=hint)
        self.message = message
        self.args = (message,)


class UnreachableError(MotetError):
    """The coordinator does not answer, or one of the two did not accept the other's certificate."""

    exit_code = 7


class DeadlineError(UnreachableError):
    """The call took longer than its deadline; whether it took effect is open."""


class NotAuthenticatedError(MotetError):
    """The certificate names nobody of this federation, has ended, or was revoked."""

    exit_code = 7


class NotAllowedError(MotetError):
    """The caller's role does not have this call, or the object belongs to somebody else."""

    exit_code = 7


class BusyError(MotetError):
    """The coordinator serves as many calls of this kind as it may, or the message is too large."""

    exit_code = 7


class NotServedError(MotetError):
    """The coordinator does not know this call."""

    exit_code = 7


class ServerFaultError(MotetError):
    """A mistake in the coordinator; its log has it under the request id."""

    exit_code = 1

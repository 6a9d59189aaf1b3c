"""The one table: domain error, gRPC status, exit code. Both sides of the control API read it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc

from motet.connection.errors import (
    BadRequestError,
    BusyError,
    DeadlineError,
    NotAllowedError,
    NotAuthenticatedError,
    NotServedError,
    RecipeRefusedError,
    ServerFaultError,
    UnreachableError,
)
from motet.enrolment import AdmissionRefusedError, TokenError
from motet.errors import (
    BudgetRefusedError,
    DatabaseAwayError,
    LedgerConflictError,
    MotetError,
    NotFoundError,
    RunFailedError,
    RunNotFoundError,
    StorageError,
    WrongStateError,
)
from motet.identity import IdentityError
from motet.recipe.errors import RecipeError

if TYPE_CHECKING:
    from collections.abc import Sequence

LONGEST_MESSAGE = 3000
_SEE_LOG = "the operator finds the reason in the coordinator's log under this request id"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One row.

    Attributes:
      error: class on the server; a subclass without a row of its own has this one.
      status: of the call.
      meaning: for docs/api.md.
      is_told: whether the message may leave the coordinator. Else ``meaning`` is sent, since a message may hold paths.
      raised: class on the client, where it is not ``error``.
    """

    error: type[MotetError]
    status: grpc.StatusCode
    meaning: str
    is_told: bool = True
    raised: type[MotetError] | None = None

    @property
    def kind(self) -> str:
        """Name on the wire."""
        return self.error.__name__

    @property
    def exit_code(self) -> int:
        """Of the motet command."""
        return self.error.exit_code


_CODE = grpc.StatusCode
FAULTS: Sequence[Fault] = (
    Fault(error=BadRequestError, status=_CODE.INVALID_ARGUMENT, meaning="the request has no meaning"),
    Fault(
        error=RecipeError,
        status=_CODE.INVALID_ARGUMENT,
        meaning="the recipe is refused; every problem is in the message",
        raised=RecipeRefusedError,
    ),
    Fault(
        error=IdentityError,
        status=_CODE.INVALID_ARGUMENT,
        meaning="a role, a name, a key or a certificate request can not be used",
    ),
    Fault(error=TokenError, status=_CODE.INVALID_ARGUMENT, meaning="the text is no enrolment token"),
    Fault(
        error=AdmissionRefusedError,
        status=_CODE.PERMISSION_DENIED,
        meaning="a token, a key, a proof or a certificate is not good, or no longer; nothing was changed",
    ),
    Fault(error=RunNotFoundError, status=_CODE.NOT_FOUND, meaning="there is no such run"),
    Fault(error=NotFoundError, status=_CODE.NOT_FOUND, meaning="there is nothing of that name"),
    Fault(
        error=WrongStateError,
        status=_CODE.FAILED_PRECONDITION,
        meaning="the run's state does not allow it; nothing was changed",
    ),
    Fault(
        error=BudgetRefusedError,
        status=_CODE.FAILED_PRECONDITION,
        meaning="a privacy budget or a policy does not allow it",
    ),
    Fault(error=RunFailedError, status=_CODE.FAILED_PRECONDITION, meaning="the run ended without an adapter"),
    Fault(
        error=NotAuthenticatedError,
        status=_CODE.UNAUTHENTICATED,
        meaning="the certificate names nobody of this federation, has ended, or was revoked",
    ),
    Fault(
        error=NotAllowedError,
        status=_CODE.PERMISSION_DENIED,
        meaning="the caller's role does not have this call, or the object is somebody else's",
    ),
    Fault(
        error=BusyError,
        status=_CODE.RESOURCE_EXHAUSTED,
        meaning="too large, or too many calls of this kind at once",
    ),
    Fault(
        error=DeadlineError,
        status=_CODE.DEADLINE_EXCEEDED,
        meaning="the deadline passed; whether the call took effect is open",
    ),
    Fault(
        error=UnreachableError,
        status=_CODE.UNAVAILABLE,
        meaning="the coordinator does not answer, or a certificate was not accepted",
    ),
    Fault(
        error=NotServedError, status=_CODE.UNIMPLEMENTED, meaning="the coordinator does not know this call"
    ),
    Fault(
        error=DatabaseAwayError,
        status=_CODE.UNAVAILABLE,
        meaning="the coordinator's database can not be reached now",
        is_told=False,
    ),
    Fault(
        error=StorageError,
        status=_CODE.INTERNAL,
        meaning="the coordinator's storage can not be read or written",
        is_told=False,
    ),
    Fault(
        error=LedgerConflictError,
        status=_CODE.DATA_LOSS,
        meaning="the database and the ledger tell different stories; no run goes on until that is explained",
        is_told=False,
    ),
    Fault(
        error=ServerFaultError,
        status=_CODE.INTERNAL,
        meaning="a mistake in the coordinator",
        is_told=False,
    ),
)
_BY_KIND = {fault.kind: fault for fault in FAULTS}
_BY_STATUS = {
    _BY_KIND[error.__name__].status: _BY_KIND[error.__name__]
    for error in (
        BadRequestError,
        NotFoundError,
        WrongStateError,
        NotAuthenticatedError,
        NotAllowedError,
        BusyError,
        DeadlineError,
        UnreachableError,
        NotServedError,
    )
}
"""For a refusal without a detail, which gRPC itself has made."""
_STORAGE_CODES = frozenset({8, 11})  # exit codes of ledgers, keys and folders that have no row of their own


def fault_of(error: BaseException) -> Fault:
    """The row of an error: that of its nearest class. What is in no row is a fault of the server."""
    rows = (_BY_KIND.get(kind.__name__) for kind in type(error).__mro__)
    found = next((row for row in rows if row is not None), None)
    if found is None and isinstance(error, MotetError) and error.exit_code in _STORAGE_CODES:
        return _BY_KIND[StorageError.__name__]
    return found or _BY_KIND[ServerFaultError.__name__]


def told(error: BaseException, *, tells_all: bool = False) -> tuple[Fault, str, str]:
    """The row of an error with the message and the hint that may leave the coordinator.

    Args:
      error: anything that was raised.
      tells_all: the caller is the user who owns the coordinator's home; a fault of ours is still not told.
    """
    fault = fault_of(error)
    if isinstance(error, MotetError) and (fault.is_told or tells_all):
        return fault, error.message[:LONGEST_MESSAGE], error.hint[:LONGEST_MESSAGE]
    return fault, fault.meaning, _SEE_LOG


def raised(kind: str, status: grpc.StatusCode | None, message: str, hint: str) -> MotetError:
    """The error of a refused call, for its caller: by its kind, else by its status."""
    fault = _BY_KIND.get(kind) or _BY_STATUS.get(status or grpc.StatusCode.UNKNOWN)
    make = ServerFaultError if fault is None else fault.raised or fault.error
    return make(message, hint=hint)


def errors_table() -> str:
    """Rows for docs/api.md."""
    rows = [
        f"| `{f.kind}` | {f.status.name} | {f.exit_code} | {f.meaning} | {'yes' if f.is_told else 'no'} |"
        for f in FAULTS
    ]
    head = ["| error | gRPC status | exit code | meaning | message is sent |", "|---|---|---|---|---|"]
    return "\n".join([*head, *rows])

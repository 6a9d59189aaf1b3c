"""What can stop a client's round. Each becomes an error code in the reply; the message names no data."""

from __future__ import annotations

from motet.errors import MotetError


class ClientError(MotetError):
    """Base of the client's errors. ``code`` travels in the reply."""

    code = "client_failed"


class TrainableDidNotMoveError(ClientError):
    """A trainable tensor is unchanged after it had a chance to move: the round would have trained nothing."""

    exit_code = 9
    code = "did_not_move"


class TrainingDivergedError(ClientError):
    """A trained tensor is not finite."""

    exit_code = 9
    code = "not_finite"


class NothingPersonalError(ClientError):
    """Of that run this client kept no part of its own."""

    exit_code = 2


class PersonalPartDamagedError(ClientError):
    """What this client kept of a run can not be read."""

    exit_code = 8


class PolicyRefusedError(ClientError):
    """The data owner's policy does not allow this order; the message names the clause."""

    exit_code = 6
    code = "policy_refused"


class OutsideHoursError(PolicyRefusedError):
    """The owner's hours are over, or have not begun; ``until`` says when they begin."""

    code = "outside_hours"

    def __init__(self, message: str, *, until: str) -> None:
        super().__init__(f"{message}; they begin at {until}")
        self.until = until


class ApprovalPendingError(ClientError):
    """The owner has not decided on this recipe yet; nothing was charged and nothing trained."""

    exit_code = 6
    code = "approval_pending"


class CancelledError(ClientError):
    """The coordinator took the order back; the charge of a round that had begun stays."""

    code = "cancelled"


class BadOrderError(ClientError):
    """The order is damaged, or is not for this client."""

    exit_code = 7
    code = "bad_order"


class LedgerError(ClientError):
    """The client's own ledger can not be read, was altered, or can not be written."""

    exit_code = 8
    code = "ledger_failed"

"""What can go wrong in ``privacy``: every error says what happened, where, and what to do next."""

from __future__ import annotations


class PrivacyError(Exception):
    """Base of every error of this package. Nothing is released after one of these."""


class MalformedEventError(PrivacyError):
    """A privacy event has a value outside its range, or its text is not an event at all."""


class BudgetExceededError(PrivacyError):
    """The next event would take a data set over its epsilon limit; nothing was trained.

    Attributes:
      subject: whose budget it is (client, data set).
      epsilon_spent: epsilon of everything charged so far.
      epsilon_after: epsilon if the refused event were charged as well.
      epsilon_limit: the limit.
      target_delta: the delta of all three.
    """

    def __init__(
        self,
        subject: str,
        *,
        epsilon_spent: float,
        epsilon_after: float,
        epsilon_limit: float,
        target_delta: float,
    ) -> None:
        self.subject = subject
        self.epsilon_spent = epsilon_spent
        self.epsilon_after = epsilon_after
        self.epsilon_limit = epsilon_limit
        self.target_delta = target_delta
        super().__init__(
            f"privacy budget of {subject}: epsilon would rise from {epsilon_spent:.4g} to "
            f"{epsilon_after:.4g}, over the limit {epsilon_limit:.4g} (delta {target_delta:g}). Use more "
            "noise, fewer rounds or steps, or ask the data owner to raise the limit."
        )


class CalibrationError(PrivacyError):
    """No noise multiplier in the supported range reaches the target epsilon."""


class UnsupportedModelError(PrivacyError):
    """The model has a part whose per-example gradients are not known exactly, so it may not be trained."""


class PerExampleGradientError(PrivacyError):
    """The per-example gradients of a batch are missing or do not add up; the batch is dropped."""


class NonFiniteUpdateError(PrivacyError):
    """A noised gradient is not finite (the noise or the clipping norm is too large for the dtype)."""

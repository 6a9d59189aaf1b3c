"""What can go wrong in ``privacy``: every error says what happened, where, and what to do next."""

from __future__ import annotations


class PrivacyError(Exception):
    """Base of every error of this package. Nothing is released after one of these."""


class MalformedEventError(PrivacyError):
    """A privacy event has a value outside its range, or its text is not an event at all."""


class CalibrationError(PrivacyError):
    """No noise multiplier in the supported range reaches the target epsilon."""


class UnsupportedModelError(PrivacyError):
    """The model has a part whose per-example gradients are not known exactly, so it may not be trained."""


class PerExampleGradientError(PrivacyError):
    """The per-example gradients of a batch are missing or do not add up; the batch is dropped."""


class NonFiniteUpdateError(PrivacyError):
    """A noised gradient is not finite (the noise or the clipping norm is too large for the dtype)."""

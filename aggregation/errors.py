"""What can be wrong with updates and adapter states."""

from __future__ import annotations


class AggregationError(Exception):
    """Base of this package's errors."""


class MalformedUpdateError(AggregationError, ValueError):
    """Bytes or tensors that are refused before anything uses them.

    Attributes:
      code: stable word for metrics, e.g. ``header_too_large``, ``unexpected_key``, ``not_finite``.
      reason: for people; names the key, never a value.
    """

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason

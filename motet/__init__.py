"""Motet: federated, privacy-preserving fine-tuning with low-rank adapters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from motet.reaching import connect

__all__ = ["connect"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - what the module offers
    """Load what is asked for when it is asked for, so that ``import motet`` stays quick."""
    if name == "connect":
        from motet.reaching import connect

        return connect
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Noise of a process of its own."""

from pathlib import Path

from privacy.noise import SystemNoise


def draw(path):
    """Write four values."""
    Path(path).write_text(str(SystemNoise().normal((4,), 1.0).tolist()))

"""What can be wrong with a file or with this machine."""

from __future__ import annotations


class ComposeError(Exception):
    """A file that is not understood, or a service that can not be run here; the message says where and why."""

"""What can go wrong between a registry and the cache."""

from __future__ import annotations

from motet.errors import MotetError


class MaterialError(MotetError):
    """A material is unknown, not fetched, can not be downloaded, or is not what its pinned hash says."""

    exit_code = 5

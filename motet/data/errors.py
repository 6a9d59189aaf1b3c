"""What can be wrong with examples."""

from __future__ import annotations

from motet.errors import MotetError


class DataError(MotetError):
    """A data file or a data set can not be used; the message says which, in which line, and why."""

    exit_code = 4

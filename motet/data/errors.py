"""What can be wrong with examples."""

from __future__ import annotations

from motet.errors import MotetError


class DataError(MotetError):
    """A data file or a data set can not be used; the message says which, in which line, and why."""

    exit_code = 4


class NoExamplesError(DataError):
    """The file is there and can be read, and holds nothing; a client that trains privately is content with that."""

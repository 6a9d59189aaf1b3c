"""A stream of bytes to a file, which is there whole or not at all."""

from __future__ import annotations

import secrets
from contextlib import contextmanager
from typing import TYPE_CHECKING

from motet.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import BinaryIO


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file beside ``path`` to write; it takes that name when the block ends well, and is gone when not.

    Raises:
      StorageError: it can not be written.
    """
    staging = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with staging.open("xb") as file:
            yield file
        staging.replace(path)
    except OSError as e:
        raise StorageError(f"{path} can not be written: {e.strerror}", hint="choose another path") from e
    finally:
        _forget(staging)


def _forget(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:  # its folder is none
        return

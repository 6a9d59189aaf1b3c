"""A durable file of lines that only grows: appended under a lock, fsynced, its length kept in a file beside it.

``FILE.head`` holds the number of lines and the hash of the last one. It tells a crash while writing (a line that
nobody was promised) from a file that was cut, or put back from an older copy.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from motet.audit.errors import JournalError
from motet.durable import write_whole

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

Stamps = tuple[tuple[int, int, int], ...]
_RESTORE = "restore the newest backup; do not delete the file, that would forget what was spent"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """The file as it was when its stamps were these; ``lines`` where they are kept."""

    stamps: Stamps
    count: int
    num_bytes: int
    lines: list[bytes] | None


class Journal:
    """Lines of bytes without newlines; safe for several processes that write under ``locked``.

    Args:
      path: of the file; made with its folder at the first append.
      keeps_lines: hold them in memory between calls; without it ``lines`` reads the file each time.
    """

    def __init__(self, path: Path, *, keeps_lines: bool = True) -> None:
        self.path, self._keeps_lines = path, keeps_lines
        self._head_path = path.with_suffix(".head")
        self._known: _Known | None = None

    def lines(self) -> list[bytes]:
        """All lines that were promised. A line that a crash left half written is not among them.

        Raises:
          JournalError: unreadable; cut; older than it was; or its last promised line was altered.
        """
        known = self._known
        if known is not None and known.lines is not None and known.stamps == self.stamps():
            return list(known.lines)
        return list(self._load()[1])  # somebody wrote since, or they are not kept

    def part(self, start: int, end: int) -> bytes:
        """The file's bytes from ``start`` on and before ``end``; fewer where it has fewer.

        Raises:
          JournalError: unreadable.
        """
        try:
            with self.path.open("rb") as file:
                file.seek(start)
                return file.read(end - start)
        except OSError as e:
            raise JournalError(
                f"{self.path} can not be read: {e.strerror}", hint="check the disk and its rights"
            ) from e

    def _load(self) -> tuple[_Known, list[bytes]]:
        """Read the file whole."""
        stamps, lines = self.stamps(), self._checked_lines()
        self._known = _Known(
            stamps=stamps,
            count=len(lines),
            num_bytes=sum(len(line) + 1 for line in lines),
            lines=lines if self._keeps_lines else None,
        )
        return self._known, lines

    def _checked_lines(self) -> list[bytes]:
        data = self._read(self.path)
        lines = data.split(b"\n")
        lines.pop()  # empty, or half a line that a crash left
        head = self._head()
        if head is None:
            return lines
        count, last = head
        if len(lines) < count:
            raise JournalError(
                f"{self.path}:{len(lines) + 1}: {count - len(lines)} of {count} lines are missing from the end; "
                "the file was cut, or an older copy was put back",
                hint=_RESTORE,
            )
        if count and hashlib.sha256(lines[count - 1]).hexdigest() != last:
            raise JournalError(f"{self.path}:{count}: the line was altered", hint=_RESTORE)
        return lines

    def append(self, lines: Sequence[bytes]) -> None:
        """Add lines; they are on disk when this returns. Call it under ``locked``.

        Raises:
          JournalError: the file can not be written; nothing was promised.
        """
        if not lines:
            return
        known = self._known
        if known is None or known.stamps != self.stamps():
            known, _ = self._load()
        try:
            with self.path.open("ab") as file:
                file.truncate(known.num_bytes)  # half a line that a crash left
                file.write(b"".join(line + b"\n" for line in lines))
                file.flush()
                os.fsync(file.fileno())
            self._write_head(known.count + len(lines), lines[-1])
            self._known = _Known(
                stamps=self.stamps(),
                count=known.count + len(lines),
                num_bytes=known.num_bytes + sum(len(line) + 1 for line in lines),
                lines=None if known.lines is None else [*known.lines, *lines],
            )
        except OSError as e:
            raise JournalError(
                f"{self.path} can not be written: {e.strerror}", hint="check the disk and its rights"
            ) from e

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the file against every other writer.

        Raises:
          JournalError: the folder can not be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lock = self.path.with_suffix(".lock").open("w")
        except OSError as e:
            raise JournalError(
                f"{self.path.parent} can not be written: {e.strerror}", hint="check the disk and its rights"
            ) from e
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def stamps(self) -> Stamps:
        """What changes whenever somebody writes the file or its head."""
        try:
            found = [path.stat() for path in (self.path, self._head_path) if path.exists()]
        except OSError as e:
            raise JournalError(
                f"{self.path} can not be read: {e.strerror}", hint="check the disk and its rights"
            ) from e
        return tuple((s.st_ino, s.st_size, s.st_mtime_ns) for s in found)

    def _read(self, path: Path) -> bytes:
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return b""
        except OSError as e:
            raise JournalError(
                f"{path} can not be read: {e.strerror}", hint="check the disk and its rights"
            ) from e

    def _head(self) -> tuple[int, str] | None:
        data = self._read(self._head_path)
        if not data:
            return None
        try:
            fields = json.loads(data)
            return int(fields["lines"]), str(fields["sha256"])
        except (ValueError, KeyError, TypeError) as e:
            raise JournalError(f"{self._head_path} is damaged", hint=_RESTORE) from e

    def _write_head(self, count: int, last: bytes) -> None:
        write_whole(self._head_path, (_head_text(count, last) + "\n").encode())


def head_of(lines: Sequence[bytes]) -> bytes:
    """What ``FILE.head`` holds beside a file of these lines; there is at least one."""
    return (_head_text(len(lines), lines[-1]) + "\n").encode()


def _head_text(count: int, last: bytes) -> str:
    return json.dumps({"lines": count, "sha256": hashlib.sha256(last).hexdigest()}, sort_keys=True)

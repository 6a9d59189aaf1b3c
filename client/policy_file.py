"""The owner's policy as a running client follows it: the file is read again when it changes.

A file that can not be used any more is no empty policy: everything is refused until it is mended. What is wrong with it
stays with the owner, in the log and in ``motet client status``: a line of it may name a file or a data set.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from client.errors import PolicyRefusedError
from client.policy import Policy, PolicyFileError, load_policy

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger(__name__)
SETTLED_S = 0.2  # a file that has not changed for so long is whole
MOST_LOOKS = 25
_Stamp = tuple[int, int, int] | None


class PolicyFile:
    """One owner's policy file, or a policy that does not change. Safe for several threads.

    Args:
      path: the file; None is a policy without clauses.

    Raises:
      PolicyFileError: the file can not be used; a client does not start with such a one.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        stamp = self._stamp_now()
        # One value, so that no thread sees the stamp of one file beside the clauses of another.
        self._known: tuple[_Stamp, Policy | PolicyFileError] = (
            stamp,
            Policy() if path is None else load_policy(path),
        )

    @classmethod
    def fixed(cls, policy: Policy | None) -> PolicyFile:
        """A policy that comes from no file."""
        made = cls(None)
        made._known = (None, policy or Policy())
        return made

    def current(self) -> Policy:
        """What holds now.

        Raises:
          PolicyRefusedError: the file was changed into one that can not be used.
        """
        if self._path is not None and self._stamp_now() != self._known[0]:
            self._known = self._read(self._path)
        policy = self._known[1]
        if isinstance(policy, PolicyFileError):
            raise PolicyRefusedError(
                "clause policy_file: the owner's policy can not be used now; its own log says why"
            )
        return policy

    def _read(self, path: Path) -> tuple[_Stamp, Policy | PolicyFileError]:
        """The policy of a file that nobody is writing: half of a file can be a policy, with half of its floor."""
        stamp: _Stamp = None
        try:
            for _ in range(MOST_LOOKS):
                stamp = self._stamp_now()
                time.sleep(SETTLED_S)
                if stamp != self._stamp_now():
                    continue
                policy = load_policy(path)
                if stamp == self._stamp_now():
                    log.warning("the policy file has changed; its clauses hold from now on")
                    return stamp, policy
            stamp = None  # looked at again with the next order
            raise PolicyFileError(f"{path}: is being written", hint="")
        except PolicyFileError as e:
            log.error("everything is refused until the policy file is mended: %s", e.message)  # noqa: TRY400
            return stamp, e

    def _stamp_now(self) -> _Stamp:
        if self._path is None:
            return None
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns

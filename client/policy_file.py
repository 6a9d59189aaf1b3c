"""The owner's policy as a running client follows it: the file is read again when it changes.

A file that can not be used any more is no empty policy: everything is refused until it is mended. What is wrong with it
stays with the owner, in the log and in ``motet client status``: a line of it may name a file or a data set.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from client.errors import PolicyRefusedError
from client.policy import Policy, PolicyFileError, load_policy

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger(__name__)
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
        self._stamp = self._stamp_now()
        self._policy: Policy | PolicyFileError = load_policy(path) if path is not None else Policy()

    @classmethod
    def fixed(cls, policy: Policy | None) -> PolicyFile:
        """A policy that comes from no file."""
        made = cls(None)
        made._policy = policy or Policy()
        return made

    def current(self) -> Policy:
        """What holds now.

        Raises:
          PolicyRefusedError: the file was changed into one that can not be used.
        """
        stamp = self._stamp_now()
        if self._path is not None and stamp != self._stamp:
            self._policy = self._read(self._path)
            self._stamp = stamp
        policy = self._policy
        if isinstance(policy, PolicyFileError):
            raise PolicyRefusedError(
                "clause policy_file: the owner's policy can not be used now; its own log says why"
            )
        return policy

    def _read(self, path: Path) -> Policy | PolicyFileError:
        try:
            policy = load_policy(path)
        except PolicyFileError as e:
            log.error("everything is refused until the policy file is mended: %s", e.message)  # noqa: TRY400
            return e
        log.warning("the policy file has changed; its clauses hold from now on")
        return policy

    def _stamp_now(self) -> _Stamp:
        if self._path is None:
            return None
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns

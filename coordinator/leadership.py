"""One coordinator leads a database; the others stand by, say who leads, and go on when the lease runs out.

A thread renews the lease three times as often as it would run out. The token, not this thread, is what keeps two
leaders from writing: it is asked for in every write. The thread makes a leader that was paused notice soon.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from coordinator.errors import DatabaseAwayError, LeadLostError, StorageError
from coordinator.storage.leases import Candidate

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import IO

    from coordinator.storage.leases import Leader
    from coordinator.storage.store import Store

log = logging.getLogger(__name__)
LEASE_S = 15.0
LEAST_LEASE_S = 1.0


def candidate_of(home: Path, lock: IO[str]) -> Candidate:
    """This coordinator, named by the lock that it holds on its home.

    The file of the lock on a machine since its last start: a lead of that name was of a process that is dead now.
    """
    status = os.fstat(lock.fileno())
    return Candidate(
        place=f"{_machine()}/{status.st_dev:x}/{status.st_ino:x}",
        host=socket.gethostname(),
        home=str(home.resolve()),
    )


def _machine() -> str:
    """This machine since its last start, where the system tells; else the machine."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return f"{socket.gethostname()}-{uuid.getnode():x}"


class Leadership:
    """The lead of a store's database, held by this process.

    Args:
      store: whose writes are fenced once the lead is taken.
      candidate: this coordinator.
      lease_s: for how long a lead lasts that is not renewed.
    """

    def __init__(self, store: Store, candidate: Candidate, lease_s: float) -> None:
        self._leases, self._candidate, self._lease_s = store.leases, candidate, lease_s
        self._is_over = threading.Event()
        self._lost: LeadLostError | None = None
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    @property
    def lost(self) -> LeadLostError | None:
        """Why this process no longer leads; None while it does, as far as it knows."""
        return self._lost

    def wait(
        self, is_over: Callable[[], bool], on_standby: Callable[[Leader], None] = lambda _leader: None
    ) -> bool:
        """Wait until this coordinator leads.

        Args:
          is_over: asked while it waits; True ends the wait.
          on_standby: called with the leader whenever it is another one than before.

        Returns:
          whether it leads.

        Raises:
          StorageError: the database can not be read or written; one that is away is waited for.
        """
        said: int | None = None
        while True:
            leader = None
            try:
                if self._leases.take(self._candidate, self._lease_s):
                    self._thread.start()
                    return True
                leader = self._leases.leader()
            except DatabaseAwayError as e:
                log.warning("%s; trying again", e.message)
            if leader is not None and leader.token != said:
                said = leader.token
                log.warning("standing by: %s", leader.in_words())
                on_standby(leader)
            until = time.monotonic() + self._pause(leader)
            while time.monotonic() < until:
                if is_over():
                    return False
                time.sleep(0.05)

    def _pause(self, leader: Leader | None) -> float:
        """Until the lease may have run out, and not so long that one that was given back lies about."""
        left_s = leader.left_s if leader else self._lease_s
        return min(max(left_s, 0.05), self._lease_s / 3, 1.0)

    def give_back(self) -> None:
        """End of the lead, if it is still held; never fails."""
        self._is_over.set()
        if self._thread.is_alive():
            self._thread.join(self._lease_s)
        try:
            self._leases.give_back()
        except StorageError as e:
            log.info("the lease was not given back: %s", e.message)

    def _renew(self) -> None:
        while not self._is_over.wait(self._lease_s / 3):
            try:
                self._leases.renew()
            except LeadLostError as e:
                self._lost = e
                return
            except (
                StorageError
            ) as e:  # the token decides, not the time: when the database is back, it may lead on
                log.warning("the lease can not be renewed now: %s", e.message)

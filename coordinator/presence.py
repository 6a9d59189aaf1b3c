"""A thread that keeps in the database when each client was last there, so that a restart does not forget it."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from coordinator.errors import LeadLostError
from motet.errors import MotetError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from coordinator.storage.sightings import Sightings

log = logging.getLogger(__name__)
EVERY_S = 60.0
NEWCOMERS_EVERY_S = 2.0
STOP_S = 10.0


class Watched(Protocol):
    """What is looked at: ``coordinator.engine.flower_grid.FlowerGrid``."""

    last_online: Mapping[str, float]

    def online(self) -> object:
        """Ask who is online, which brings ``last_online`` up to date."""


class Presence:
    """Looks who is there, and writes it down: each client about once a minute, newcomers within seconds.

    A run asks who is online when a round begins, and an idle coordinator all the time. In a long round nobody would; so
    this does, once a minute. What was seen in between is in memory and costs nothing.

    Args:
      grid: knows who was seen, and when.
      sightings: where it is written.
      monotonic: seconds.
    """

    def __init__(
        self, grid: Watched, sightings: Sightings, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._grid, self._sightings, self._monotonic = grid, sightings, monotonic
        self._written: dict[str, float] = {}
        self._look_at = monotonic()

    def step(self) -> None:
        """Write what is due.

        Raises:
          MotetError: SuperLink or database did not answer; what was not written is still due.
        """
        is_full = self._monotonic() >= self._look_at
        if is_full:
            self._look_at = self._monotonic() + EVERY_S
            self._grid.online()
        self._write(newcomers_only=not is_full)

    def end(self) -> None:
        """Write what was seen since the last full step; nobody is asked any more.

        Raises:
          MotetError: the database did not answer.
        """
        self._write(newcomers_only=False)

    def _write(self, *, newcomers_only: bool) -> None:
        seen = self._grid.last_online
        due = {
            client_id: at
            for client_id, at in seen.items()
            if client_id not in self._written or (not newcomers_only and at > self._written[client_id])
        }
        self._sightings.record(due)
        self._written |= due


@contextmanager
def watching_presence(presence: Presence) -> Iterator[None]:
    """Step in a thread of its own, until the end of the context. What goes wrong is logged and tried again."""
    stop = threading.Event()
    thread = threading.Thread(target=_watch, args=(presence, stop), name="presence", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(STOP_S)


def _watch(presence: Presence, stop: threading.Event) -> None:
    try:
        while not stop.wait(NEWCOMERS_EVERY_S):
            try:
                presence.step()
            except LeadLostError:
                raise
            except MotetError as e:
                log.info("who is there could not be written down: %s", e.message)
        presence.end()
    except MotetError as e:
        log.info("who was there at the end is not written down: %s", e.message)

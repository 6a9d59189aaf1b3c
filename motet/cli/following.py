"""The events of a run until it has ended, over every restart of its coordinator."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from motet.cli.reach import reached
from motet.connection.errors import DeadlineError, UnreachableError
from motet.connection.runs import AWAY_S
from motet.wire.control import RunEvent

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from motet.connection.connection import Connection

_RETRY_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a coordinator is, as the options of a command say it."""

    home: Path | None
    coordinator: str | None
    identity: Path | None

    @property
    def is_home(self) -> bool:
        """Whether it is a folder on this machine; another process may serve it after a restart."""
        return self.coordinator is None and self.identity is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Away:
    """The coordinator does not answer. ``since_s``: seconds since it was last heard."""

    since_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """One event, and the connection that it came by: good until the next one is asked for."""

    event: RunEvent
    connection: Connection


def followed(
    place: Place, run_id: str, *, timeout_s: float = 0.0, away_s: float = AWAY_S
) -> Iterator[Heard | Away]:
    """Events from the run as it is to its end, which comes last; some are told twice.

    Ends early, and silently, when ``timeout_s`` (0: never) has passed.

    Raises:
      RunNotFoundError: there is none of that id.
      UnreachableError: the coordinator stayed away for ``away_s`` seconds.
    """
    until = time.monotonic() + timeout_s if timeout_s else None
    heard = time.monotonic()
    while True:
        left = None if until is None else max(0.1, until - time.monotonic())
        try:
            with reached(place.home, place.coordinator, place.identity) as connection:
                for event in connection.runs.watch(run_id, timeout_s=left, away_s=0):
                    heard = time.monotonic()
                    if (
                        event.run is not None and event.run.has_ended
                    ):  # its end is told after all of its rounds
                        for found in connection.rounds.list(run_id):
                            told = RunEvent(number=event.number, at=event.at, round=found)
                            yield Heard(event=told, connection=connection)
                    yield Heard(event=event, connection=connection)
                return
        except DeadlineError:
            return
        except UnreachableError:
            since = time.monotonic() - heard
            if since > away_s:
                raise
            yield Away(since_s=since)
        time.sleep(_RETRY_S)

"""Runs over the control API, with a watch that outlives a restart of the coordinator."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from motet.connection.calls import RunSubmission
from motet.connection.channel import STREAM_S
from motet.connection.errors import DeadlineError, UnreachableError
from motet.wire.control import RunEvent
from motet.wire.control_codec import decode
from motet.wire.v1 import control_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator

    from motet.wire.control import Round, Run

AWAY_S = 60.0
_RETRY_S = 0.5


class RunCalls(RunSubmission):
    """Runs: submit, look, watch, cancel, resume."""

    def watch(
        self, run_id: str, *, timeout_s: float | None = None, away_s: float = AWAY_S
    ) -> Iterator[RunEvent]:
        """Events of a run until it has ended; the first is the run as it is.

        A coordinator that restarts is waited for; what was told before is not told again.

        Args:
          run_id: the run.
          timeout_s: give up after so many seconds; None waits for ever.
          away_s: how long a coordinator that does not answer is waited for.

        Raises:
          RunNotFoundError: there is none of that id.
          DeadlineError: the timeout passed.
          UnreachableError: the coordinator stayed away.
        """
        until = None if timeout_s is None else time.monotonic() + timeout_s
        seen = _Seen()
        heard = time.monotonic()
        while True:
            left = STREAM_S if until is None else until - time.monotonic()
            if left <= 0:
                raise DeadlineError(f"run {run_id} has not ended in {timeout_s:g} seconds")
            request = control_pb2.WatchRunRequest(run_id=run_id)
            try:
                for message in self._channel.stream(
                    self.service, "WatchRun", request, timeout_s=min(left, STREAM_S)
                ):
                    heard = time.monotonic()
                    event = decode(message, RunEvent)
                    if seen.is_news(event):
                        yield event
                    if event.run is not None and event.run.has_ended:
                        return
            except DeadlineError:
                continue
            except UnreachableError:
                if time.monotonic() - heard > away_s:
                    raise
            time.sleep(_RETRY_S)


class _Seen:
    """What was told of a run."""

    def __init__(self) -> None:
        self._run: Run | None = None
        self._rounds: dict[tuple[int, int], Round] = {}

    def is_news(self, event: RunEvent) -> bool:
        """Whether an event tells more than those before it; a heartbeat always does."""
        if event.run is not None:
            is_new, self._run = event.run != self._run, event.run
            return is_new
        if event.round is not None:
            key = (event.round.round_index, event.round.attempt)
            is_new = self._rounds.get(key) != event.round
            self._rounds[key] = event.round
            return is_new
        return True

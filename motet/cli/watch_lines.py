"""A watched run as lines: one for each thing that happened, for people whose output is a file, and for programs."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from motet.cli.run import round_as_values, summary
from motet.cli.run_words import attempt_name, progress
from motet.cli.screen import duration, printable, size
from motet.cli.watched_run import state_of

if TYPE_CHECKING:
    from motet.cli.watched_run import WatchedRun
    from motet.wire.control import Contribution, Round, Run, RunEvent

ONE_BY_ONE = 8  # clients that one event may name; of more it says how many


class Teller:
    """Says what each event adds to those before it."""

    def __init__(self, watched: WatchedRun) -> None:
        self._watched = watched
        self._run: tuple[object, ...] = ()
        self._rounds: dict[tuple[int, int], Round] = {}

    def lines(self, event: RunEvent) -> list[str]:
        """None where nothing was added."""
        if event.run is not None:
            now = (event.run.state, event.run.rounds_closed, event.run.reason)
            if now == self._run:
                return []
            self._run = now
            return [self._of_run(event.run)]
        if event.round is not None:
            key = (event.round.round_index, event.round.attempt)
            before = self._rounds.get(key)
            self._rounds[key] = event.round
            return self._of_round(event.round, before)
        return []

    def _of_run(self, run: Run) -> str:
        left = self._watched.seconds_left()
        is_known = left is not None and run.rounds_closed < run.rounds_total
        return progress(run, f", about {duration(left or 0.0)} left" if is_known else "")

    def _of_round(self, found: Round, before: Round | None) -> list[str]:
        name = attempt_name(found.round_index, found.attempt)
        known = {} if before is None else {c.client_id: state_of(c) for c in before.contributions}
        moved = [c for c in found.contributions if known.get(c.client_id, "ordered") != state_of(c)]
        lines = []
        if before is None and found.state == "PLANNED":
            asked = len(found.contributions)
            lines.append(
                f"{name}: {asked} client is asked" if asked == 1 else f"{name}: {asked} clients are asked"
            )
        if len(moved) <= ONE_BY_ONE:
            lines += [f"{name}: {_of_client(c)}" for c in moved]
        else:
            counts = Counter(state_of(c) for c in found.contributions)
            lines.append(f"{name}: " + ", ".join(f"{n} {state}" for state, n in sorted(counts.items())))
        if found.state != "PLANNED" and (before is None or before.state == "PLANNED"):
            lines.append(f"{name}: {_ended(found)}")
        return lines


def _ended(found: Round) -> str:
    took = f" in {duration(found.closed_at - found.started_at)}" if found.closed_at else ""
    if found.state != "CLOSED":
        return f"{found.state.lower()}{took}: {printable(found.reason)}"
    error = "" if found.relative_error is None else f", relative error {found.relative_error:.1e}"
    return f"closed{took}{error}"


def _of_client(client: Contribution) -> str:
    state = state_of(client)
    if state == "received":
        return f"{printable(client.client_id)} received, {size(client.bytes_up)}{_held_out(client)}"
    why = f": {printable(client.error_message)}" if client.error_message else ""
    return f"{printable(client.client_id)} {state}{why}"


def as_object(event: RunEvent) -> dict[str, Any] | None:
    """One event as plain values; None for a heartbeat."""
    if event.run is not None:
        return {"event": "run", "at": event.at} | summary(event.run)
    if event.round is not None:
        return {"event": "round", "at": event.at, "run_id": event.round.run_id} | round_as_values(event.round)
    return None


def _held_out(client: Contribution) -> str:
    """What the client tells of the adapter that the round starts from."""
    if not client.held_out_examples or client.held_out_loss is None:
        return ""
    accuracy = "" if client.held_out_accuracy is None else f"accuracy {client.held_out_accuracy:.1%}, "
    return f", before it {accuracy}loss {client.held_out_loss:.4g} held out"

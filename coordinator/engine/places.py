"""Which clients work for which run: a client works for one run's round at a time, unless its owner allows more.

A run takes all clients of a round in one step and holds none while it waits, so that no two wait for each other. Who
waits has a ticket for the clients that it wants: a free client goes to the waiting run of highest priority, then to
the one that has waited longest, so that two runs that want the same clients take turns, round by round.
"""

from __future__ import annotations

import itertools
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """Clients that a run got; ``busy``: those that it wanted and did not get -> the runs that stand before it."""

    clients: tuple[str, ...]
    busy: Mapping[str, str]


@dataclass(slots=True)
class _Ticket:
    number: int
    priority: int
    wanted: frozenset[str]


class ClientPlaces:
    """The table of one coordinator; its runs are in threads. After a restart each run takes its open round back."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._held: dict[str, dict[str, None]] = {}  # client -> runs, in the order in which they took it
        self._tickets: dict[str, _Ticket] = {}

    def take(
        self,
        run_id: str,
        wanted: Mapping[str, int],
        *,
        minimum: int,
        priority: int = 0,
        must_have_all: bool = False,
    ) -> Taken:
        """Take the free ones of these clients, or none; who gets none has a ticket from then on.

        Args:
          run_id: for its next round.
          wanted: client -> for how many runs its owner lets it work.
          minimum: fewer than that are not taken.
          priority: higher goes first; it may differ from the last time, and the ticket keeps its place in time.
          must_have_all: take all or none.
        """
        with self._lock:
            ticket = self._tickets.get(run_id)
            if ticket is None:
                ticket = _Ticket(next(self._numbers), priority, frozenset(wanted))
            ticket.wanted, ticket.priority = frozenset(wanted), priority
            busy = {}
            for client, limit in wanted.items():
                before = self._before(run_id, ticket, client, limit)
                if before:
                    busy[client] = before
            free = tuple(sorted(set(wanted) - set(busy)))
            enough = len(free) >= max(1, minimum) and not (must_have_all and busy)
            if not enough:
                self._tickets[run_id] = ticket
                return Taken(clients=(), busy=busy)
            self._tickets.pop(run_id, None)
            for client in free:
                self._held.setdefault(client, {})[run_id] = None
            return Taken(clients=free, busy=busy)

    def _before(self, run_id: str, ticket: _Ticket, client: str, limit: int) -> str:
        """The runs that keep a client from this one; empty where it is free."""
        holders = [run for run in self._held.get(client, {}) if run != run_id]
        earlier = [
            other
            for other, theirs in self._tickets.items()
            if other != run_id
            and client in theirs.wanted
            and (-theirs.priority, theirs.number) < (-ticket.priority, ticket.number)
        ]
        if len(holders) + len(earlier) < limit:
            return ""
        return ", ".join(holders or earlier)

    def resume(self, run_id: str, clients: Iterable[str]) -> None:
        """Take the clients of a round that was planned before; they may be at work on it, so nobody is asked."""
        with self._lock:
            for client in clients:
                self._held.setdefault(client, {})[run_id] = None

    def keep_only(self, run_id: str, clients: Collection[str]) -> None:
        """Let go of all but these."""
        with self._lock:
            for client in [c for c, runs in self._held.items() if run_id in runs and c not in clients]:
                self._let_go(run_id, client)

    def release(self, run_id: str, client: str) -> None:
        """One client has answered."""
        with self._lock:
            self._let_go(run_id, client)

    def leave(self, run_id: str) -> None:
        """The round or the run is over: let go of all, and of the ticket."""
        with self._lock:
            self._tickets.pop(run_id, None)
            for client in list(self._held):
                self._let_go(run_id, client)

    def _let_go(self, run_id: str, client: str) -> None:
        runs = self._held.get(client, {})
        runs.pop(run_id, None)
        if not runs:
            self._held.pop(client, None)

    def holders(self, client: str) -> Sequence[str]:
        """The runs that a client works for now."""
        with self._lock:
            return list(self._held.get(client, {}))

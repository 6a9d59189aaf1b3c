"""How often clients ask for work: a header of the coordinator's gateway beside its answers, and what bounds it.

The gateway counts who asked of late and says how many seconds are to lie between two calls of one client, so that all
of them together stay within what the coordinator carries. It is advice: who does not know it asks as before.
"""

from __future__ import annotations

HEADER = "motet-poll-s"
SHORTEST_S, LONGEST_S = 2.0, 60.0  # between two calls of a client that has had no work for a while
CALLS_A_SECOND = (
    25.0  # of all clients that wait; a call costs SuperLink and gateway about 15 ms of CPU together
)


def seconds_for(num_clients: int) -> float:
    """Seconds between two calls of each of ``num_clients`` that wait, within the bounds."""
    return min(max(num_clients / CALLS_A_SECOND, SHORTEST_S), LONGEST_S)


def seconds_from(text: str | None) -> float:
    """What a header says, within the bounds; the shortest where it says nothing that can be read."""
    try:
        found = float(text or "")
    except ValueError:
        return SHORTEST_S
    return min(max(found, SHORTEST_S), LONGEST_S) if found == found else SHORTEST_S

"""How often clients ask for work: headers of the coordinator's gateway beside its answers, and what bounds them.

The gateway counts who asked of late and says how many seconds are to lie between two calls of one client, so that all
of them together stay within what the coordinator carries; and the same for those who had work of late, who ask sooner
for a while. It is advice: who does not know it asks as before.
"""

from __future__ import annotations

HEADER, SOON_HEADER = "motet-poll-s", "motet-poll-soon-s"
SHORTEST_S, LONGEST_S = 2.0, 60.0  # between two calls of a client that has had no work for a while
CALLS_A_SECOND = (
    25.0  # of all clients that wait; a call costs SuperLink and gateway about 15 ms of CPU together
)
SOONEST_S = 0.1  # after work
SOON_CALLS_A_SECOND = 40.0  # of all clients that had work of late; what two cores were measured to answer


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


def soon_for(num_busy: int) -> float:
    """Seconds from an answer to the next call of each of ``num_busy`` clients that had work of late."""
    return min(max(num_busy / SOON_CALLS_A_SECOND, SOONEST_S), LONGEST_S)


def soon_from(text: str | None) -> float | None:
    """What ``SOON_HEADER`` says, within the bounds; None where it says nothing that can be read."""
    try:
        found = float(text or "")
    except ValueError:
        return None
    return min(max(found, SOONEST_S), LONGEST_S) if found == found else None

"""What the servicers share."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from motet.clock import Clock, SystemClock

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from coordinator.rpc.identity import Peer
    from coordinator.rpc.interceptors import CallCounts
    from coordinator.storage.store import Store


def nobody() -> tuple[frozenset[str], Mapping[str, float]]:
    """Who is online where nobody serves."""
    return frozenset(), {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What a servicer works with.

    Attributes:
      home: the coordinator's state folder.
      store: of this server; not shared with the engine, which has its own connections.
      counts: of calls.
      federation: name of this federation.
      dashboard_link: an address that opens the dashboard once for somebody, and when it ends; None without one.
      asks_operator: a researcher's run waits for an operator's approval.
      presence: who is online, and client -> when it was last seen, since the coordinator leads.
      clock: for events and certificates.
      stopping: set when the server begins to stop: streams end.
      poll_s: seconds between looks of a watch.
      heartbeat_s: seconds after which a watch without news says that it is there.
    """

    home: Path
    store: Store
    counts: CallCounts
    federation: str
    dashboard_link: Callable[[Peer], tuple[str, float]] | None = None
    asks_operator: bool = False
    presence: Callable[[], tuple[frozenset[str], Mapping[str, float]]] = nobody
    clock: Clock = field(default_factory=SystemClock)
    stopping: threading.Event = field(default_factory=threading.Event)
    poll_s: float = 0.25
    heartbeat_s: float = 10.0

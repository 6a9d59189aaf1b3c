"""What the service says of itself to those who look from another thread."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from coordinator.engine.flower_grid import FlowerGrid
    from coordinator.engine.superlink import Child


@dataclass(slots=True)
class Status:
    """Written by the service, read by the observers; each attribute is replaced as a whole.

    Attributes:
      is_leading: whether this coordinator leads its database.
      children: SuperLink and gateway, while it leads.
      grid: while clients can connect.
      refused_calls: refused calls of the control API by reason, since it started.
    """

    is_leading: bool = False
    children: Sequence[Child] = field(default_factory=tuple)
    grid: FlowerGrid | None = None
    refused_calls: Callable[[], Mapping[str, int]] = dict

    def children_up(self) -> dict[str, bool]:
        """Name of each child -> whether it runs; both are down while there are none."""
        up = dict.fromkeys(("SuperLink", "gateway"), False)
        return up | {c.name: c.process.poll() is None for c in tuple(self.children)}

    def online(self) -> int:
        """Clients that were connected at the last look."""
        grid = self.grid
        return 0 if grid is None else grid.online_at_last_look

    def presence(self) -> tuple[frozenset[str], Mapping[str, float]]:
        """Who was connected at the last look, and client -> when it last was; since this coordinator leads."""
        grid = self.grid
        return (frozenset(), {}) if grid is None else (grid.online_clients, grid.last_online)

    def ended(self) -> None:
        """It leads no more."""
        self.is_leading, self.grid, self.children = False, None, ()

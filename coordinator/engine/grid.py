"""How the engine reaches clients: send an order, collect replies. In this process, or over Flower."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from motet.wire.messages import TrainOrder, TrainReply


@dataclass(frozen=True, slots=True, kw_only=True)
class GridClient:
    """A client that can be reached now."""

    client_id: str
    capacity_class: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GridFailure:
    """A message that will get no reply; ``code`` is stable, ``message`` is for people."""

    code: str
    message: str


class Grid(Protocol):
    """A way to clients. ``collect`` never blocks on the network. Several runs, each in a thread, share a grid.

    A question for leave (``TrainOrder.asks_leave``) is answered also by a client that works on an order.

    ``tests/contract/test_grid.py`` holds every implementation to this.
    """

    def online(self) -> Mapping[str, GridClient]:
        """Clients that can be reached now, by id."""

    def send(self, order: TrainOrder, *, deadline_s: float) -> str:
        """Send one order.

        Returns:
          the message's id, which no other message of this grid has. It means nothing to a later grid: after a restart
          of the coordinator orders are sent again.
        """

    def collect(self, message_ids: Sequence[str]) -> list[tuple[str, TrainReply | GridFailure]]:
        """What has arrived of these messages since the last call.

        Each reply is returned once; ids that are not known are passed over. In any order.
        """

    def cancel(self, client_id: str, key: str) -> None:
        """Tell a client to abandon an order: one that is queued there or being worked on ends as ``cancelled``.

        Args:
          client_id: whose.
          key: of the order, ``motet.abandoned.order_key``; it need not be of this grid.
        """

    def is_known(self, message_id: str) -> bool:
        """Whether a reply to this message may still come; if not, the engine sends the order again."""

    def close(self) -> None:
        """Let go of processes and connections."""

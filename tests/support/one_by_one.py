"""Tells a store of one order or answer at a time; the engine tells of many in one transaction (``Store.tell``)."""

from coordinator.storage.telling import Received, Sent


def order_sent(store, run_id, round_index, attempt, client_id, *, message_id, bytes_down):
    """The order to a client left, in a message of that id."""
    sent = Sent(client_id=client_id, message_id=message_id, bytes_down=bytes_down)
    store.tell(run_id, round_index, attempt, [sent])


def reply_received(store, run_id, round_index, attempt, client_id, **update):
    """A client's update is stored and admitted; ``update`` as the fields of ``Received``."""
    store.tell(run_id, round_index, attempt, [Received(client_id=client_id, **update)])

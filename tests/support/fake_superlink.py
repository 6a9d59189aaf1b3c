"""A SuperLink in this process, and a grid over it: what the coordinator believes, without a network."""

import itertools

from cryptography.hazmat.primitives.asymmetric import ec
from enrolling import public_pem
from envelopes import order_for, seal

from coordinator.engine.flower_grid import FlowerGrid
from coordinator.engine.flower_messages import Arrived
from coordinator.storage.store import Store
from motet.wire.messages import TrainReply

FEDERATION = "f-0123"


class FakeLink:
    """A SuperLink in this process: what was pushed, what is to be pulled, which nodes are on."""

    def __init__(self):
        self.nodes, self.off, self.pushed, self.arrived, self.expected = {}, [], {}, {}, {}
        self._numbers = itertools.count(1)

    def known_nodes(self):
        return {key: node for key, node in self.nodes.items() if node not in self.off}

    def register_node(self, public_key, name):
        self.nodes[public_key] = next(self._numbers)
        return self.nodes[public_key]

    def unregister_node(self, node_id):
        self.off.append(node_id)

    def online_nodes(self):
        return {node for node in self.nodes.values() if node not in self.off}

    def push(self, node_id, data, *, group, ttl_s):
        self.pushed[f"c{len(self.pushed)}"] = (node_id, data)
        return f"c{len(self.pushed) - 1}"

    def ask_after(self, node_id, message_id, *, ttl_s):
        self.pushed[f"q{len(self.pushed)}"] = (node_id, message_id)
        return f"q{len(self.pushed) - 1}"

    def expect(self, message_id, most_bytes):
        self.expected[message_id] = most_bytes

    def pull(self, message_ids):
        return [self.arrived.pop(m) for m in list(message_ids) if m in self.arrived]

    def bring(self, carrier, data):
        """A reply to a message."""
        self.arrived[carrier] = Arrived(message_id=carrier, data=data)


class Site:
    """A store with clients a and b, their keys, a link and a grid; ``time`` is the test's."""

    def __init__(self, folder):
        self.keys = {c: ec.generate_private_key(ec.SECP384R1()) for c in ("a", "b")}
        self.store = Store.open(folder / "motet.db")
        for client, key in self.keys.items():
            self.store.register_client(client, public_pem(key))
        self.link, self.time = FakeLink(), 0.0
        self.grid = self.new_grid()
        self.grid.online()

    def new_grid(self):
        """As a restart makes it."""
        return FlowerGrid(self.link, self.store, federation=FEDERATION, monotonic=lambda: self.time)

    def send(self, client="a", **fields):
        """An order on its way: itself, its message and its carrier."""
        order = order_for(client, **fields)
        message_id = self.grid.send(order, deadline_s=60)
        return order, message_id, f"c{len(self.link.pushed) - 1}"

    def seal(self, order, payload=b"", *, key=None, federation=FEDERATION, answered=None):
        """What a client would send; ``answered``: another order, which it signs for."""
        reply = TrainReply(
            run_id=order.run_id,
            round_index=order.round_index,
            attempt=order.attempt,
            client_id=order.client_id,
            payload=payload,
        )
        return seal(key or self.keys[order.client_id], federation, answered or order, reply)

    def outcome(self, message_id):
        """Of a message, a second later; None while there is none."""
        self.time += 1.0
        return dict(self.grid.collect([message_id])).get(message_id)

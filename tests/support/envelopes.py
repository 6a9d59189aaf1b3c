"""Orders and the envelopes of their answers, as a client of ``client.sealing`` makes them."""

import hashlib

from motet.wire.codec import encode_order, encode_reply
from motet.wire.envelopes import seal_reply
from motet.wire.messages import TrainOrder


def order_for(client_id, **fields):
    """An order; its recipe says nothing."""
    plain = {
        "run_id": "r-1",
        "round_index": 0,
        "attempt": 0,
        "recipe_json": "{}",
        "recipe_sha256": "",
        "lora_rank": 1,
        "reservation_id": "",
        "payload": b"start",
        "payload_sha256": "",
    }
    return TrainOrder(client_id=client_id, **plain | fields)


def order_digest(order):
    """Of its bytes on the wire."""
    return hashlib.sha256(encode_order(order)).hexdigest()


def seal(key, federation, order, reply):
    """``reply`` as an answer to ``order``."""
    return seal_reply(key, federation, order, order_digest(order), encode_reply(reply))

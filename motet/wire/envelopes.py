"""A client's signature around each reply: whose it is, and to which order of which federation it answers.

What is signed holds the hash of the order in the bytes that the client received, and the hash of the reply in the bytes
that it sends. The coordinator computes the first from the order that it sent, so a reply to another order, run, round
or attempt, of another federation or another client, or with one changed byte has no valid signature, and nothing of it
is parsed.

The same order, reply and key give the same signature (RFC 6979): a client that answers again sends the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from google.protobuf.message import DecodeError

from motet.errors import MotetError
from motet.wire.v1 import round_pb2

if TYPE_CHECKING:
    from motet.wire.messages import TrainOrder

_SIGNED = b"motet-reply/1\n"  # no other use of a client's key signs bytes that begin so
_HALF = 48  # bytes of r and of s on P-384
ENVELOPE_BYTES = 2 * _HALF + 16  # at most what the envelope adds to a reply of less than 2 GiB


class EnvelopeError(MotetError):
    """A reply without an envelope that holds. ``code``: ``malformed_reply``, ``unsigned`` or ``bad_signature``."""

    exit_code = 7

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def statement(federation: str, order: TrainOrder, order_sha256: str, reply: bytes) -> bytes:
    """What a client signs: canonical JSON behind a word that sets it apart from all else that its key signs.

    Args:
      federation: id of the federation.
      order: what is answered.
      order_sha256: hex SHA-256 of the order's bytes on the wire.
      reply: a ``TrainReply``, in bytes.
    """
    fields = {
        "attempt": order.attempt,
        "client_id": order.client_id,
        "federation": federation,
        "order_sha256": order_sha256,
        "reply_sha256": hashlib.sha256(reply).hexdigest(),
        "round_index": order.round_index,
        "run_id": order.run_id,
    }
    return _SIGNED + json.dumps(fields, sort_keys=True, separators=(",", ":")).encode("ascii")


def seal_reply(
    key: ec.EllipticCurvePrivateKey, federation: str, order: TrainOrder, order_sha256: str, reply: bytes
) -> bytes:
    """``reply`` in its envelope.

    Args:
      key: the client's, on P-384.
      federation: id of the federation.
      order: what is answered.
      order_sha256: hex SHA-256 of the order's bytes as they were received.
      reply: a ``TrainReply``, in bytes.
    """
    algorithm = ec.ECDSA(hashes.SHA384(), deterministic_signing=True)
    r, s = decode_dss_signature(key.sign(statement(federation, order, order_sha256, reply), algorithm))
    signature = r.to_bytes(_HALF, "big") + s.to_bytes(_HALF, "big")
    return round_pb2.SignedReply(reply=reply, signature=signature).SerializeToString(deterministic=True)


def open_reply(
    public_key: bytes, federation: str, order: TrainOrder, order_sha256: str, envelope: bytes
) -> bytes:
    """The reply in an envelope, in bytes that the holder of ``public_key`` signed as an answer to this order.

    Args:
      public_key: the client's registered key, PEM.
      federation: id of the federation.
      order: what was asked.
      order_sha256: hex SHA-256 of the order's bytes as they were sent.
      envelope: what came.

    Raises:
      EnvelopeError: ``malformed_reply``: no envelope, or more than one holds. ``unsigned``: no signature of the right
        size. ``bad_signature``: another key, order, run, round, attempt, client or federation, or changed bytes.
    """
    message = round_pb2.SignedReply()
    try:
        message.ParseFromString(envelope)
    except DecodeError:
        raise EnvelopeError("malformed_reply", "the reply is no envelope of this version") from None
    signature, reply = message.signature, message.reply
    if len(envelope) > len(reply) + ENVELOPE_BYTES:
        raise EnvelopeError("malformed_reply", "the envelope holds more than a reply and its signature")
    if len(signature) != 2 * _HALF:
        raise EnvelopeError("unsigned", "the reply came without a signature")
    r, s = (int.from_bytes(signature[i : i + _HALF], "big") for i in (0, _HALF))
    try:
        _loaded(public_key).verify(
            encode_dss_signature(r, s),
            statement(federation, order, order_sha256, reply),
            ec.ECDSA(hashes.SHA384()),
        )
    except InvalidSignature:
        raise EnvelopeError(
            "bad_signature", "the reply is not signed by this client's key as an answer to this order"
        ) from None
    return reply


@lru_cache(maxsize=4096)
def _loaded(public_key: bytes) -> ec.EllipticCurvePublicKey:
    try:
        key = serialization.load_pem_public_key(public_key)
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp384r1":
        raise EnvelopeError("bad_signature", "the registered key is no P-384 key")
    return key

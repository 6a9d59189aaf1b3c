"""Every reply leaves in an envelope that this client's key signs: see ``motet.wire.envelopes``."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from cryptography import x509

from client.errors import ClientError
from motet.identity import federation_of
from motet.wire.codec import decode_order, encode_reply
from motet.wire.envelopes import seal_reply

if TYPE_CHECKING:
    from collections.abc import Callable

    from cryptography.hazmat.primitives.asymmetric import ec

    from motet.wire.messages import TrainOrder, TrainReply


class SealError(ClientError):
    """The authority of the federation can not be read, so that no reply can be bound to it."""

    exit_code = 2
    code = "setup"


def sealed(
    handler: Callable[[TrainOrder], TrainReply], key: ec.EllipticCurvePrivateKey, authority_pem: str
) -> Callable[[bytes], bytes]:
    """Order bytes to the envelope of ``handler``'s reply.

    Args:
      handler: answers an order.
      key: this client's registered key.
      authority_pem: certificate of the federation's authority, which the envelope names.

    Raises:
      SealError: ``authority_pem`` is no certificate.
    """
    try:
        federation = federation_of(x509.load_pem_x509_certificate(authority_pem.encode()))
    except ValueError as e:
        raise SealError(
            "the join file holds no certificate of an authority",
            hint="ask the operator for join.json from the coordinator's home",
        ) from e

    def answer(data: bytes) -> bytes:
        order = decode_order(data)
        reply = encode_reply(handler(order))
        return seal_reply(key, federation, order, hashlib.sha256(data).hexdigest(), reply)

    return answer

"""A signed request for the next certificate, for clients that reach the enrolment address and not the control API.

There the connection shows who the coordinator is, and not who the client is: the present certificate's key signs. The
next certificate is for the same key. So whoever sends such a request, and however often, wins nothing without that key.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

WINDOW_S = 300.0
"""Seconds by which the client's clock may differ from the coordinator's, either way."""
_SIGNED = b"motet-renewal/1\n"  # no other use of the key signs bytes that begin so: TLS, certificate requests


@dataclass(frozen=True, slots=True, kw_only=True)
class RenewSignedRequest:
    """A certificate, and a word of its key. Fields as in the wire contract.

    Attributes:
      certificate_pem: the present certificate.
      signed_at: whole seconds since 1970, by the client's clock.
      signature: ECDSA with SHA-256 by the certificate's key over ``renewal_statement``.
    """

    certificate_pem: str
    signed_at: int
    signature: bytes


def renewal_statement(federation: str, pin: str, certificate_der: bytes, signed_at: int) -> bytes:
    """What a client signs with the key of its present certificate (ECDSA, SHA-256).

    Args:
      federation: its id.
      pin: hex SHA-256 of the public key of the federation's authority.
      certificate_der: the present certificate.
      signed_at: whole seconds since 1970.

    Returns:
      a name of this use, then each part after its length (4 bytes, big endian).
    """
    parts = (
        federation.encode(),
        pin.encode(),
        hashlib.sha256(certificate_der).digest(),
        str(signed_at).encode(),
    )
    return _SIGNED + b"".join(len(part).to_bytes(4, "big") + part for part in parts)

"""Who calls: the name in a peer's certificate, as the TLS handshake has verified it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from coordinator.rpc.roles import ANYONE, OPERATOR
from coordinator.storage.actions import Actor
from coordinator.storage.identities import serial_text
from motet.connection.errors import NotAuthenticatedError
from motet.identity import SKEW, IdentityError, identity_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class Revocations(Protocol):
    """What is asked on every call; an implementation answers within milliseconds, from memory or one row."""

    def is_revoked(self, serial: int) -> bool:
        """Whether the certificate of that serial number was revoked."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A caller. ``serial`` and ``fingerprint`` (SHA-256, hexadecimal) are of its certificate.

    0 and empty for the user of this home and for a peer without one.
    """

    role: str
    name: str
    serial: int = 0
    fingerprint: str = ""
    not_before: float = 0.0
    not_after: float = float("inf")

    @property
    def label(self) -> str:
        """``role/name``, for logs and records; the role alone of who shows no certificate."""
        return f"{self.role}/{self.name}" if self.name else self.role

    @property
    def actor(self) -> Actor:
        """For the record of what was done to a run."""
        serial = serial_text(self.serial) if self.serial else ""
        return Actor(label=self.label, serial=serial, fingerprint=self.fingerprint)


LOCAL_OPERATOR = Peer(role=OPERATOR, name="local")
NOBODY = Peer(role=ANYONE, name="")


def peer_of(
    authentication: Mapping[str, Iterable[bytes]], federation: str, revocations: Revocations, now: float
) -> Peer:
    """The caller of a connection with a verified certificate.

    Args:
      authentication: ``auth_context()`` of the call.
      federation: of this coordinator.
      revocations: asked for the serial number.
      now: seconds since 1970; a certificate can end while its connection lives.

    Raises:
      NotAuthenticatedError: no certificate, one without exactly one name of this federation, one that has ended, or
        one that was revoked.
    """
    pem = next(iter(authentication.get("x509_pem_cert", ())), b"")
    if not pem:
        raise NotAuthenticatedError(
            "the call came without a certificate", hint="connect with an identity: --identity FOLDER"
        )
    peer = _parsed(pem, federation)
    if not peer.not_before <= now < peer.not_after:
        raise NotAuthenticatedError(
            "the certificate has ended or has not begun", hint="renew it, or enrol again"
        )
    if revocations.is_revoked(peer.serial):
        raise NotAuthenticatedError("the certificate was revoked", hint="ask the operator for a new token")
    return peer


@lru_cache(maxsize=1024)
def _parsed(pem: bytes, federation: str) -> Peer:
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        named, role, name = identity_of(certificate)
    except (ValueError, IdentityError) as e:
        raise NotAuthenticatedError(
            "the certificate holds no name that can be read", hint="enrol with a token of this federation"
        ) from e
    if named != federation:
        raise NotAuthenticatedError(
            "the certificate names nobody of this federation", hint="enrol with a token of this federation"
        )
    return Peer(
        role=role,
        name=name,
        serial=certificate.serial_number,
        fingerprint=certificate.fingerprint(hashes.SHA256()).hex(),
        not_before=certificate.not_valid_before_utc.timestamp() - SKEW.total_seconds(),
        not_after=certificate.not_valid_after_utc.timestamp(),
    )

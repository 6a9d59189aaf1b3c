"""What a client and a coordinator say to each other once: a token, a request, and what it is answered with.

A token carries all that a client needs: where to go, whom to find there (the pin of the authority's key), and the
secret that admits it. Who holds it can take the client's place until it is used, so it is handed over as a password is.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from dataclasses import dataclass, field

from motet.errors import MotetError
from motet.identity import IdentityError, check_name

PREFIX = "mt1."
LONGEST = 1024
_SIGNED = b"motet-enrolment/1\n"  # no other use of a client's key signs bytes that begin so
_KEYS = b"motet-enrolment-keys/1\n"


class TokenError(MotetError):
    """A text is no enrolment token: cut, mistyped, or something else."""

    exit_code = 2


class AdmissionRefusedError(MotetError):
    """A token, a key, a proof or a certificate is not good (any more); nothing was changed."""

    exit_code = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolmentToken:
    """A single-use token.

    Attributes:
      token_id: 32 hex digits; may be shown.
      secret: 32 bytes; the coordinator keeps its hash only.
      pin: hex SHA-256 of the public key of the federation's authority.
      address: ``host:port`` where to enrol.
      name: of the client.
    """

    token_id: str
    secret: bytes = field(repr=False)
    pin: str
    address: str
    name: str

    @classmethod
    def new(cls, *, pin: str, address: str, name: str) -> EnrolmentToken:
        """A token that nobody can guess."""
        return cls(
            token_id=secrets.token_hex(16),
            secret=secrets.token_bytes(32),
            pin=pin,
            address=address,
            name=check_name(name),
        )

    def encode(self) -> str:
        """One word of about 200 characters, with a checksum against typing mistakes."""
        body = bytes.fromhex(self.token_id) + self.secret + bytes.fromhex(self.pin)
        body += f"{self.address}\n{self.name}".encode("ascii")
        whole = body + _checksum(body)
        return PREFIX + base64.urlsafe_b64encode(whole).rstrip(b"=").decode("ascii")


def parse_token(text: str) -> EnrolmentToken:
    """Read a token; white space around and line breaks within do not matter.

    Raises:
      TokenError: it is none. The message never quotes it.
    """
    word = "".join(text.split())
    if not word.startswith(PREFIX) or len(word) > LONGEST:
        raise TokenError(
            f"this is no enrolment token: one begins with {PREFIX}", hint="ask the operator: motet ca token"
        )
    try:
        plain = word.removeprefix(PREFIX).encode("ascii")
        whole = base64.b64decode(plain + b"=" * (-len(plain) % 4), altchars=b"-_", validate=True)
        body = whole[:-4]
        if len(body) < 80 or not hmac.compare_digest(whole[-4:], _checksum(body)):
            raise ValueError
        address, name = body[80:].decode("ascii").split("\n")
        check_name(name)
    except (ValueError, UnicodeError, binascii.Error, IdentityError):
        raise TokenError(
            "the enrolment token is cut or mistyped", hint="copy it whole, on one line"
        ) from None
    return EnrolmentToken(
        token_id=body[:16].hex(), secret=body[16:48], pin=body[48:80].hex(), address=address, name=name
    )


def possession_statement(token_id: str, csr_pem: str, fleet_public_key_pem: str) -> bytes:
    """What a client signs with the private half of its fleet key (ECDSA, SHA-384) to prove that it has it."""
    parts = (token_id, csr_pem, fleet_public_key_pem)
    return _SIGNED + b"".join(hashlib.sha256(part.encode()).digest() for part in parts)


def keys_sha256(request_key_spki: bytes, fleet_public_key: bytes) -> str:
    """Name of a pair of keys: who comes again with a used token is known by it."""
    both = hashlib.sha256(request_key_spki).digest() + hashlib.sha256(fleet_public_key).digest()
    return hashlib.sha256(_KEYS + both).hexdigest()


def _checksum(body: bytes) -> bytes:
    return hashlib.sha256(body).digest()[:4]


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinInformation:
    """What a client needs to connect; nothing of it is secret. Fields as in the wire contract."""

    address: str
    gateway_ca_pem: str
    bundle_sha256: str
    control_address: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolRequest:
    """A client's keys, with proof that it has the private halves. Fields as in the wire contract."""

    token: str = field(repr=False)
    csr_pem: str
    fleet_public_key_pem: str
    proof_of_possession: bytes
    software_version: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolResponse:
    """A certificate and how to join. Fields as in the wire contract; ``not_after`` is seconds since 1970."""

    certificate_pem: str
    ca_pem: str
    federation: str
    role: str
    name: str
    not_after: float
    join: JoinInformation


@dataclass(frozen=True, slots=True, kw_only=True)
class RenewResponse:
    """A certificate for the same name. Fields as in the wire contract."""

    certificate_pem: str
    ca_pem: str
    not_after: float

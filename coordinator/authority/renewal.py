"""Who asks for the next certificate over a connection that does not say it: the signature of the present one's key.

What can be refused without a look at the database is refused here, so that strangers reach no table. Whatever is wrong
with a certificate is refused in the same words: unknown, ended and revoked can not be told apart from outside.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from motet.enrolment import AdmissionRefusedError
from motet.identity import SKEW, IdentityError, identity_of
from motet.renewal import WINDOW_S, renewal_statement

if TYPE_CHECKING:
    from coordinator.authority.authority import Authority
    from motet.renewal import RenewSignedRequest

ROLE = "client"  # people's certificates are issued anew by an operator
_LARGEST_CERTIFICATE = 8192


class RenewalRefusedError(AdmissionRefusedError):
    """A signed request for the next certificate can not be granted; nothing was changed."""


def refusal() -> RenewalRefusedError:
    """The one answer to every certificate that is not renewed."""
    return RenewalRefusedError(
        "this certificate is not renewed", hint="ask the operator for a new token, and enrol with it"
    )


def signing_certificate(request: RenewSignedRequest, authority: Authority, now: float) -> x509.Certificate:
    """The client's certificate whose key signed ``request`` just now. Whether it is on record is not looked at.

    Args:
      request: as it came.
      authority: of this federation.
      now: seconds since 1970.

    Raises:
      RenewalRefusedError: no certificate of a client by this authority, one that has ended or not begun, another
        key's signature, or a time that is more than ``WINDOW_S`` away.
    """
    try:
        if len(request.certificate_pem) > _LARGEST_CERTIFICATE:
            raise ValueError
        certificate = x509.load_pem_x509_certificate(request.certificate_pem.encode())
        certificate.verify_directly_issued_by(authority.certificate)
        federation, role, _ = identity_of(certificate)
        _check_signature(request, certificate, authority)
    except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature, IdentityError):
        raise refusal() from None
    begin = (certificate.not_valid_before_utc - SKEW).timestamp()
    is_current = begin <= now < certificate.not_valid_after_utc.timestamp()
    if (federation, role) != (authority.federation, ROLE) or not is_current:
        raise refusal()
    if abs(now - request.signed_at) > WINDOW_S:  # only the key's owner and who copied its request get so far
        raise RenewalRefusedError(
            "the request was signed more than 5 minutes before or after the coordinator's time",
            hint="set this machine's clock, or the coordinator's",
        )
    return certificate


def _check_signature(
    request: RenewSignedRequest, certificate: x509.Certificate, authority: Authority
) -> None:
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
        raise TypeError
    der = certificate.public_bytes(Encoding.DER)
    statement = renewal_statement(authority.federation, authority.pin, der, request.signed_at)
    key.verify(request.signature, statement, ec.ECDSA(hashes.SHA256()))

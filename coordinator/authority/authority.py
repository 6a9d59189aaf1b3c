"""The authority of a coordinator's home, made by ``coordinator.tls`` and used here to sign identities."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from coordinator.storage.identities import IssuedCertificate, serial_text
from coordinator.tls import ensure_certificates, key_usage, leaf_builder, load_authority
from motet.identity import ROLES, IdentityError, authority_pin, check_name, federation_of, identity_uri

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric import ec

LIFETIME = datetime.timedelta(days=30)
SHORTEST, LONGEST = datetime.timedelta(minutes=5), datetime.timedelta(days=397)


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """Signs identities of one federation.

    Attributes:
      federation: its id, made of the authority's public key.
      certificate: of the authority.
    """

    federation: str
    certificate: x509.Certificate
    _key: ec.EllipticCurvePrivateKey

    @property
    def pin(self) -> str:
        """Hex SHA-256 of the authority's public key; clients check it before they send anything."""
        return authority_pin(self.certificate)

    @property
    def pem(self) -> str:
        """The authority's certificate."""
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")

    def certify(
        self,
        public_key: ec.EllipticCurvePublicKey,
        role: str,
        name: str,
        *,
        now: datetime.datetime,
        lifetime: datetime.timedelta = LIFETIME,
    ) -> IssuedCertificate:
        """A certificate for a P-256 key; record it before it is handed out.

        Args:
          public_key: of whom it is for; proved to be theirs.
          role: one of ``motet.identity.ROLES``.
          name: within the role.
          now: timezone-aware; the certificate begins five minutes earlier, for clocks that run behind.
          lifetime: 5 minutes to 397 days.

        Raises:
          IdentityError: role, name, curve or lifetime can not be used.
        """
        check_name(name)
        if role not in ROLES:
            raise IdentityError(f"{role[:80]!r} is no role", hint=f"one of {', '.join(ROLES)}")
        if public_key.curve.name != "secp256r1":
            raise IdentityError(
                "certificates are for P-256 keys", hint="make the key anew: motet client enrol"
            )
        if not SHORTEST <= lifetime <= LONGEST:
            raise IdentityError("a certificate lives 5 minutes to 397 days", hint="give another lifetime")
        uri = x509.UniformResourceIdentifier(identity_uri(self.federation, role, name))
        authority_key = self._key.public_key()
        certificate = (
            leaf_builder(
                x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]),
                self.certificate.subject,
                public_key,
                now,
                lifetime,
            )
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([uri]), critical=False)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
            .add_extension(key_usage(sign_certificates=False), critical=True)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return IssuedCertificate(
            serial=serial_text(certificate.serial_number),
            role=role,
            name=name,
            fingerprint=certificate.fingerprint(hashes.SHA256()).hex(),
            pem=certificate.public_bytes(serialization.Encoding.PEM).decode("ascii"),
            not_after=certificate.not_valid_after_utc.timestamp(),
        )


def ensure_authority(
    home: Path, *, names: Sequence[str] = (), now: datetime.datetime | None = None
) -> Authority:
    """The authority of a coordinator's home; made with the server's certificate if there is none.

    Homes of earlier versions keep theirs: the federation's id is made of the key that they have.

    Args:
      home: the coordinator's state folder.
      names: host names and IP addresses of the server, for its certificate.
      now: timezone-aware; the system's clock by default.

    Raises:
      CertificateError: parts of it are missing or damaged; nothing is replaced.
    """
    now = now or datetime.datetime.now(datetime.UTC)
    ensure_certificates(home / "tls", names, now)
    return open_authority(home)


def open_authority(home: Path) -> Authority:
    """The authority that a home has; none is made.

    Raises:
      CertificateError: there is none, or it is damaged.
    """
    certificate, key = load_authority(home / "tls")
    return Authority(federation=federation_of(certificate), certificate=certificate, _key=key)

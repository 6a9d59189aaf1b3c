"""Who somebody is to a federation: a folder with a key, a short certificate, and the authority that signed it.

The certificate names its owner in one URI, ``spiffe://FEDERATION/ROLE/NAME``. The federation's id is made of the
authority's public key, so it needs no register and can not be taken by another authority.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import re
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from motet.errors import MotetError

if TYPE_CHECKING:
    from pathlib import Path

ROLES = ("operator", "researcher", "auditor", "client")
KEY, CERTIFICATE, AUTHORITY, FACTS = "key.pem", "certificate.pem", "ca.pem", "identity.json"
SKEW = datetime.timedelta(minutes=5)  # clocks that differ by less do not matter
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_FEDERATION = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


class IdentityError(MotetError):
    """A folder holds no identity that can be used: a file is missing, damaged, readable by others, or expired."""

    exit_code = 7


class ExpiredIdentityError(IdentityError):
    """The certificate is no longer valid, or not yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Somebody in a federation, and the folder that proves it.

    Attributes:
      federation: id of the federation, see ``federation_of``.
      role: one of ``ROLES``.
      name: within the role.
      folder: holds ``key.pem`` (mode 0600), ``certificate.pem``, ``ca.pem`` and ``identity.json``.
      control: ``host:port`` of the coordinator's control API; empty where nobody has said it.
      enrolment: ``host:port`` where a client enrolled and may renew; empty for others.
    """

    federation: str
    role: str
    name: str
    folder: Path
    control: str = ""
    enrolment: str = ""

    @property
    def key_path(self) -> Path:
        """The private key, PEM."""
        return self.folder / KEY

    @property
    def certificate_path(self) -> Path:
        """The certificate, PEM."""
        return self.folder / CERTIFICATE

    @property
    def authority_path(self) -> Path:
        """The certificate of the federation's authority, PEM."""
        return self.folder / AUTHORITY


def check_name(name: str) -> str:
    """``name`` where it can name somebody: letters, digits, dot, dash and underscore, at most 63, of ASCII.

    Raises:
      IdentityError: it can not.
    """
    if not _NAME.fullmatch(name):
        raise IdentityError(
            f"{name[:80]!r} is no name", hint="use letters, digits, dot, dash and underscore, at most 63"
        )
    return name


def identity_uri(federation: str, role: str, name: str) -> str:
    """The URI that a certificate carries."""
    return f"spiffe://{federation}/{role}/{name}"


def parse_identity_uri(uri: str) -> tuple[str, str, str]:
    """Federation, role and name.

    Raises:
      IdentityError: it is no such URI.
    """
    federation, _, rest = uri.removeprefix("spiffe://").partition("/")
    role, _, name = rest.partition("/")
    sound = uri.startswith("spiffe://") and _FEDERATION.fullmatch(federation) and role in ROLES
    if not (sound and _NAME.fullmatch(name)):
        raise IdentityError(
            "the certificate names nobody of a federation", hint="ask the operator for a new one"
        )
    return federation, role, name


def identity_of(certificate: x509.Certificate) -> tuple[str, str, str]:
    """Federation, role and name that a certificate carries; the signature is not looked at.

    Raises:
      IdentityError: it carries none, or more than one.
    """
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        raise IdentityError("the certificate names nobody of a federation") from None
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        raise IdentityError("the certificate names nobody of a federation, or more than one")
    return parse_identity_uri(uris[0])


def authority_pin(certificate: x509.Certificate) -> str:
    """Hex SHA-256 of the public key (SubjectPublicKeyInfo, DER) in a certificate."""
    spki = certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(spki).hexdigest()


def federation_of(authority: x509.Certificate) -> str:
    """The id of the federation of an authority: ``f-`` and 128 bits of the hash of its key."""
    return "f-" + authority_pin(authority)[:32]


def load_identity(folder: Path, *, now: datetime.datetime | None = None) -> Identity:
    """Read an identity and check that its parts belong together.

    Args:
      folder: made by ``motet ca issue`` or ``motet client enrol``.
      now: timezone-aware; the system's clock by default.

    Raises:
      ExpiredIdentityError: the certificate is out of date; more than 5 minutes of difference between clocks count.
      IdentityError: a file is missing or damaged, others may read the key, or the parts do not fit.
    """
    facts = read_facts(folder)
    certificate = _certificate(folder / CERTIFICATE)
    authority = _certificate(folder / AUTHORITY)
    _check_key(folder / KEY, certificate)
    told = (facts.get("federation"), facts.get("role"), facts.get("name"))
    if identity_of(certificate) != told or federation_of(authority) != told[0]:
        raise IdentityError(
            f"{folder}: {FACTS}, {CERTIFICATE} and {AUTHORITY} are not of one identity",
            hint="restore the folder, or have a new identity issued",
        )
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        raise IdentityError(
            f"{folder}: {CERTIFICATE} was not signed by {AUTHORITY}", hint="have a new identity issued"
        ) from None
    _check_dates(folder, certificate, now or datetime.datetime.now(datetime.UTC))
    return Identity(
        federation=str(told[0]),
        role=str(told[1]),
        name=str(told[2]),
        folder=folder,
        control=str(facts.get("control", "")),
        enrolment=str(facts.get("enrolment", "")),
    )


def facts_json(*, federation: str, role: str, name: str, control: str = "", enrolment: str = "") -> bytes:
    """The content of ``identity.json``."""
    facts = {"control": control, "federation": federation, "name": name, "role": role}
    facts |= {"enrolment": enrolment} if enrolment else {}
    return (json.dumps(facts, indent=2) + "\n").encode()


def read_facts(folder: Path) -> dict[str, object]:
    """The content of ``identity.json``: federation, role, name, addresses; nothing is checked.

    Raises:
      IdentityError: it is missing or damaged.
    """
    path = folder / FACTS
    try:
        facts = json.loads(_read(path))
    except ValueError:
        facts = None
    if not isinstance(facts, dict):
        raise IdentityError(f"{path} can not be read", hint="restore it, or have a new identity issued")
    return facts


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        within = path.parent / "identity"  # where a client's home has it
        has_one = (within / FACTS).is_file()
        raise IdentityError(
            f"{path}: no such file; {path.parent} holds no whole identity",
            hint=f"that of this client is in {within}"
            if has_one
            else "a client enrols: motet client enrol; others ask the operator: motet ca issue",
        ) from None
    except OSError as e:
        raise IdentityError(f"{path} can not be read: {e.strerror}", hint="check the folder's rights") from e


def _certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(_read(path))
    except ValueError:
        raise IdentityError(
            f"{path} is no certificate", hint="restore it, or have a new identity issued"
        ) from None


def _check_key(path: Path, certificate: x509.Certificate) -> None:
    data = _read(path)
    if os.name == "posix" and stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise IdentityError(f"others may read {path}", hint=f"chmod 600 {path}")
    try:
        key = serialization.load_pem_private_key(data, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise IdentityError(f"{path} is no key", hint="restore it, or have a new identity issued") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise IdentityError(
            f"{path} is not the key of {CERTIFICATE} beside it",
            hint="restore it, or have a new identity issued",
        )


def _check_dates(folder: Path, certificate: x509.Certificate, now: datetime.datetime) -> None:
    if now > certificate.not_valid_after_utc + SKEW:
        raise ExpiredIdentityError(
            f"{folder}: the certificate ended on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC",
            hint="a client enrols again with a new token; others ask the operator: motet ca issue",
        )
    if now < certificate.not_valid_before_utc - SKEW:
        raise ExpiredIdentityError(
            f"{folder}: the certificate begins on {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC",
            hint="set this machine's clock",
        )

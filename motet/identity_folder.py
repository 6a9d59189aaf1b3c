"""An identity's folder as its owner makes it: the key stays in it, a request for a certificate leaves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from motet.folders import write_folder
from motet.identity import AUTHORITY, CERTIFICATE, FACTS, KEY, IdentityError, read_facts

if TYPE_CHECKING:
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric import ec


def certificate_request(key: ec.EllipticCurvePrivateKey, name: str) -> str:
    """PKCS#10, PEM, signed by ``key``. ``name``: at most 63 characters."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    made = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return made.public_bytes(serialization.Encoding.PEM).decode("ascii")


def check_same_holder(folder: Path, role: str, name: str) -> None:
    """Raise where a folder holds somebody else's identity: its key would be lost.

    Raises:
      IdentityError: it does, or what it holds can not be read.
    """
    if not (folder / FACTS).exists():
        return
    known = read_facts(folder)
    if (known.get("role"), known.get("name")) != (role, name):
        raise IdentityError(
            f"{folder} holds the identity of {known.get('role')} {known.get('name')}; its key would be lost",
            hint="choose another --out folder",
        )


def write_identity(
    folder: Path, key: ec.EllipticCurvePrivateKey, *, certificate_pem: str, authority_pem: str, facts: bytes
) -> None:
    """Write key, certificate, authority and facts: whole or not at all. An earlier identity is replaced.

    Args:
      folder: made with mode 0700; new, empty, or an earlier identity.
      key: of the certificate; its file has mode 0600.
      certificate_pem: of the identity.
      authority_pem: that signed it.
      facts: see ``motet.identity.facts_json``.

    Raises:
      IdentityError: the folder can not be written, or holds something else.
    """

    def fill(new: Path) -> None:
        new.chmod(0o700)
        (new / KEY).touch(mode=0o600)
        (new / KEY).write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        (new / CERTIFICATE).write_text(certificate_pem, encoding="ascii")
        (new / AUTHORITY).write_text(authority_pem, encoding="ascii")
        (new / FACTS).write_bytes(facts)

    write_folder(folder, FACTS, fill, IdentityError)

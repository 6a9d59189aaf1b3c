"""A small certificate authority of the coordinator's own: made once, never silently again.

P-256 certificates for the gateway and the SuperLink. The authority's key stays in the home folder
(mode 0600).
"""

from __future__ import annotations

import datetime
import ipaddress
import os
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from motet.errors import MotetError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

CA_DAYS = 3650
SERVER_DAYS = 397


class CertificateError(MotetError):
    """Certificates are missing, incomplete or expired."""

    exit_code = 7


def ensure_certificates(folder: Path, names: Sequence[str], now: datetime.datetime) -> None:
    """Make ``ca.crt``, ``ca.key``, ``server.pem``, ``server.key`` unless they are there.

    Args:
      folder: made with mode 0700.
      names: host names and IP addresses that clients use; loopback is always among them.
      now: timezone-aware.

    Raises:
      CertificateError: some files are there and others are not: nothing is replaced.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    wanted = ["ca.crt", "ca.key", "server.pem", "server.key"]
    there = [n for n in wanted if (folder / n).exists()]
    if len(there) == len(wanted):
        return
    if there:
        missing = ", ".join(sorted(set(wanted) - set(there)))
        raise CertificateError(
            f"{folder}: {missing} missing beside {', '.join(there)}",
            hint="restore them from a backup; a new authority would lock every client out",
        )
    ca_key, server_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Motet federation authority")])
    ca = (
        _builder(authority, authority, ca_key.public_key(), now, CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(sign_certificates=True), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    alternatives = [_general_name(n) for n in dict.fromkeys([*names, "localhost", "127.0.0.1", "::1"])]
    server = (
        _builder(
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "motet coordinator")]),
            authority,
            server_key.public_key(),
            now,
            SERVER_DAYS,
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(_usage(sign_certificates=False), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    write_private(folder / "ca.key", _pem(ca_key))
    write_private(folder / "server.key", _pem(server_key))
    (folder / "server.pem").write_bytes(server.public_bytes(serialization.Encoding.PEM))
    (folder / "ca.crt").write_bytes(ca.public_bytes(serialization.Encoding.PEM))


def write_private(path: Path, data: bytes) -> None:
    """Write a secret that only this user can read."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(data)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime.datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def _usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )

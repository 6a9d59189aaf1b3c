"""A small certificate authority of the coordinator's own: made once, never silently again.

P-256 certificates (gRPC for Python refuses Ed25519 ones) for the gateway, the SuperLink and the control API, and for
people and clients (``coordinator.authority``). The authority's key stays in the home folder (mode 0600).
"""

from __future__ import annotations

import datetime
import fcntl
import ipaddress
import os
import secrets
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from motet.errors import MotetError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

CA_DAYS = 3650
SERVER_DAYS = 397
RENEW_SERVER_DAYS = 60  # before its end
SKEW = datetime.timedelta(minutes=5)  # certificates begin that much earlier, for clocks that run behind


class CertificateError(MotetError):
    """Certificates are missing, incomplete or expired."""

    exit_code = 7


def ensure_certificates(folder: Path, names: Sequence[str], now: datetime.datetime) -> None:
    """Make ``ca.crt``, ``ca.key``, ``server.pem``, ``server.key`` unless they are there.

    ``server.pem`` holds the server's certificate and the authority's after it, so that who has the authority's pin
    can check both. The server's certificate is made anew, for the key that is there, when it ends within 60 days, lacks
    one of ``names`` or stands alone; the authority never is.

    Args:
      folder: made with mode 0700.
      names: host names and IP addresses that clients use; loopback is always among them.
      now: timezone-aware.

    Raises:
      CertificateError: some files are there and others are not: nothing is replaced. Or a file is damaged.
    """
    wanted = ["ca.crt", "ca.key", "server.pem", "server.key"]
    with _alone(folder):
        there = [n for n in wanted if (folder / n).exists()]
        if there and len(there) < len(wanted):
            missing = ", ".join(sorted(set(wanted) - set(there)))
            raise CertificateError(
                f"{folder}: {missing} missing beside {', '.join(there)}",
                hint="restore them from a backup; a new authority would lock every client out",
            )
        if there:
            _keep_server_certificate(folder, names, now)
        else:
            _make_all(folder, names, now)


def _make_all(folder: Path, names: Sequence[str], now: datetime.datetime) -> None:
    """All four files, in a folder beside, then renamed: whole or not there."""
    ca_key, server_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Motet federation authority")])
    ca = (
        leaf_builder(subject, subject, ca_key.public_key(), now, datetime.timedelta(days=CA_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(key_usage(sign_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    staging = folder.with_name(f".{folder.name}-{secrets.token_hex(4)}")
    staging.mkdir(mode=0o700)
    try:
        write_private(staging / "ca.key", _pem(ca_key))
        write_private(staging / "server.key", _pem(server_key))
        (staging / "ca.crt").write_bytes(ca.public_bytes(serialization.Encoding.PEM))
        _write_server_certificate(staging, ca, ca_key, server_key.public_key(), names, now)
        staging.rename(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _keep_server_certificate(folder: Path, names: Sequence[str], now: datetime.datetime) -> None:
    try:
        chain = x509.load_pem_x509_certificates((folder / "server.pem").read_bytes())
        key = serialization.load_pem_private_key((folder / "server.key").read_bytes(), None)
        told = chain[0].extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, TypeError, x509.ExtensionNotFound, UnsupportedAlgorithm) as e:
        raise CertificateError(
            f"{folder}: server.pem or server.key is damaged", hint="restore them from a backup"
        ) from e
    wanted = _alternatives(names)
    fresh = chain[0].not_valid_after_utc - now > datetime.timedelta(days=RENEW_SERVER_DAYS)
    if fresh and len(chain) > 1 and all(name in told for name in wanted):
        return
    ca, ca_key = load_authority(folder)
    kept = [name for name in told if isinstance(name, x509.DNSName | x509.IPAddress)]
    _write_server_certificate(folder, ca, ca_key, key.public_key(), names, now, also=kept)


def _write_server_certificate(
    folder: Path,
    ca: x509.Certificate,
    ca_key: ec.EllipticCurvePrivateKey,
    public_key: object,
    names: Sequence[str],
    now: datetime.datetime,
    *,
    also: Sequence[x509.GeneralName] = (),
) -> None:
    if not isinstance(public_key, ec.EllipticCurvePublicKey):
        raise CertificateError(
            f"{folder}: server.key is no elliptic-curve key", hint="restore it from a backup"
        )
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "motet coordinator")])
    names_of_server = list(dict.fromkeys([*_alternatives(names), *also]))
    server = (
        leaf_builder(subject, ca.subject, public_key, now, datetime.timedelta(days=SERVER_DAYS))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names_of_server), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(key_usage(sign_certificates=False), critical=True)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
        )
        .sign(ca_key, hashes.SHA256())
    )
    staging = folder / "server.pem.new"
    staging.write_bytes(
        server.public_bytes(serialization.Encoding.PEM) + ca.public_bytes(serialization.Encoding.PEM)
    )
    staging.rename(folder / "server.pem")


def load_authority(folder: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """The authority's certificate and key.

    Raises:
      CertificateError: they are missing or damaged.
    """
    try:
        ca = x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes())
        key = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), None)
    except OSError as e:
        raise CertificateError(
            f"{folder}: no authority there ({e.strerror})", hint="make it: motet ca init --home HOME"
        ) from e
    except (ValueError, TypeError, UnsupportedAlgorithm) as e:
        raise CertificateError(
            f"{folder}: ca.crt or ca.key is damaged", hint="restore them from a backup"
        ) from e
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != ca.public_key():
        raise CertificateError(
            f"{folder}: ca.key is not the key of ca.crt", hint="restore both from one backup"
        )
    return ca, key


def write_private(path: Path, data: bytes) -> None:
    """Write a secret that only this user can read, in a new file: what was there is removed, a link not followed.

    Raises:
      OSError: it can not be written, or somebody else was first to make a file there.
    """
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)


def leaf_builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    now: datetime.datetime,
    lifetime: datetime.timedelta,
) -> x509.CertificateBuilder:
    """A certificate without extensions, valid from five minutes ago."""
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(now + lifetime)
    )


def key_usage(*, sign_certificates: bool) -> x509.KeyUsage:
    """Sign certificates, or handshakes; nothing else."""
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


def _alternatives(names: Sequence[str]) -> list[x509.GeneralName]:
    return [_general_name(n) for n in dict.fromkeys([*names, "localhost", "127.0.0.1", "::1"])]


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Two commands that start in one new home make one authority."""
    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with folder.with_name(f".{folder.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield

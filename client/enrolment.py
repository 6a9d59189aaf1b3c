"""Enrol with a token, and renew: keys are made here and stay here, files are whole or not there.

A home that is enrolled holds, beside ``client.key``, ``identity/`` (``motet.identity``) and ``join.json``. The
certificate is written last. Killed anywhere, the same command with the same token goes on: it finds the keys that it
made, and the coordinator gives those keys the same answer again.
"""

from __future__ import annotations

import datetime
import json
import logging
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from client.authority_link import EnrolmentError, call_enrol, call_renew, fetch_authority
from client.files import write_durably
from client.keys import init_key, load_key, write_key
from motet.enrolment import EnrolRequest, parse_token, possession_statement
from motet.errors import MotetError
from motet.identity import (
    AUTHORITY,
    CERTIFICATE,
    FACTS,
    KEY,
    IdentityError,
    facts_json,
    federation_of,
    identity_of,
    load_identity,
)
from motet.identity_folder import certificate_request

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable
    from pathlib import Path

    from motet.enrolment import EnrolmentToken, EnrolResponse
    from motet.identity import Identity

log = logging.getLogger(__name__)
FOLDER, JOIN = "identity", "join.json"
RENEW_CHECK_S = 600.0


def enrol(home: Path, token_text: str) -> Identity:
    """Make this client's keys, spend the token, and write what the coordinator answers.

    Args:
      home: this client's folder; made with mode 0700.
      token_text: from ``motet ca token``.

    Returns:
      the client's identity.

    Raises:
      TokenError: it is no token.
      EnrolmentError: the coordinator is not the token's, does not answer, or refuses; or the home is another client's.
    """
    token = parse_token(token_text)
    folder = home / FOLDER
    _check_is_ours(folder, token)
    try:
        fleet_public = init_key(home).read_bytes().decode("ascii")
        folder.mkdir(exist_ok=True, mode=0o700)
        if not (folder / KEY).exists():
            write_key(folder / KEY, ec.generate_private_key(ec.SECP256R1()))
    except OSError as e:
        raise EnrolmentError(
            f"{home} can not be written: {e.strerror}", hint="check its rights and the disk"
        ) from e
    key, fleet = _load(folder / KEY), load_key(home)
    authority_pem = fetch_authority(token.address, token.pin)
    csr = certificate_request(key, token.name)
    statement = possession_statement(token.token_id, csr, fleet_public)
    answer = call_enrol(
        token.address,
        authority_pem,
        EnrolRequest(
            token=token_text,
            csr_pem=csr,
            fleet_public_key_pem=fleet_public,
            proof_of_possession=fleet.sign(statement, ec.ECDSA(hashes.SHA384())),
            software_version=_version(),
        ),
    )
    _check_answer(answer, token, authority_pem, key)
    try:
        _write(home, answer, authority_pem)
    except OSError as e:
        raise EnrolmentError(
            f"{home} can not be written: {e.strerror}", hint="mend that, then enrol again with the same token"
        ) from e
    return load_identity(folder)


def renew(home: Path) -> Identity:
    """Replace the certificate by a new one for the same key and name.

    Raises:
      IdentityError: the home is not enrolled, or the certificate has ended.
      EnrolmentError: the coordinator does not answer, or refuses.
    """
    identity = load_identity(home / FOLDER)
    if not identity.control:
        raise EnrolmentError(f"{home} does not know the control API", hint="enrol again with a new token")
    key = _load(identity.key_path)
    told = call_renew(identity, certificate_request(key, identity.name))
    authority = x509.load_pem_x509_certificate(identity.authority_path.read_bytes())
    _check_certificate(told.certificate_pem, authority, key, identity.name)
    write_durably(identity.certificate_path, told.certificate_pem.encode("ascii"))
    return load_identity(home / FOLDER)


def certificate_end(identity: Identity) -> datetime.datetime:
    """When the certificate ends, UTC."""
    return x509.load_pem_x509_certificate(identity.certificate_path.read_bytes()).not_valid_after_utc


def needs_renewal(identity: Identity, now: datetime.datetime) -> bool:
    """Whether less than a third of the certificate's life is left."""
    certificate = x509.load_pem_x509_certificate(identity.certificate_path.read_bytes())
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return end - now < (end - begin) / 3


def keep_renewed(
    home: Path,
    stop: threading.Event,
    *,
    now: Callable[[], datetime.datetime] = lambda: datetime.datetime.now(datetime.UTC),
    every_s: float = RENEW_CHECK_S,
) -> None:
    """Renew whenever it is time, until ``stop``; what goes wrong is logged and tried again. For a thread of its own."""
    while (home / FOLDER / CERTIFICATE).exists():
        try:
            if needs_renewal(load_identity(home / FOLDER, now=now()), now()):
                renew(home)
                log.info("the certificate of this client was renewed")
        except MotetError as e:
            log.warning("the certificate of this client could not be renewed: %s", e.message)
        except (OSError, ValueError) as e:
            log.warning("the certificate of this client could not be renewed: %s", type(e).__name__)
        if stop.wait(every_s):
            return


def _check_is_ours(folder: Path, token: EnrolmentToken) -> None:
    try:
        told = json.loads((folder / FACTS).read_text(encoding="utf-8"))["name"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    if told != token.name:
        raise EnrolmentError(
            f"{folder.parent} belongs to client {told}, the token is for {token.name}",
            hint="choose another --home",
        )


def _load(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as e:
        raise EnrolmentError(
            f"{path} can not be read as a key", hint="restore it, or enrol in a new --home with a new token"
        ) from e
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp256r1":
        raise EnrolmentError(f"{path} is no P-256 key", hint="enrol in a new --home with a new token")
    return key


def _check_answer(
    answer: EnrolResponse, token: EnrolmentToken, authority_pem: str, key: ec.EllipticCurvePrivateKey
) -> None:
    authority = x509.load_pem_x509_certificate(authority_pem.encode())
    _check_certificate(answer.certificate_pem, authority, key, token.name)
    if not (answer.join.address and answer.join.gateway_ca_pem and answer.join.bundle_sha256):
        raise EnrolmentError(
            "the coordinator did not say how to join", hint="ask the operator to look at its version"
        )


def _check_certificate(
    pem: str, authority: x509.Certificate, key: ec.EllipticCurvePrivateKey, name: str
) -> None:
    """The certificate is of this key, this name, and this authority."""
    try:
        certificate = x509.load_pem_x509_certificate(pem.encode())
        certificate.verify_directly_issued_by(authority)
        is_ours = identity_of(certificate) == (federation_of(authority), "client", name)
    except (ValueError, TypeError, InvalidSignature, IdentityError):
        is_ours = False
    if not is_ours or certificate.public_key() != key.public_key():
        raise EnrolmentError(
            "the coordinator answered with a certificate that is not this client's; it was not kept",
            hint="ask the operator; nothing was changed here",
        )


def _write(home: Path, answer: EnrolResponse, authority_pem: str) -> None:
    folder = home / FOLDER
    facts = facts_json(
        federation=answer.federation, role="client", name=answer.name, control=answer.join.control_address
    )
    join = {
        "address": answer.join.address,
        "ca": answer.join.gateway_ca_pem,
        "bundle_sha256": answer.join.bundle_sha256,
    }
    write_durably(folder / AUTHORITY, authority_pem.encode("ascii"))
    write_durably(folder / FACTS, facts)
    write_durably(home / JOIN, (json.dumps(join, indent=2) + "\n").encode())
    write_durably(folder / CERTIFICATE, answer.certificate_pem.encode("ascii"))


def _version() -> str:
    try:
        return version("motet")
    except PackageNotFoundError:
        return ""

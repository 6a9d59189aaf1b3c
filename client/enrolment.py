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

from client.authority_link import (
    CALL_TIMEOUT_S,
    EnrolmentError,
    UnansweredError,
    call_enrol,
    call_renew,
    call_renew_signed,
    fetch_authority,
)
from client.keys import init_key, load_key, write_key
from motet.durable import write_whole
from motet.enrolment import EnrolRequest, parse_token, possession_statement
from motet.errors import MotetError
from motet.identity import (
    AUTHORITY,
    CERTIFICATE,
    FACTS,
    KEY,
    IdentityError,
    authority_pin,
    facts_json,
    federation_of,
    identity_of,
    load_identity,
)
from motet.identity_folder import certificate_request
from motet.renewal import RenewSignedRequest, renewal_statement

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable
    from pathlib import Path

    from motet.enrolment import EnrolmentToken, EnrolResponse, RenewResponse
    from motet.identity import Identity

log = logging.getLogger(__name__)


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


FOLDER, JOIN = "identity", "join.json"
RENEW_CHECK_S = 600.0
CONTROL_TIMEOUT_S = 20.0  # where the enrolment address may answer in its place


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
        _write(home, answer, authority_pem, token.address)
    except OSError as e:
        raise EnrolmentError(
            f"{home} can not be written: {e.strerror}", hint="mend that, then enrol again with the same token"
        ) from e
    return load_identity(folder)


def renew(home: Path, *, address: str = "", now: Callable[[], datetime.datetime] = _now) -> Identity:
    """Replace the certificate by the next one for the same key and name.

    The control API is asked first, and the enrolment address where it does not answer. The latter gives a certificate
    again that has two thirds of its life left.

    Args:
      home: of an enrolled client.
      address: ``host:port`` of enrolment, remembered once it has answered; what the token said by default.
      now: timezone-aware.

    Raises:
      IdentityError: the home is not enrolled, or the certificate has ended.
      EnrolmentError: the coordinator does not answer, or refuses.
    """
    identity = load_identity(home / FOLDER, now=now())
    key = _load(identity.key_path)
    told = _ask(identity, key, address, now)
    authority = x509.load_pem_x509_certificate(identity.authority_path.read_bytes())
    _check_certificate(told.certificate_pem, authority, key, identity.name)
    write_whole(identity.certificate_path, told.certificate_pem.encode("ascii"))
    if address:
        write_whole(identity.folder / FACTS, _facts(identity, address))
    return load_identity(home / FOLDER, now=now())


def _ask(
    identity: Identity,
    key: ec.EllipticCurvePrivateKey,
    address: str,
    now: Callable[[], datetime.datetime],
) -> RenewResponse:
    """The next certificate, from whichever address answers."""
    there = address or identity.enrolment
    if identity.control and not address:
        request = certificate_request(key, identity.name)
        try:
            return call_renew(identity, request, timeout_s=CONTROL_TIMEOUT_S if there else CALL_TIMEOUT_S)
        except UnansweredError as e:
            if not there:
                hint = "try again, or name where enrolment is: motet client renew --address HOST:PORT"
                raise EnrolmentError(e.message, hint=hint) from e
            log.info("the control API is not reached; the enrolment address is asked")
    if not there:
        raise EnrolmentError(
            f"{identity.folder} knows no address of the coordinator",
            hint="motet client renew --address HOST:PORT, as in the token",
        )
    authority_pem = identity.authority_path.read_text(encoding="ascii")
    pin = authority_pin(x509.load_pem_x509_certificate(authority_pem.encode()))
    certificate_pem = identity.certificate_path.read_text(encoding="ascii")
    der = x509.load_pem_x509_certificate(certificate_pem.encode()).public_bytes(serialization.Encoding.DER)
    signed_at = int(now().timestamp())
    statement = renewal_statement(identity.federation, pin, der, signed_at)
    return call_renew_signed(
        there,
        authority_pem,
        RenewSignedRequest(
            certificate_pem=certificate_pem,
            signed_at=signed_at,
            signature=key.sign(statement, ec.ECDSA(hashes.SHA256())),
        ),
    )


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
    now: Callable[[], datetime.datetime] = _now,
    every_s: float = RENEW_CHECK_S,
) -> None:
    """Renew whenever it is time, until ``stop``; what goes wrong is logged and tried again. For a thread of its own."""
    while (home / FOLDER / CERTIFICATE).exists():
        try:
            if needs_renewal(load_identity(home / FOLDER, now=now()), now()):
                renew(home, now=now)
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


def _facts(identity: Identity, enrolment: str) -> bytes:
    return facts_json(
        federation=identity.federation,
        role=identity.role,
        name=identity.name,
        control=identity.control,
        enrolment=enrolment,
    )


def _write(home: Path, answer: EnrolResponse, authority_pem: str, address: str) -> None:
    folder = home / FOLDER
    facts = facts_json(
        federation=answer.federation,
        role="client",
        name=answer.name,
        control=answer.join.control_address,
        enrolment=address,
    )
    join = {
        "address": answer.join.address,
        "ca": answer.join.gateway_ca_pem,
        "bundle_sha256": answer.join.bundle_sha256,
    }
    write_whole(folder / AUTHORITY, authority_pem.encode("ascii"))
    write_whole(folder / FACTS, facts)
    write_whole(home / JOIN, (json.dumps(join, indent=2) + "\n").encode())
    write_whole(folder / CERTIFICATE, answer.certificate_pem.encode("ascii"))


def _version() -> str:
    try:
        return version("motet")
    except PackageNotFoundError:
        return ""

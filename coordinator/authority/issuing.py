"""Identities for people, made here whole; and certificates for keys that were made elsewhere, by request."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec

from coordinator.authority.authority import LIFETIME, ensure_authority
from coordinator.storage.where import open_store
from motet.identity import IdentityError, check_name, facts_json, load_identity
from motet.identity_folder import write_identity

if TYPE_CHECKING:
    from pathlib import Path

    from motet.identity import Identity

LARGEST_REQUEST = 8192


def issue_identity(
    home: Path,
    role: str,
    name: str,
    folder: Path,
    *,
    control: str = "",
    lifetime: datetime.timedelta = LIFETIME,
    now: datetime.datetime | None = None,
) -> Identity:
    """Make an operator, researcher or auditor: key and certificate, in a folder to hand over.

    The certificate is on record before the folder is there. A folder that holds an identity already is replaced.

    Args:
      home: the coordinator's state folder.
      role: not client, whose keys never leave the machine that made them.
      name: within the role.
      folder: made with mode 0700; new, empty, or an earlier identity.
      control: ``host:port`` of the control API, for whoever gets the folder.
      lifetime: of the certificate.
      now: timezone-aware; the system's clock by default.

    Raises:
      IdentityError: role, name or lifetime can not be used.
      OutputFolderError: the folder can not be written, or holds something else.
      StorageError: the record can not be written.
    """
    check_is_person(role, name)
    now = now or datetime.datetime.now(datetime.UTC)
    authority = ensure_authority(home)
    key = ec.generate_private_key(ec.SECP256R1())
    issued = authority.certify(key.public_key(), role, name, now=now, lifetime=lifetime)
    store = open_store(home)
    try:
        store.identities.record(issued)
    finally:
        store.close()
    facts = facts_json(federation=authority.federation, role=role, name=name, control=control)
    write_identity(folder, key, certificate_pem=issued.pem, authority_pem=authority.pem, facts=facts)
    return load_identity(folder, now=now)


def check_is_person(role: str, name: str) -> None:
    """An identity is made for people and machines; not for clients, whose keys they make themselves.

    Raises:
      IdentityError: a client, or a name that can not be used.
    """
    if role == "client":
        raise IdentityError(
            "a client's keys are made by the client itself",
            hint=f"give it a token: motet ca token --client {name[:63]}",
        )
    check_name(name)


def requested_key(pem: str) -> ec.EllipticCurvePublicKey:
    """The P-256 key of a certificate request whose owner proved to have it. Whatever else it asks for is ignored.

    Raises:
      IdentityError: no such request, a signature that does not fit, or another kind of key.
    """
    hint = "let motet client enrol make the request"
    if len(pem) > LARGEST_REQUEST:
        raise IdentityError("the certificate request is too large", hint=hint)
    try:
        request = x509.load_pem_x509_csr(pem.encode())
        is_signed = request.is_signature_valid
        key = request.public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise IdentityError("the certificate request can not be read", hint=hint) from None
    if not is_signed:
        raise IdentityError("the certificate request is not signed by its own key", hint=hint)
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
        raise IdentityError("the certificate request is not for a P-256 key", hint=hint)
    return key

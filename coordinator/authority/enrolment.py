"""Enrolment without a network: what a token, a certificate request and a proof are answered with.

``coordinator.rpc`` calls this; what it raises travels as an error of its kind. Nothing here logs a token.
"""

from __future__ import annotations

import datetime
import json
import logging
import re
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from coordinator.authority.authority import LIFETIME
from coordinator.authority.issuing import check_is_person, requested_key
from coordinator.authority.renewal import ROLE, refusal, signing_certificate
from motet.enrolment import (
    AdmissionRefusedError,
    EnrolmentToken,
    EnrolResponse,
    JoinInformation,
    RenewResponse,
    keys_sha256,
    parse_token,
    possession_statement,
)
from motet.wire.control import IssueIdentityResponse

if TYPE_CHECKING:
    from pathlib import Path

    from coordinator.authority.authority import Authority
    from coordinator.storage.identities import IssuedCertificate
    from coordinator.storage.store import Store
    from motet.clock import Clock
    from motet.enrolment import EnrolRequest
    from motet.renewal import RenewSignedRequest

log = logging.getLogger(__name__)
SHORTEST_TOKEN_S, LONGEST_TOKEN_S = 60.0, 30 * 86400.0
_LARGEST_KEY = 2048
_ADDRESS = re.compile(r"[!-~]{1,253}:[0-9]{1,5}")  # it travels in a token, between line breaks


class EnrolmentError(AdmissionRefusedError):
    """A request to enrol or renew can not be granted; nothing was changed."""


class Enrolment:
    """Admits clients and renews certificates.

    Args:
      authority: signs.
      store: remembers tokens, certificates and clients.
      home: the coordinator's state folder; its ``join.json`` is what clients get.
      clock: for lifetimes.
      control: ``host:port`` of the control API, for clients.
      lifetime: of certificates.
    """

    def __init__(
        self,
        authority: Authority,
        store: Store,
        home: Path,
        clock: Clock,
        *,
        control: str = "",
        lifetime: datetime.timedelta = LIFETIME,
    ) -> None:
        self._authority, self._store, self._home, self._clock = authority, store, home, clock
        self.control, self._lifetime = control, lifetime

    def issue_token(
        self, name: str, *, address: str, lifetime_s: float = 86400.0, capacity_class: str = ""
    ) -> tuple[EnrolmentToken, float]:
        """A token for a client, and when it ends. It is shown once: only its hash is kept.

        Raises:
          IdentityError: the name can not be used.
          EnrolmentError: the lifetime is not between a minute and 30 days, or the address is none.
        """
        if not SHORTEST_TOKEN_S <= lifetime_s <= LONGEST_TOKEN_S:
            raise EnrolmentError("a token lives a minute to 30 days", hint="for example --lifetime 24h")
        if not _ADDRESS.fullmatch(address):
            raise EnrolmentError(
                "clients can not reach an address of these letters", hint="write it as HOST:PORT"
            )
        token = EnrolmentToken.new(pin=self._authority.pin, address=address, name=name)
        ends = self._store.identities.add_token(
            token.token_id, token.secret, name, lifetime_s=lifetime_s, capacity_class=capacity_class
        )
        return token, ends

    def enrol(self, request: EnrolRequest) -> EnrolResponse:
        """Spend a token. The same keys with the same token get the same certificate again.

        Raises:
          TokenError: the token is none.
          TokenRefusedError: it is unknown, out of date, revoked, or used by other keys.
          IdentityError: the certificate request is not signed by a P-256 key of its own.
          EnrolmentError: the fleet key is no P-384 key, or its owner did not prove to have it.
          RevokedKeyError: the fleet key was revoked.
        """
        token = parse_token(request.token)
        key = requested_key(request.csr_pem)
        fleet = _fleet_key(request.fleet_public_key_pem)
        statement = possession_statement(token.token_id, request.csr_pem, request.fleet_public_key_pem)
        try:
            fleet.verify(request.proof_of_possession, statement, ec.ECDSA(hashes.SHA384()))
        except InvalidSignature:
            raise EnrolmentError(
                "the client did not prove that it has the private half of its key",
                hint="motet client enrol does",
            ) from None
        join = self._join()
        public = _pem(fleet)
        spki = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        issued = self._store.identities.redeem(
            token.token_id,
            token.secret,
            public_key=public,
            keys_sha256=keys_sha256(spki, public),
            issue=lambda name: self._certify(key, "client", name),
        )
        log.info("client %s is enrolled with certificate %s", issued.name, issued.serial)
        return EnrolResponse(
            certificate_pem=issued.pem,
            ca_pem=self._authority.pem,
            federation=self._authority.federation,
            role=issued.role,
            name=issued.name,
            not_after=issued.not_after,
            join=join,
        )

    def renew(self, role: str, name: str, serial: int | str, csr_pem: str) -> RenewResponse:
        """A new certificate for somebody whose present one was verified by the connection.

        Args:
          role: of the present certificate.
          name: of the present certificate.
          serial: of the present certificate; it stays good until its end.
          csr_pem: for the key of the new one, which may be the old one's.

        Raises:
          EnrolmentError: the present certificate is revoked, or was while this was under way.
          IdentityError: the request is not signed by a P-256 key of its own.
        """
        key = requested_key(csr_pem)
        issued = self._certify(key, role, name)
        if not self._store.identities.record_next(serial, issued):
            raise EnrolmentError("the certificate was revoked", hint="ask the operator for a new token")
        log.info("%s %s has a new certificate %s", role, name, issued.serial)
        return RenewResponse(
            certificate_pem=issued.pem, ca_pem=self._authority.pem, not_after=issued.not_after
        )

    def renew_signed(self, request: RenewSignedRequest) -> RenewResponse:
        """The next certificate of a client, for the key that signed: a new one, or the newest while it is fresh.

        Fresh is what has two thirds of its life left: the same request again, or any other of that key, is answered
        with the same certificate and adds no row.

        Raises:
          RenewalRefusedError: the certificate is not of a client of this federation, has ended, is revoked or unknown,
            or the request was not signed by its key just now.
        """
        present = signing_certificate(request, self._authority, self._clock.now())
        key = present.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise refusal()
        issued = self._store.identities.following(
            present.serial_number,
            present.fingerprint(hashes.SHA256()).hex(),
            is_same_key=lambda pem: x509.load_pem_x509_certificate(pem.encode()).public_key() == key,
            issue=lambda name: self._certify(key, ROLE, name),
        )
        if issued is None:
            raise refusal()
        log.info("client %s has certificate %s, by its signature", issued.name, issued.serial)
        return RenewResponse(
            certificate_pem=issued.pem, ca_pem=self._authority.pem, not_after=issued.not_after
        )

    def issue(self, role: str, name: str, csr_pem: str, *, lifetime_s: float = 0.0) -> IssueIdentityResponse:
        """A certificate for a person's key, which its owner has made; on record before it is handed out.

        Args:
          role: operator, researcher or auditor.
          name: within the role.
          csr_pem: request that is signed by the key.
          lifetime_s: seconds; 0 is that of every certificate.

        Raises:
          IdentityError: role, name, lifetime or request can not be used.
        """
        check_is_person(role, name)
        key = requested_key(csr_pem)
        lifetime = datetime.timedelta(seconds=lifetime_s) if lifetime_s else None
        issued = self._certify(key, role, name, lifetime)
        self._store.identities.record(issued)
        log.info("%s %s has certificate %s", role, name, issued.serial)
        return IssueIdentityResponse(
            certificate_pem=issued.pem,
            ca_pem=self._authority.pem,
            federation=self._authority.federation,
            not_after=issued.not_after,
            control_address=self.control,
        )

    def _certify(
        self,
        key: ec.EllipticCurvePublicKey,
        role: str,
        name: str,
        lifetime: datetime.timedelta | None = None,
    ) -> IssuedCertificate:
        now = datetime.datetime.fromtimestamp(self._clock.now(), datetime.UTC)
        return self._authority.certify(key, role, name, now=now, lifetime=lifetime or self._lifetime)

    def _join(self) -> JoinInformation:
        try:
            told = json.loads((self._home / "join.json").read_text(encoding="utf-8"))
            return JoinInformation(
                address=told["address"],
                gateway_ca_pem=told["ca"],
                bundle_sha256=told["bundle_sha256"],
                control_address=self.control,
            )
        except (OSError, ValueError, KeyError, TypeError):
            raise EnrolmentError(
                "the coordinator does not serve clients yet", hint="try again when it is ready"
            ) from None


def _fleet_key(pem: str) -> ec.EllipticCurvePublicKey:
    try:
        key = serialization.load_pem_public_key(pem.encode()) if len(pem) <= _LARGEST_KEY else None
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp384r1":
        raise EnrolmentError("the fleet key is no P-384 public key", hint="motet client enrol makes it")
    return key


def _pem(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)

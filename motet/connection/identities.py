"""Who belongs to the federation, in Python."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric import ec

from motet.connection.calls import Calls
from motet.folders import check_replaceable
from motet.identity import FACTS, IdentityError, check_name, facts_json, load_identity
from motet.identity_folder import certificate_request, check_same_holder, write_identity
from motet.wire.control import (
    IdentityRecord,
    IssueIdentityResponse,
    IssueTokenResponse,
    RevokeIdentityResponse,
)
from motet.wire.v1 import control_pb2

if TYPE_CHECKING:
    from motet.identity import Identity


class IdentityCalls(Calls):
    """Tokens, certificates, revocation: for operators; auditors may list."""

    service = "EnrolmentService"

    def list(self) -> tuple[IdentityRecord, ...]:
        """All certificates, oldest first."""
        request = control_pb2.ListIdentitiesRequest()
        return tuple(self._pages(IdentityRecord, "ListIdentities", "identities", request))

    def token(
        self, client_id: str, *, lifetime_s: float = 86400.0, capacity_class: str = "", address: str = ""
    ) -> IssueTokenResponse:
        """A token that admits one client once.

        Args:
          client_id: the client's name in recipes.
          lifetime_s: how long it can be used.
          capacity_class: for ranks by class.
          address: HOST:PORT where clients enrol; by default where the coordinator listens for them.

        Raises:
          IdentityError: the name can not be used.
          AdmissionRefusedError: a token lives a minute to 30 days.
          BadRequestError: no coordinator listens for clients, and no address is given.
        """
        request = control_pb2.IssueTokenRequest(
            role="client",
            name=client_id,
            lifetime_s=lifetime_s,
            capacity_class=capacity_class,
            enrol_address=address,
        )
        return self._one(IssueTokenResponse, "IssueToken", request)

    def issue(self, role: str, name: str, folder: Path | str, *, lifetime_s: float = 0.0) -> Identity:
        """Make an identity for a person: the key is made here, and only a request for a certificate leaves.

        Args:
          role: operator, researcher or auditor.
          name: within the role.
          folder: to hand over; new, empty, or an earlier identity of the same role and name, which is replaced.
          lifetime_s: of the certificate; 0 is 30 days.

        Raises:
          IdentityError: role, name, lifetime or folder can not be used.
        """
        place = Path(folder)
        check_replaceable(place, FACTS, IdentityError)
        check_same_holder(place, role, name)
        check_name(name)
        key = ec.generate_private_key(ec.SECP256R1())
        request = control_pb2.IssueIdentityRequest(
            role=role, name=name, csr_pem=certificate_request(key, name), lifetime_s=lifetime_s
        )
        made = self._one(IssueIdentityResponse, "IssueIdentity", request)
        facts = facts_json(
            federation=made.federation,
            role=role,
            name=name,
            control=made.control_address,
        )
        write_identity(
            place, key, certificate_pem=made.certificate_pem, authority_pem=made.ca_pem, facts=facts
        )
        return load_identity(place)

    def revoke(
        self, name: str = "", *, serial: str = "", role: str = "", reason: str = ""
    ) -> RevokeIdentityResponse:
        """Take back all that somebody has, or with ``serial`` one certificate.

        Raises:
          NotFoundError: nobody has that name, or several roles have it and none is named.
          BadRequestError: no certificate has that serial.
        """
        request = control_pb2.RevokeIdentityRequest(name=name, serial=serial, role=role, reason=reason)
        return self._one(RevokeIdentityResponse, "RevokeIdentity", request)

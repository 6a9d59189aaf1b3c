"""Who belongs to the federation: tokens, enrolment, renewal, revocation. The rules are in ``coordinator.authority``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordinator.rpc.interceptors import calling
from coordinator.rpc.pages import page
from motet.connection.errors import BadRequestError
from motet.enrolment import EnrolRequest
from motet.identity import ROLES
from motet.renewal import RenewSignedRequest
from motet.wire.control_codec import encode
from motet.wire.v1 import control_pb2, control_pb2_grpc

if TYPE_CHECKING:
    import grpc

    from coordinator.authority.enrolment import Enrolment
    from coordinator.storage.identities import Identities
    from motet.addresses import Addresses

TOKEN_LIFETIME_S = 86400.0


class EnrolmentServicer(control_pb2_grpc.EnrolmentServiceServicer):
    """See proto/motet/v1/control.proto.

    Args:
      enrolment: admits and renews; None in a home that has no authority yet.
      identities: of the same store.
    """

    def __init__(self, enrolment: Enrolment | None, identities: Identities) -> None:
        self._made, self._identities = enrolment, identities
        self.address = ""  # where clients enrol; empty where nobody listens for them

    def serve_at(self, addresses: Addresses) -> None:
        """Tell clients these addresses from now on."""
        self.address = addresses.enrolment
        if self._made is not None:
            self._made.control = addresses.control

    @property
    def _enrolment(self) -> Enrolment:
        if self._made is None:
            raise BadRequestError("this home has no authority yet", hint="make it: motet ca init")
        return self._made

    def Enrol(  # noqa: N802 - the contract's name
        self, request: control_pb2.EnrolRequest, _context: grpc.ServicerContext
    ) -> control_pb2.EnrolResponse:
        """Spend a token."""
        answer = self._enrolment.enrol(
            EnrolRequest(
                token=request.token,
                csr_pem=request.csr_pem,
                fleet_public_key_pem=request.fleet_public_key_pem,
                proof_of_possession=request.proof_of_possession,
                software_version=request.software_version,
            )
        )
        message: control_pb2.EnrolResponse = encode(answer)
        return message

    def Renew(  # noqa: N802
        self, request: control_pb2.RenewRequest, _context: grpc.ServicerContext
    ) -> control_pb2.RenewResponse:
        """A new certificate for whoever calls."""
        peer = calling().peer
        answer = self._enrolment.renew(peer.role, peer.name, peer.serial, request.csr_pem)
        message: control_pb2.RenewResponse = encode(answer)
        return message

    def RenewSigned(  # noqa: N802
        self, request: control_pb2.RenewSignedRequest, _context: grpc.ServicerContext
    ) -> control_pb2.RenewResponse:
        """The next certificate of whoever signed."""
        answer = self._enrolment.renew_signed(
            RenewSignedRequest(
                certificate_pem=request.certificate_pem,
                signed_at=request.signed_at,
                signature=request.signature,
            )
        )
        message: control_pb2.RenewResponse = encode(answer)
        return message

    def IssueToken(  # noqa: N802
        self, request: control_pb2.IssueTokenRequest, _context: grpc.ServicerContext
    ) -> control_pb2.IssueTokenResponse:
        """A token for a client."""
        if request.role not in {"", "client"}:
            raise BadRequestError(
                "tokens are for clients",
                hint="on the coordinator's machine: motet ca issue --role ROLE --name NAME",
            )
        address = request.enrol_address or self.address
        if not address:
            raise BadRequestError(
                "nobody listens for clients here",
                hint="start the coordinator, or give --address HOST:PORT, where clients reach it for enrolment",
            )
        token, ends = self._enrolment.issue_token(
            request.name,
            address=address,
            lifetime_s=request.lifetime_s or TOKEN_LIFETIME_S,
            capacity_class=request.capacity_class,
        )
        return control_pb2.IssueTokenResponse(token=token.encode(), not_after=ends, enrol_address=address)

    def IssueIdentity(  # noqa: N802
        self, request: control_pb2.IssueIdentityRequest, _context: grpc.ServicerContext
    ) -> control_pb2.IssueIdentityResponse:
        """A certificate for a person's key."""
        answer = self._enrolment.issue(
            request.role, request.name, request.csr_pem, lifetime_s=request.lifetime_s
        )
        message: control_pb2.IssueIdentityResponse = encode(answer)
        return message

    def ListIdentities(  # noqa: N802
        self, request: control_pb2.ListIdentitiesRequest, _context: grpc.ServicerContext
    ) -> control_pb2.ListIdentitiesResponse:
        """All certificates, oldest first."""
        rows = self._identities.certificates()
        found, token = page(rows, request, lambda r: (r.issued_at, r.serial), (float, str))
        records = [
            control_pb2.IdentityRecord(
                role=row.role,
                name=row.name,
                serial=row.serial,
                issued_at=row.issued_at,
                not_after=row.not_after,
                revoked_at=row.revoked_at or 0.0,
                revocation_reason=row.reason,
                fingerprint=row.fingerprint,
            )
            for row in found
        ]
        return control_pb2.ListIdentitiesResponse(identities=records, next_page_token=token)

    def RevokeIdentity(  # noqa: N802
        self, request: control_pb2.RevokeIdentityRequest, _context: grpc.ServicerContext
    ) -> control_pb2.RevokeIdentityResponse:
        """Take back one certificate, or all that somebody has."""
        if request.serial:
            if not self._identities.has_serial(request.serial):
                raise BadRequestError("no certificate has that serial", hint="see them: motet ca list")
            revoked = self._identities.revoke_serial(request.serial, request.reason)
        else:
            if request.role and request.role not in ROLES:
                raise BadRequestError("there is no such role", hint=f"one of {', '.join(ROLES)}")
            revoked = self._identities.revoke_name(request.name, request.reason, role=request.role)
        return control_pb2.RevokeIdentityResponse(
            serials=revoked.serials,
            role=revoked.role,
            name=revoked.name,
            is_client_out=revoked.is_client_out,
        )

"""Who belongs to the federation, in Python."""

from __future__ import annotations

from motet.connection.calls import Calls
from motet.wire.control import IdentityRecord, IssueTokenResponse
from motet.wire.v1 import control_pb2


class IdentityCalls(Calls):
    """Tokens, certificates, revocation: for operators; auditors may list."""

    service = "EnrolmentService"

    def list(self) -> tuple[IdentityRecord, ...]:
        """All certificates, oldest first."""
        request = control_pb2.ListIdentitiesRequest()
        return tuple(self._pages(IdentityRecord, "ListIdentities", "identities", request))

    def token(
        self, client_id: str, *, lifetime_s: float = 86400.0, capacity_class: str = ""
    ) -> IssueTokenResponse:
        """A token that admits one client once.

        Raises:
          IdentityError: the name can not be used.
          AdmissionRefusedError: a token lives a minute to 30 days.
        """
        request = control_pb2.IssueTokenRequest(
            role="client", name=client_id, lifetime_s=lifetime_s, capacity_class=capacity_class
        )
        return self._one(IssueTokenResponse, "IssueToken", request)

    def revoke(
        self, name: str = "", *, serial: str = "", role: str = "", reason: str = ""
    ) -> tuple[str, ...]:
        """Take back all that somebody has, or with ``serial`` one certificate; returns the serials.

        Raises:
          NotFoundError: nobody has that name, or several roles have it and none is named.
          BadRequestError: no certificate has that serial.
        """
        request = control_pb2.RevokeIdentityRequest(name=name, serial=serial, role=role, reason=reason)
        return tuple(self._channel.call(self.service, "RevokeIdentity", request).serials)

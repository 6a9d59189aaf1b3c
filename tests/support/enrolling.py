"""A client's keys and its request, as ``motet client enrol`` makes them; and a coordinator that answers."""

import dataclasses
import json
from concurrent import futures

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from motet.enrolment import EnrolRequest, parse_token, possession_statement
from motet.errors import MotetError
from motet.identity import authority_pin, federation_of, identity_of
from motet.renewal import RenewSignedRequest, renewal_statement
from motet.wire.v1 import control_pb2, control_pb2_grpc


def public_pem(key):
    return key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def request_pem(key):
    """A certificate request by ``key``."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "whoever")])
    made = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    return made.public_bytes(serialization.Encoding.PEM).decode()


def signed_renewal(certificate, key, authority, signed_at, *, federation="", pin=""):
    """A request for what follows ``certificate``, signed by ``key`` for the federation of ``authority``."""
    der = certificate.public_bytes(serialization.Encoding.DER)
    statement = renewal_statement(
        federation or federation_of(authority), pin or authority_pin(authority), der, signed_at
    )
    return RenewSignedRequest(
        certificate_pem=certificate.public_bytes(serialization.Encoding.PEM).decode(),
        signed_at=signed_at,
        signature=key.sign(statement, ec.ECDSA(hashes.SHA256())),
    )


class Keys:
    """Both keys of one client."""

    def __init__(self):
        self.own = ec.generate_private_key(ec.SECP256R1())
        self.fleet = ec.generate_private_key(ec.SECP384R1())

    def request(self, token, /, *, signer=None, **changes):
        """A request with ``token`` (text); ``signer`` signs the proof in place of the fleet key."""
        csr, public = request_pem(self.own), public_pem(self.fleet).decode()
        statement = possession_statement(parse_token(token).token_id, csr, public)
        proof = (signer or self.fleet).sign(statement, ec.ECDSA(hashes.SHA384()))
        fields = {
            "token": token,
            "csr_pem": csr,
            "fleet_public_key_pem": public,
            "proof_of_possession": proof,
        }
        return EnrolRequest(**fields | changes)


class Coordinator:
    """Enrolment served as a coordinator does: one port for strangers, one for those who have a certificate.

    ``seen``: calls that reached the service. ``swallowed``: answers that are lost on the way, to come.
    """

    def __init__(self, home, **options):
        from coordinator.authority import ensure_authority
        from coordinator.authority.enrolment import Enrolment
        from coordinator.storage.where import open_store
        from motet.clock import SystemClock

        home.mkdir(parents=True)
        self.home, self.seen, self.swallowed = home, [], 0
        self.authority = ensure_authority(home)
        join = {"address": "127.0.0.1:1", "ca": self.authority.pem, "bundle_sha256": "b" * 64}
        (home / "join.json").write_text(json.dumps(join))
        self.store = open_store(home)
        credentials = [(home / "tls/server.key").read_bytes(), (home / "tls/server.pem").read_bytes()]
        self.servers, ports = [], []
        for root in (None, (home / "tls/ca.crt").read_bytes()):
            server = grpc.server(futures.ThreadPoolExecutor(4))
            made = grpc.ssl_server_credentials(
                [tuple(credentials)], root, require_client_auth=root is not None
            )
            ports.append(f"127.0.0.1:{server.add_secure_port('127.0.0.1:0', made)}")
            self.servers.append(server)
        self.address, self.control = ports
        self.enrolment = Enrolment(
            self.authority, self.store, home, SystemClock(), control=self.control, **options
        )
        for server in self.servers:
            control_pb2_grpc.add_EnrolmentServiceServicer_to_server(self, server)
            server.start()

    def token(self, name="ward-a", **options):
        """A fresh token, as text."""
        return self.enrolment.issue_token(name, address=self.address, **options)[0].encode()

    def Enrol(self, request, context):  # noqa: N802
        self.seen.append("Enrol")
        fields = {
            f: getattr(request, f)
            for f in ("token", "csr_pem", "fleet_public_key_pem", "proof_of_possession")
        }
        told = self._told(lambda: self.enrolment.enrol(EnrolRequest(**fields)), context)
        if self.swallowed:
            self.swallowed -= 1
            context.abort(grpc.StatusCode.UNAVAILABLE, "the answer is lost")
        join = control_pb2.JoinInformation(**dataclasses.asdict(told.join))
        plain = {k: v for k, v in dataclasses.asdict(told).items() if k != "join"}
        return control_pb2.EnrolResponse(**plain, join=join)

    def Renew(self, request, context):  # noqa: N802
        self.seen.append("Renew")
        certificate = x509.load_pem_x509_certificate(next(iter(context.auth_context()["x509_pem_cert"])))
        _, role, name = identity_of(certificate)
        serial = certificate.serial_number
        told = self._told(lambda: self.enrolment.renew(role, name, serial, request.csr_pem), context)
        return control_pb2.RenewResponse(**dataclasses.asdict(told))

    def RenewSigned(self, request, context):  # noqa: N802
        self.seen.append("RenewSigned")
        fields = {f: getattr(request, f) for f in ("certificate_pem", "signed_at", "signature")}
        told = self._told(lambda: self.enrolment.renew_signed(RenewSignedRequest(**fields)), context)
        return control_pb2.RenewResponse(**dataclasses.asdict(told))

    def __getattr__(self, name):
        if name[:1].isupper():
            return lambda _request, context: context.abort(grpc.StatusCode.UNIMPLEMENTED, name)
        raise AttributeError(name)

    def _told(self, act, context):
        try:
            return act()
        except MotetError as e:
            detail = control_pb2.ErrorDetail(kind=type(e).__name__, message=e.message, hint=e.hint)
            context.set_trailing_metadata((("motet-error-bin", detail.SerializeToString()),))
            return context.abort(grpc.StatusCode.PERMISSION_DENIED, e.message)

    def close(self):
        """End the servers."""
        for server in self.servers:
            server.stop(0).wait(10)
        self.store.close()

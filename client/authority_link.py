"""Calls to the coordinator's enrolment service: its authority is checked by the token's pin before anything is sent."""

from __future__ import annotations

import _ssl
import hmac
import socket
import ssl
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from google.protobuf.message import DecodeError

from client.errors import ClientError
from motet.enrolment import EnrolResponse, JoinInformation, RenewResponse
from motet.identity import authority_pin
from motet.ports import split_address
from motet.wire.v1 import control_pb2, control_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Iterator

    from motet.enrolment import EnrolRequest
    from motet.identity import Identity
    from motet.renewal import RenewSignedRequest

HANDSHAKE_TIMEOUT_S = 15.0
CALL_TIMEOUT_S = 60.0
LONGEST_CHAIN = 8
_OPTIONS = (("grpc.max_receive_message_length", 1 << 20), ("grpc.enable_http_proxy", 0))


class EnrolmentError(ClientError):
    """The coordinator is not reached, is another one than the token's, or refuses; the message says which."""

    exit_code = 7
    code = "enrolment"


class UnansweredError(EnrolmentError):
    """Nobody answers at an address, or not in time."""


def fetch_authority(address: str, pin: str) -> str:
    """The certificate (PEM) of the authority behind ``address``, which has to have the pin.

    A handshake only: not a byte of ours follows it.

    Args:
      address: ``host:port``.
      pin: hex SHA-256 of the authority's public key.

    Raises:
      EnrolmentError: nobody answers, or the server's chain holds no such authority.
    """
    host, port = split_address(address)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # the pin decides, below
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    try:
        with (
            socket.create_connection((host, port), HANDSHAKE_TIMEOUT_S) as plain,
            context.wrap_socket(plain, server_hostname=host) as tls,
        ):
            chain = _unverified_chain(tls)
    except (OSError, ValueError) as e:
        raise EnrolmentError(
            f"nobody answers with TLS at {address} ({type(e).__name__})",
            hint="check that the coordinator runs and that this machine reaches it",
        ) from e
    for der in chain[:LONGEST_CHAIN]:
        try:
            certificate = x509.load_der_x509_certificate(der)
        except ValueError:
            continue
        if hmac.compare_digest(authority_pin(certificate), pin):
            return certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")
    raise EnrolmentError(
        f"whoever answers at {address} is not the coordinator that made this token; nothing was sent",
        hint="ask the operator for the address and a new token; somebody may stand in between",
    )


def _unverified_chain(tls: ssl.SSLSocket) -> list[bytes]:
    """DER of the certificates that the server sent."""
    public: Any = getattr(tls, "get_unverified_chain", None)  # from Python 3.13 on
    if public is not None:
        return list(public() or ())
    sent = tls._sslobj.get_unverified_chain() or ()  # type: ignore[attr-defined]  # noqa: SLF001
    return [certificate.public_bytes(_ssl.ENCODING_DER) for certificate in sent]


def call_enrol(address: str, authority_pem: str, request: EnrolRequest) -> EnrolResponse:
    """Spend a token.

    Raises:
      EnrolmentError: the coordinator refuses, or does not answer.
    """
    credentials = grpc.ssl_channel_credentials(authority_pem.encode())
    with _stub(address, credentials) as stub:
        message = control_pb2.EnrolRequest(
            token=request.token,
            csr_pem=request.csr_pem,
            fleet_public_key_pem=request.fleet_public_key_pem,
            proof_of_possession=request.proof_of_possession,
            software_version=request.software_version,
        )
        told = stub.Enrol(message, timeout=CALL_TIMEOUT_S)
    return EnrolResponse(
        certificate_pem=told.certificate_pem,
        ca_pem=told.ca_pem,
        federation=told.federation,
        role=told.role,
        name=told.name,
        not_after=told.not_after,
        join=JoinInformation(
            address=told.join.address,
            gateway_ca_pem=told.join.gateway_ca_pem,
            bundle_sha256=told.join.bundle_sha256,
            control_address=told.join.control_address,
        ),
    )


def call_renew(identity: Identity, csr_pem: str, *, timeout_s: float = CALL_TIMEOUT_S) -> RenewResponse:
    """A new certificate from the control API, asked for with the present one.

    Raises:
      UnansweredError: the control API is not reached.
      EnrolmentError: the coordinator refuses.
    """
    credentials = grpc.ssl_channel_credentials(
        identity.authority_path.read_bytes(),
        identity.key_path.read_bytes(),
        identity.certificate_path.read_bytes(),
    )
    with _stub(identity.control, credentials) as stub:
        told = stub.Renew(control_pb2.RenewRequest(csr_pem=csr_pem), timeout=timeout_s)
    return RenewResponse(certificate_pem=told.certificate_pem, ca_pem=told.ca_pem, not_after=told.not_after)


def call_renew_signed(address: str, authority_pem: str, request: RenewSignedRequest) -> RenewResponse:
    """The next certificate from the enrolment address, asked for with a signature.

    Raises:
      UnansweredError: the address is not reached, or somebody else's server answers there.
      EnrolmentError: the coordinator refuses.
    """
    with _stub(address, grpc.ssl_channel_credentials(authority_pem.encode())) as stub:
        message = control_pb2.RenewSignedRequest(
            certificate_pem=request.certificate_pem,
            signed_at=request.signed_at,
            signature=request.signature,
        )
        told = stub.RenewSigned(message, timeout=CALL_TIMEOUT_S)
    return RenewResponse(certificate_pem=told.certificate_pem, ca_pem=told.ca_pem, not_after=told.not_after)


@contextmanager
def _stub(address: str, credentials: grpc.ChannelCredentials) -> Iterator[Any]:
    with grpc.secure_channel(address, credentials, options=_OPTIONS) as channel:
        try:
            yield control_pb2_grpc.EnrolmentServiceStub(channel)  # type: ignore[no-untyped-call]
        except grpc.RpcError as e:
            raise _in_words(address, e) from e


def _in_words(address: str, error: grpc.RpcError) -> EnrolmentError:
    """The coordinator's own words where it said any."""
    told: Any = error
    for key, value in told.trailing_metadata() or ():
        if key == "motet-error-bin":
            try:
                detail = control_pb2.ErrorDetail.FromString(value)
            except DecodeError:
                break
            words = "".join(c if c.isprintable() else " " for c in detail.message)[:500]
            return EnrolmentError(f"the coordinator refuses: {words}", hint=detail.hint[:500])
    if told.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}:
        return UnansweredError(
            f"the coordinator at {address} does not answer",
            hint="try again with the same token: a token that these keys have spent gives the same answer",
        )
    return EnrolmentError(f"the coordinator at {address} refuses ({told.code().name.lower()})")

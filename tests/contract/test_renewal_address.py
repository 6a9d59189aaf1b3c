"""Clients that reach the enrolment address alone renew there; a real server, and time that the test moves."""

import datetime
import json
import logging
import socket
import threading

import grpc
import pytest
from control_house import House
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from enrolling import signed_renewal

from client.authority_link import EnrolmentError
from client.enrolment import enrol, keep_renewed, renew
from motet.clock import SystemClock
from motet.connection.metadata import ERROR
from motet.identity import load_identity, read_facts
from motet.wire.v1 import control_pb2, control_pb2_grpc

DAY = datetime.timedelta(days=1)
METHOD = "/motet.v1.EnrolmentService/RenewSigned"


class Calendar(SystemClock):
    """The machine's time, and what a test adds."""

    def __init__(self):
        self.ahead = datetime.timedelta()

    def now(self):
        return super().now() + self.ahead.total_seconds()

    def date(self):
        return datetime.datetime.fromtimestamp(self.now(), datetime.UTC)


@pytest.fixture(scope="module")
def clock():
    return Calendar()


@pytest.fixture(scope="module")
def served(tmp_path_factory, clock):
    home = tmp_path_factory.mktemp("house")
    made = House(home, enrols=True, clock=clock)
    join = {"address": "127.0.0.1:1", "ca": made.authority.pem, "bundle_sha256": "b" * 64}
    (home / "join.json").write_text(json.dumps(join))
    yield made
    made.close()


@pytest.fixture
def closed_port():
    """An address of this machine where nobody listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{held.getsockname()[1]}"


@pytest.fixture
def ward(served, clock, closed_port, tmp_path, request):
    """Home of an enrolled client; the control address that it was told is one where nobody listens."""
    clock.ahead = datetime.timedelta()
    served.enrolment.control = closed_port
    name = f"ward-{abs(hash(request.node.name)) % 10**9}"
    token = served.enrolment.issue_token(name, address=served.enrolment_address)[0].encode()
    enrol(tmp_path / "ward", token)
    return tmp_path / "ward"


def certificate_of(home):
    return x509.load_pem_x509_certificate((home / "identity/certificate.pem").read_bytes())


def rows(served):
    return len(served.store.identities.certificates())


def signed(served, home, clock, **claims):
    key = load_pem_private_key((home / "identity/key.pem").read_bytes(), None)
    return signed_renewal(certificate_of(home), key, served.authority.certificate, int(clock.now()), **claims)


def asked(served, request):
    """Status and detail of a call by a peer without a certificate."""
    ca = (served.home / "tls/ca.crt").read_bytes()
    with grpc.secure_channel(served.enrolment_address, grpc.ssl_channel_credentials(ca)) as channel:
        message = control_pb2.RenewSignedRequest(
            certificate_pem=request.certificate_pem, signed_at=request.signed_at, signature=request.signature
        )
        try:
            control_pb2_grpc.EnrolmentServiceStub(channel).RenewSigned(message, timeout=60)
        except grpc.RpcError as e:
            found = dict(e.trailing_metadata())
            return e.code(), control_pb2.ErrorDetail.FromString(found[ERROR])
        return grpc.StatusCode.OK, None


def test_a_client_whose_control_address_is_unreachable_renews_by_itself_at_the_enrolment_address(
    served, ward, clock, caplog
):
    first, once = certificate_of(ward), threading.Event()
    once.set()
    clock.ahead = 19 * DAY
    keep_renewed(ward, once, now=clock.date)
    assert certificate_of(ward) == first
    clock.ahead = 21 * DAY
    with caplog.at_level(logging.INFO):
        keep_renewed(ward, once, now=clock.date)
    following = certificate_of(ward)
    assert following.serial_number != first.serial_number
    assert following.not_valid_after_utc - clock.date() > 29 * DAY
    assert "was renewed" in caplog.text
    assert load_identity(ward / "identity", now=clock.date()).name
    before = rows(served)
    renew(ward, now=clock.date)  # typed as well: fresh, so it is given again
    assert certificate_of(ward) == following
    assert rows(served) == before


def test_where_packets_to_the_control_api_vanish_the_enrolment_address_is_asked(
    served, ward, clock, monkeypatch
):
    monkeypatch.setattr("client.enrolment.CONTROL_TIMEOUT_S", 1.0)
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()  # takes connections, and says nothing
        facts = read_facts(ward / "identity") | {"control": f"127.0.0.1:{mute.getsockname()[1]}"}
        (ward / "identity/identity.json").write_text(json.dumps(facts))
        first, clock.ahead = certificate_of(ward), 21 * DAY
        renew(ward, now=clock.date)
        assert certificate_of(ward) != first


def test_where_the_control_api_answers_it_is_the_one_that_is_asked(served, ward, clock, monkeypatch):
    facts = read_facts(ward / "identity") | {"control": served.address}
    (ward / "identity/identity.json").write_text(json.dumps(facts))
    monkeypatch.setattr("client.enrolment.call_renew_signed", None)  # would be an error
    first = certificate_of(ward)
    renew(ward, now=clock.date)
    assert certificate_of(ward) != first


def test_a_home_of_before_learns_the_enrolment_address_once(served, ward, clock):
    facts = {k: v for k, v in read_facts(ward / "identity").items() if k != "enrolment"}
    (ward / "identity/identity.json").write_text(json.dumps(facts))
    with pytest.raises(EnrolmentError, match="does not answer"):
        renew(ward, now=clock.date)
    clock.ahead = 21 * DAY
    first = certificate_of(ward)
    renew(ward, address=served.enrolment_address, now=clock.date)
    assert certificate_of(ward) != first
    assert load_identity(ward / "identity", now=clock.date()).enrolment == served.enrolment_address
    renew(ward, now=clock.date)


def test_revoked_is_revoked_at_once_at_the_enrolment_address_too(served, ward, clock):
    request = signed(served, ward, clock)
    assert asked(served, request)[0] is grpc.StatusCode.OK  # positive control
    served.store.identities.revoke_serial(certificate_of(ward).serial_number)
    before = rows(served)
    status, detail = asked(served, request)
    assert (status, detail.kind) == (grpc.StatusCode.PERMISSION_DENIED, "AdmissionRefusedError")
    assert rows(served) == before
    with pytest.raises(EnrolmentError, match="is not renewed") as refused:
        renew(ward, now=clock.date)
    assert "new token" in refused.value.hint


def test_what_is_refused_is_counted_and_logged_without_a_value(served, ward, clock, caplog):
    good, clock_off = signed(served, ward, clock), int(clock.now()) - 4000
    key = load_pem_private_key((ward / "identity/key.pem").read_bytes(), None)
    late = signed_renewal(certificate_of(ward), key, served.authority.certificate, clock_off)
    wrong = signed(served, ward, clock, federation="f-" + "0" * 32)
    before = served.counts.refusals().get("AdmissionRefusedError", 0)
    calls = served.counts.calls().get((METHOD, "OK"), 0)
    with caplog.at_level(logging.DEBUG):
        for request in (wrong, late):
            status, detail = asked(served, request)
            assert (status, detail.exit_code) == (grpc.StatusCode.PERMISSION_DENIED, 7)
        refusals = [r.getMessage() for r in caplog.records if METHOD in r.getMessage()]
    assert served.counts.refusals()["AdmissionRefusedError"] == before + 2
    assert [line.split(": ")[1].split()[0] for line in refusals] == ["AdmissionRefusedError"] * 2
    name = read_facts(ward / "identity")["name"]
    values = (str(name), str(clock_off), wrong.signature.hex(), f"{certificate_of(ward).serial_number:x}")
    assert not any(value in line for value in values for line in refusals)
    assert asked(served, good)[0] is grpc.StatusCode.OK  # positive control
    assert served.counts.calls()[METHOD, "OK"] == calls + 1


def test_a_server_of_another_authority_is_not_asked(served, ward, clock, tmp_path):
    first, other = certificate_of(ward), House(tmp_path / "other", enrols=True)
    try:
        with pytest.raises(EnrolmentError, match="does not answer"):
            renew(ward, address=other.enrolment_address, now=clock.date)
        assert not other.counts.calls()
    finally:
        other.close()
    assert certificate_of(ward) == first
    assert load_identity(ward / "identity").enrolment == served.enrolment_address
    renew(ward, address=served.enrolment_address, now=clock.date)  # positive control

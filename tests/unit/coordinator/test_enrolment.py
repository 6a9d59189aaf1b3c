"""Enrolment: what admits a client, what does not, and that nothing is changed by what does not."""

import datetime
import json
import logging

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from enrolling import Keys, public_pem, request_pem

from coordinator.authority import ensure_authority
from coordinator.authority.enrolment import Enrolment, EnrolmentError
from coordinator.storage.identities import RevokedKeyError, TokenRefusedError
from coordinator.storage.where import open_store
from motet.clock import SystemClock
from motet.enrolment import EnrolmentToken, TokenError, parse_token
from motet.errors import MotetError
from motet.identity import identity_of

ADDRESS = "fed.example.org:8445"


@pytest.fixture
def store(tmp_path):
    (tmp_path / "home").mkdir()
    join = {"address": "fed.example.org:8443", "ca": "the authority's", "bundle_sha256": "b" * 64}
    (tmp_path / "home/join.json").write_text(json.dumps(join))
    store = open_store(tmp_path / "home")
    yield store
    store.close()


@pytest.fixture
def enrolment(store, tmp_path):
    home = tmp_path / "home"
    return Enrolment(ensure_authority(home), store, home, SystemClock(), control="fed.example.org:8444")


@pytest.fixture
def token(enrolment):
    return enrolment.issue_token("ward-a", address=ADDRESS, capacity_class="small")[0].encode()


def state(store):
    clients = [(c.client_id, c.public_key, c.capacity_class) for c in store.clients()]
    return clients, [(r.serial, r.revoked_at) for r in store.identities.certificates()]


def test_a_token_is_one_word_that_says_where_whom_and_who(enrolment, tmp_path):
    token, ends = enrolment.issue_token("ward-a", address=ADDRESS, lifetime_s=3600)
    read = parse_token(f"  {token.encode()[:40]}\n{token.encode()[40:]} ")
    assert read == token
    assert (read.address, read.name, read.pin) == (ADDRESS, "ward-a", ensure_authority(tmp_path / "home").pin)
    assert ends == pytest.approx(datetime.datetime.now(datetime.UTC).timestamp() + 3600, abs=30)
    assert token.secret.hex() not in repr(token)
    assert str(token.secret) not in repr(token)


def test_a_token_that_is_cut_or_mistyped_is_refused_without_quoting_it(token):
    other = "y" if token[50] == "x" else "x"
    for wrong in (token[:-1], token[:60], token[:50] + other + token[51:], token + "AA"):
        with pytest.raises(TokenError, match="cut or mistyped") as refused:
            parse_token(wrong)
        assert token[20:40] not in refused.value.message
    for nothing in ("", "hello", "mt2." + token[4:], "mt1." + "A" * 2000):
        with pytest.raises(TokenError):
            parse_token(nothing)


def test_who_enrols_is_registered_under_the_name_of_the_token_with_its_own_keys(enrolment, store, token):
    keys = Keys()
    answer = enrolment.enrol(keys.request(token))
    made = x509.load_pem_x509_certificate(answer.certificate_pem.encode())
    assert identity_of(made) == (answer.federation, "client", "ward-a")
    assert made.public_key() == keys.own.public_key()
    assert (answer.join.address, answer.join.control_address) == (
        "fed.example.org:8443",
        "fed.example.org:8444",
    )
    assert state(store)[0] == [("ward-a", public_pem(keys.fleet), "small")]
    assert enrolment.enrol(keys.request(token)) == answer  # the answer was lost: the same again
    assert len(state(store)[1]) == 1


def test_other_keys_with_a_used_token_are_refused(enrolment, store, token):
    keys = Keys()
    enrolment.enrol(keys.request(token))
    before = state(store)
    half = Keys()
    half.own = keys.own
    for other in (Keys(), half):
        with pytest.raises(TokenRefusedError, match="used"):
            enrolment.enrol(other.request(token))
    assert state(store) == before


def forged_requests(keys, token):
    """Name -> request that must not be granted."""
    other = Keys()
    whole = keys.request(token)
    foreign = EnrolmentToken.new(pin="0" * 64, address=ADDRESS, name="ward-a").encode()
    return {
        "proof by another key": keys.request(token, signer=other.fleet),
        "no proof": keys.request(token, proof_of_possession=b""),
        "another fleet key": keys.request(token, fleet_public_key_pem=public_pem(other.fleet).decode()),
        "another request": keys.request(token, csr_pem=request_pem(other.own)),
        "proof of another token": keys.request(
            token, token=foreign, proof_of_possession=whole.proof_of_possession
        ),
        "a token that nobody issued": keys.request(foreign),
        "a fleet key of another curve": keys.request(
            token, fleet_public_key_pem=public_pem(ec.generate_private_key(ec.SECP256R1())).decode()
        ),
        "no fleet key": keys.request(token, fleet_public_key_pem="-----BEGIN PUBLIC KEY-----"),
        "a large fleet key": keys.request(token, fleet_public_key_pem="x" * 100_000),
        "no certificate request": keys.request(token, csr_pem="\x00"),
        "a private key": keys.request(token, fleet_public_key_pem="-----BEGIN PRIVATE KEY-----"),
    }


def test_a_forged_request_changes_nothing_and_the_token_is_still_good(enrolment, store, token, caplog):
    keys = Keys()
    with caplog.at_level(logging.DEBUG):
        for request in forged_requests(keys, token).values():
            with pytest.raises(MotetError):
                enrolment.enrol(request)
        assert state(store) == ([], [])
        enrolment.enrol(keys.request(token))
    assert "ward-a" in caplog.text
    assert token[10:50] not in caplog.text


def test_before_the_coordinator_serves_clients_no_token_is_spent(enrolment, store, token, tmp_path):
    join = (tmp_path / "home/join.json").read_text()
    (tmp_path / "home/join.json").unlink()
    with pytest.raises(EnrolmentError, match="does not serve clients yet"):
        enrolment.enrol(Keys().request(token))
    (tmp_path / "home/join.json").write_text(join)
    enrolment.enrol(Keys().request(token))


def test_a_renewal_keeps_name_and_role_whatever_the_request_asks_for_and_a_revoked_one_gets_none(
    enrolment, store, token
):
    keys = Keys()
    first = x509.load_pem_x509_certificate(enrolment.enrol(keys.request(token)).certificate_pem.encode())
    renewed = enrolment.renew("client", "ward-a", first.serial_number, request_pem(keys.own))
    made = x509.load_pem_x509_certificate(renewed.certificate_pem.encode())
    assert identity_of(made)[1:] == ("client", "ward-a")
    assert not store.identities.is_revoked(made.serial_number)
    store.identities.revoke_name("ward-a")
    before = state(store)
    for serial in (first.serial_number, made.serial_number, 12345):
        with pytest.raises(EnrolmentError, match="revoked"):
            enrolment.renew("client", "ward-a", serial, request_pem(keys.own))
    assert state(store) == before
    again = enrolment.issue_token("ward-a", address=ADDRESS)[0].encode()
    with pytest.raises(RevokedKeyError):
        enrolment.enrol(keys.request(again))
    enrolment.enrol(Keys().request(again))


def test_a_renewal_that_is_under_way_when_its_client_is_revoked_gives_nothing(
    enrolment, store, token, monkeypatch
):
    keys = Keys()
    first = x509.load_pem_x509_certificate(enrolment.enrol(keys.request(token)).certificate_pem.encode())
    certify = enrolment._certify

    def revoked_meanwhile(*args):
        store.identities.revoke_name("ward-a")
        return certify(*args)

    monkeypatch.setattr(enrolment, "_certify", revoked_meanwhile)
    with pytest.raises(EnrolmentError, match="revoked"):
        enrolment.renew("client", "ward-a", first.serial_number, request_pem(keys.own))
    assert [r.revoked_at is not None for r in store.identities.certificates()] == [True]


@pytest.mark.parametrize(("name", "lifetime_s"), [("a/b", 3600), ("ward-a", 1), ("ward-a", 1e9), ("", 3600)])
def test_no_token_for_a_bad_name_or_a_long_life(enrolment, name, lifetime_s):
    with pytest.raises(MotetError):
        enrolment.issue_token(name, address=ADDRESS, lifetime_s=lifetime_s)


@pytest.mark.parametrize(
    "address", ["a\nb:1", "\xe9:1", "\x1b[2J:1", "host", ":1", "host:", "x" * 300 + ":1"]
)
def test_no_token_carries_an_address_that_is_none(enrolment, address):
    with pytest.raises(EnrolmentError, match="address"):
        enrolment.issue_token("ward-a", address=address)
    made, _ = enrolment.issue_token("ward-a", address="[::1]:8445")
    assert parse_token(made.encode()).address == "[::1]:8445"

"""The next certificate by signature: what is refused, in which words, and that the table does not grow."""

import dataclasses
import datetime
import json
import logging

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from enrolling import Keys, signed_renewal

from coordinator.authority import ensure_authority
from coordinator.authority.enrolment import Enrolment
from coordinator.authority.renewal import RenewalRefusedError, refusal
from coordinator.storage.where import open_store
from coordinator.tls import leaf_builder, load_authority
from motet.identity import identity_of, identity_uri
from motet.renewal import WINDOW_S, renewal_statement

DAY_S = 86400.0
NOT_RENEWED = refusal().message


class Calendar:
    """Time that tests move, from a quarter of an hour ago."""

    def __init__(self):
        self.at = datetime.datetime.now(datetime.UTC).timestamp() // 1 - 900

    def now(self):
        return self.at

    monotonic = now


@pytest.fixture
def clock():
    return Calendar()


@pytest.fixture
def store(tmp_path, clock):
    (tmp_path / "home").mkdir()
    join = {"address": "fed.example.org:8443", "ca": "the authority's", "bundle_sha256": "b" * 64}
    (tmp_path / "home/join.json").write_text(json.dumps(join))
    store = open_store(tmp_path / "home", clock=clock)
    yield store
    store.close()


@pytest.fixture
def enrolment(store, tmp_path, clock):
    return Enrolment(ensure_authority(tmp_path / "home"), store, tmp_path / "home", clock)


@pytest.fixture
def keys():
    return Keys()


@pytest.fixture
def first(enrolment, keys):
    """The certificate of an enrolled client."""
    token = enrolment.issue_token("ward-a", address="fed.example.org:8445")[0].encode()
    return x509.load_pem_x509_certificate(enrolment.enrol(keys.request(token)).certificate_pem.encode())


@pytest.fixture
def authority(tmp_path):
    return ensure_authority(tmp_path / "home").certificate


def rows(store):
    return [(r.serial, r.revoked_at) for r in store.identities.certificates()]


def renewed(enrolment, request):
    return x509.load_pem_x509_certificate(enrolment.renew_signed(request).certificate_pem.encode())


def made_by(folder, key, *, federation, role="client", usage=ExtendedKeyUsageOID.CLIENT_AUTH, now=None):
    """A certificate that no coordinator recorded."""
    ca, ca_key = load_authority(folder / "tls")
    now = now or datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1)
    uri = x509.UniformResourceIdentifier(identity_uri(federation, role, "ward-a"))
    return (
        leaf_builder(ca.subject, ca.subject, key.public_key(), now, datetime.timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName([uri]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .sign(ca_key, hashes.SHA256())
    )


def test_the_next_certificate_is_for_the_same_key_name_and_role(
    enrolment, store, keys, first, authority, clock
):
    clock.at += 20 * DAY_S
    following = renewed(enrolment, signed_renewal(first, keys.own, authority, int(clock.at)))
    assert following.serial_number != first.serial_number
    assert identity_of(following) == identity_of(first)
    assert following.public_key() == first.public_key()
    assert following.not_valid_after_utc > first.not_valid_after_utc + datetime.timedelta(days=19)
    assert not store.identities.is_revoked(following.serial_number)
    assert not store.identities.is_revoked(first.serial_number)


def test_the_same_request_again_gives_the_same_certificate_and_no_row_more(
    enrolment, store, keys, first, authority, clock
):
    clock.at += 20 * DAY_S
    request = signed_renewal(first, keys.own, authority, int(clock.at))
    following = renewed(enrolment, request)
    before = rows(store)
    for moved in (0, 1, WINDOW_S):
        clock.at += moved
        request = request if moved < WINDOW_S else signed_renewal(first, keys.own, authority, int(clock.at))
        assert renewed(enrolment, request) == following
    assert renewed(enrolment, signed_renewal(following, keys.own, authority, int(clock.at))) == following
    assert rows(store) == before


def test_a_key_adds_at_most_one_row_in_a_third_of_a_certificates_life(
    enrolment, store, keys, first, authority, clock
):
    present = first
    for _ in range(120):  # twice a day for two months
        clock.at += DAY_S / 2
        present = renewed(enrolment, signed_renewal(present, keys.own, authority, int(clock.at)))
    assert 5 <= len(rows(store)) - 1 <= 6


def test_a_fresh_certificate_that_was_revoked_is_not_given_again(
    enrolment, store, keys, first, authority, clock
):
    clock.at += 20 * DAY_S
    request = signed_renewal(first, keys.own, authority, int(clock.at))
    following = renewed(enrolment, request)
    store.identities.revoke_serial(following.serial_number)
    assert renewed(enrolment, request) not in (first, following)
    with pytest.raises(RenewalRefusedError):
        enrolment.renew_signed(signed_renewal(following, keys.own, authority, int(clock.at)))


def forged(tmp_path, enrolment, keys, first, authority, at):
    """Name -> request that is refused in the words of every certificate that is not renewed."""
    other, elsewhere = ec.generate_private_key(ec.SECP256R1()), tmp_path / "elsewhere"
    federation, stranger = enrolment._authority.federation, ensure_authority(elsewhere)
    good = signed_renewal(first, keys.own, authority, at)
    here = tmp_path / "home"

    def by(key, certificate, **claims):
        return signed_renewal(certificate, key, authority, at, **claims)

    bare = first.public_bytes(serialization.Encoding.DER)
    key = keys.own
    p384 = ec.generate_private_key(ec.SECP384R1())
    unframed = key.sign(b"motet-renewal/1\n" + bare + str(at).encode(), ec.ECDSA(hashes.SHA256()))
    longer = key.sign(
        renewal_statement(federation, enrolment._authority.pin, bare, at), ec.ECDSA(hashes.SHA384())
    )
    return {
        "another key": by(other, first),
        "no signature": dataclasses.replace(good, signature=b""),
        "a changed signature": dataclasses.replace(
            good, signature=good.signature[:-1] + bytes([good.signature[-1] ^ 1])
        ),
        "another hash": dataclasses.replace(good, signature=longer),
        "another statement": dataclasses.replace(good, signature=unframed),
        "another time": dataclasses.replace(good, signed_at=at + 1),
        "for another federation": by(key, first, federation="f-" + "0" * 32),
        "for another authority": by(key, first, pin="0" * 64),
        "a certificate of another authority": by(other, made_by(elsewhere, other, federation=federation)),
        "another federation by this authority": by(
            other, made_by(here, other, federation=stranger.federation)
        ),
        "never recorded": by(other, made_by(here, other, federation=federation)),
        "another role": by(other, made_by(here, other, federation=federation, role="operator")),
        "another curve": by(p384, made_by(here, p384, federation=federation)),
        "the authority itself": by(load_authority(here / "tls")[1], authority),
        "no certificate": dataclasses.replace(good, certificate_pem="-----BEGIN CERTIFICATE-----"),
        "nothing": dataclasses.replace(good, certificate_pem="", signature=b""),
        "a large certificate": dataclasses.replace(good, certificate_pem=good.certificate_pem + "x" * 9000),
        "another text": dataclasses.replace(good, certificate_pem="\udcff" * 10),
    }


def test_a_forged_request_is_refused_in_one_sentence_and_changes_nothing(
    tmp_path, enrolment, store, keys, first, authority, clock, caplog
):
    clock.at += 20 * DAY_S
    at, before = int(clock.at), rows(store)
    with caplog.at_level(logging.DEBUG):
        for what, request in forged(tmp_path, enrolment, keys, first, authority, at).items():
            with pytest.raises(RenewalRefusedError) as refused:
                enrolment.renew_signed(request)
            assert refused.value.message == NOT_RENEWED, what
        assert rows(store) == before
        assert "certificate" not in caplog.text
        assert renewed(enrolment, signed_renewal(first, keys.own, authority, at)) != first  # positive control


def test_strangers_reach_no_table(tmp_path, enrolment, store, keys, first, authority, clock, monkeypatch):
    class ReachedError(Exception):
        pass

    def reached(*_arguments, **_named):
        raise ReachedError

    monkeypatch.setattr(store.identities, "following", reached)
    requests = forged(tmp_path, enrolment, keys, first, authority, int(clock.at))
    known = requests.pop("never recorded")  # by this authority, and its key: only the table knows better
    for request in requests.values():
        with pytest.raises(RenewalRefusedError):
            enrolment.renew_signed(request)
    with pytest.raises(ReachedError):  # positive control
        enrolment.renew_signed(known)


def test_a_person_s_certificate_is_not_renewed_by_signature(enrolment, store, tmp_path, authority, clock):
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.fromtimestamp(clock.at, datetime.UTC)
    for role, is_renewed in (
        ("operator", False),
        ("researcher", False),
        ("auditor", False),
        ("client", True),
    ):
        issued = ensure_authority(tmp_path / "home").certify(key.public_key(), role, "ann", now=now)
        store.identities.record(issued)
        present = x509.load_pem_x509_certificate(issued.pem.encode())
        request = signed_renewal(present, key, authority, int(clock.at))
        if is_renewed:
            assert renewed(enrolment, request) == present
            continue
        with pytest.raises(RenewalRefusedError, match=NOT_RENEWED):
            enrolment.renew_signed(request)


def test_unknown_ended_and_revoked_can_not_be_told_apart(
    enrolment, store, keys, first, authority, clock, tmp_path
):
    clock.at += 20 * DAY_S
    renewed(enrolment, signed_renewal(first, keys.own, authority, int(clock.at)))
    other, federation = ec.generate_private_key(ec.SECP256R1()), enrolment._authority.federation
    unknown = made_by(tmp_path / "home", other, federation=federation)
    later = datetime.datetime.fromtimestamp(clock.at, datetime.UTC) + datetime.timedelta(days=2)
    early = made_by(tmp_path / "home", other, federation=federation, now=later)

    def told(certificate, key):
        with pytest.raises(RenewalRefusedError) as refused:
            enrolment.renew_signed(signed_renewal(certificate, key, authority, int(clock.at)))
        return type(refused.value), refused.value.message, refused.value.hint

    words = {told(unknown, other), told(early, other)}
    clock.at = first.not_valid_after_utc.timestamp()
    words.add(told(first, keys.own))
    clock.at -= 1
    renewed(enrolment, signed_renewal(first, keys.own, authority, int(clock.at)))  # a second before its end
    store.identities.revoke_name("ward-a")
    words.add(told(first, keys.own))
    assert len(words) == 1


@pytest.mark.parametrize(("away", "is_granted"), [(-300, True), (-301, False), (300, True), (301, False)])
def test_a_request_is_good_for_five_minutes_of_the_coordinators_time(
    enrolment, keys, first, authority, clock, away, is_granted
):
    request = signed_renewal(first, keys.own, authority, int(clock.at) + away)
    if is_granted:
        assert renewed(enrolment, request) == first
        return
    with pytest.raises(RenewalRefusedError, match="5 minutes") as refused:
        enrolment.renew_signed(request)
    assert "clock" in refused.value.hint


def test_where_one_part_of_the_statement_ends_and_the_next_begins_is_signed():
    whole = renewal_statement("f-ab", "cd", b"der", 12)
    assert whole.startswith(b"motet-renewal/1\n\x00\x00\x00\x04f-ab\x00\x00\x00\x02cd\x00\x00\x00\x20")
    assert whole.endswith(b"\x00\x00\x00\x0212")
    assert renewal_statement("f-a", "bcd", b"der", 12) != whole

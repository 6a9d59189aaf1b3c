"""Certificates, tokens and revocations, on both databases: a token admits once, what is revoked stays revoked."""

import dataclasses
import hashlib
import threading

import pytest
from databases import Place

from coordinator.storage.identities import (
    IssuedCertificate,
    RevokedKeyError,
    TokenRefusedError,
    UnknownIdentityError,
)

SECRET = b"s" * 32


class Calendar:
    """Time that tests move."""

    def __init__(self):
        self.at = 1_000_000.0

    def now(self):
        return self.at

    monotonic = now


@pytest.fixture
def clock():
    return Calendar()


@pytest.fixture
def store(place: Place, clock):
    store = place.open(clock=clock)
    yield store
    store.close()


def certificate(serial, name="ward-a", role="client"):
    return IssuedCertificate(
        serial=serial, role=role, name=name, fingerprint="f" * 64, pem=f"pem of {serial}", not_after=2e6
    )


def redeem(store, *, secret=SECRET, keys="k1", token="t1", serial="a1"):
    return store.identities.redeem(
        token,
        secret,
        public_key=f"key {keys}\n".encode(),
        keys_sha256=hashlib.sha256(keys.encode()).hexdigest(),
        issue=lambda name: certificate(serial, name),
    )


def counts(store):
    return len(store.clients()), len(store.identities.certificates()), len(store.ledger.leaves())


def following(store, serial="a1", *, same=lambda _pem: True, issue=lambda name: certificate("b1", name)):
    return store.identities.following(serial, "f" * 64, is_same_key=same, issue=issue)


def test_many_that_renew_one_certificate_at_once_get_one_and_the_same(store, clock):
    store.identities.record(certificate("a1"))
    clock.at += 0.9 * (2e6 - clock.at)
    found, ready = [], threading.Barrier(8)

    def issue(name):
        issued = certificate(f"b{len(made)}", name)
        made.append(issued)
        return dataclasses.replace(issued, not_after=4e6)

    def ask():
        ready.wait(30)
        found.append(following(store, issue=issue))

    made: list[IssuedCertificate] = []
    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [f.serial for f in found] == ["b0"] * 8
    assert [r.serial for r in store.identities.certificates()] == ["a1", "b0"]
    assert not store.identities.is_revoked("b0")


def test_what_follows_a_certificate_is_for_its_key_and_name_and_nothing_follows_a_revoked_one(store, clock):
    store.identities.record(certificate("a1"))
    store.identities.record(dataclasses.replace(certificate("c1", "ward-b"), not_after=3e6))
    store.identities.record(certificate("d1", "ann", "operator"))
    assert following(store).serial == "a1"  # fresh
    assert following(store, same=lambda _pem: False).serial == "b1"  # another key's is not given
    assert store.identities.following("a1", "e" * 64, is_same_key=bool, issue=certificate) is None
    for unknown in ("d1", "ff"):
        assert following(store, unknown) is None
    store.identities.revoke_name("ward-a")
    assert following(store) is None
    assert len(store.identities.certificates()) == 4


def test_a_token_is_kept_as_a_hash_and_never_as_itself(store, place):
    store.identities.add_token("t1", SECRET, "ward-a", lifetime_s=60)
    rows = place.sql("SELECT * FROM enrolment_tokens")
    assert hashlib.sha256(SECRET).hexdigest() in str(rows)
    assert SECRET.decode() not in str(rows)


def test_a_token_admits_its_client_once_with_certificate_and_registration(store):
    store.identities.add_token("t1", SECRET, "ward-a", lifetime_s=60, capacity_class="small")
    issued = redeem(store)
    (client,) = store.clients()
    assert (client.client_id, client.public_key, client.capacity_class) == ("ward-a", b"key k1\n", "small")
    assert not store.identities.is_revoked(issued.serial)
    assert b"key k1" in store.ledger.leaves()[-1]


def test_a_second_use_by_other_keys_is_refused_and_changes_nothing(store):
    store.identities.add_token("t1", SECRET, "ward-a", lifetime_s=60)
    redeem(store)
    before = counts(store)
    with pytest.raises(TokenRefusedError, match="used"):
        redeem(store, keys="k2", serial="a2")
    assert counts(store) == before
    assert store.clients()[0].public_key == b"key k1\n"


def test_the_same_keys_with_their_token_get_the_certificate_that_they_have_even_after_its_time(store, clock):
    store.identities.add_token("t1", SECRET, "ward-a", lifetime_s=60)
    first = redeem(store)
    clock.at += 3600
    before = counts(store)
    assert redeem(store, serial="a2") == first
    assert counts(store) == before
    store.identities.revoke_name("ward-a")
    with pytest.raises(TokenRefusedError, match="revoked"):
        redeem(store, serial="a3")


def test_an_unknown_wrong_late_or_revoked_token_is_refused_and_registers_nobody(store, clock):
    store.identities.add_token("t1", SECRET, "ward-a", lifetime_s=60)
    for wrong in ({"secret": b"x" * 32}, {"token": "t2"}, {"secret": b""}):
        with pytest.raises(TokenRefusedError, match="unknown"):
            redeem(store, **wrong)
    clock.at += 61
    with pytest.raises(TokenRefusedError, match="out of date"):
        redeem(store)
    store.identities.add_token("t3", SECRET, "ward-b", lifetime_s=60)
    store.identities.revoke_name("ward-b", role="client")
    with pytest.raises(TokenRefusedError, match="revoked"):
        redeem(store, token="t3")
    assert counts(store) == (0, 0, 0)


def test_of_two_that_race_with_one_token_exactly_one_wins(place, store):
    store.identities.add_token("t1", SECRET, "ward-a", lifetime_s=60)
    stores = [place.open() for _ in range(4)]
    for other in stores:
        other._clock.now = store._clock.now
        other.identities._clock = store._clock
    start, won, lost = threading.Barrier(len(stores)), [], []

    def race(number):
        start.wait()
        try:
            won.append(redeem(stores[number], keys=f"k{number}", serial=f"a{number}").serial)
        except TokenRefusedError as e:
            lost.append(e.message)

    threads = [threading.Thread(target=race, args=(n,)) for n in range(len(stores))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for other in stores:
        other.close()
    assert len(won) == 1
    assert len(lost) == 3
    assert [row.serial for row in store.identities.certificates()] == won
    assert store.clients()[0].public_key == f"key k{won[0][1:]}\n".encode()


def test_a_fault_within_a_redemption_leaves_the_token_unused(store):
    store.identities.add_token("t1", SECRET, "ward-a", lifetime_s=60)

    def broken(name):
        raise OSError("the authority's key can not be read")

    with pytest.raises(OSError, match="authority"):
        store.identities.redeem("t1", SECRET, public_key=b"k", keys_sha256="0" * 64, issue=broken)
    assert counts(store) == (0, 0, 0)
    assert redeem(store).serial == "a1"


def test_a_revoked_serial_is_out_and_the_others_of_that_name_stay(store):
    for serial in ("a1", "a2"):
        store.identities.record(certificate(serial, "ann", "researcher"))
    assert not store.identities.is_revoked("A1")
    revoked = store.identities.revoke_serial("a1", "lost laptop")
    assert (revoked.name, revoked.serials) == ("ann", ("a1",))
    assert store.identities.is_revoked(0xA1)
    assert not store.identities.is_revoked("a2")
    (row, _) = store.identities.certificates(name="ann")
    assert row.reason == "lost laptop"
    store.identities.revoke_serial("a1", "again")
    assert store.identities.certificates(name="ann")[0].reason == "lost laptop"


def test_a_serial_that_was_never_recorded_is_not_believed(store):
    assert store.identities.is_revoked("abc")
    with pytest.raises(UnknownIdentityError):
        store.identities.revoke_serial("abc")


def test_a_revoked_client_is_out_with_its_key_and_comes_back_with_another_one(store):
    store.identities.add_token("t1", SECRET, "ward-a", lifetime_s=60)
    serial = redeem(store).serial
    assert store.identities.revoked_clients() == frozenset()
    assert store.identities.revoke_name("ward-a", "stolen").is_client_out
    assert store.identities.is_revoked(serial)
    assert store.identities.revoked_clients() == {"ward-a"}
    with pytest.raises(RevokedKeyError, match="was revoked"):
        store.register_client("ward-a", b"key k1\n")
    store.register_client("ward-a", b"key k2\n")
    assert store.identities.revoked_clients() == frozenset()


def test_a_new_token_for_a_known_client_takes_its_old_keys_back(store):
    store.identities.add_token("t1", SECRET, "ward-a", lifetime_s=60)
    old = redeem(store).serial
    store.identities.add_token("t2", SECRET, "ward-a", lifetime_s=60)
    new = redeem(store, token="t2", keys="k2", serial="a2").serial
    assert store.identities.is_revoked(old)
    assert not store.identities.is_revoked(new)
    with pytest.raises(RevokedKeyError):
        store.register_client("ward-a", b"key k1\n")


def test_a_name_that_has_two_roles_is_revoked_in_the_one_that_is_named(store):
    store.identities.record(certificate("a1", "ann", "researcher"))
    store.identities.record(certificate("a2", "ann", "auditor"))
    with pytest.raises(UnknownIdentityError, match="auditor, researcher"):
        store.identities.revoke_name("ann")
    assert store.identities.revoke_name("ann", role="auditor").serials == ("a2",)
    assert not store.identities.is_revoked("a1")
    with pytest.raises(UnknownIdentityError, match="no identity nobody"):
        store.identities.revoke_name("nobody")

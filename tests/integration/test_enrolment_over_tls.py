"""A client enrols and renews over TLS: whom it talks to is checked first, and a crash anywhere can be gone on from."""

import datetime
import json
import logging
import threading

import pytest
from cryptography import x509
from enrolling import Coordinator

import client.enrolment
from client.authority_link import EnrolmentError
from client.enrolment import enrol, keep_renewed, needs_renewal, renew
from motet.enrolment import EnrolmentToken, parse_token
from motet.identity import IdentityError, load_identity

DAY = datetime.timedelta(days=1)


@pytest.fixture
def coordinator(tmp_path):
    made = Coordinator(tmp_path / "coordinator")
    yield made
    made.close()


@pytest.fixture
def home(tmp_path):
    return tmp_path / "ward-a"


def tree(home):
    return {str(p.relative_to(home)): p.read_bytes() for p in home.rglob("*") if p.is_file()}


def test_with_a_token_and_nothing_else_a_client_belongs_to_the_federation(coordinator, home):
    identity = enrol(home, coordinator.token(capacity_class="small"))
    assert (identity.role, identity.name, identity.control) == ("client", "ward-a", coordinator.control)
    assert identity.federation == coordinator.authority.federation
    (row,) = coordinator.store.clients()
    assert (row.client_id, row.public_key, row.capacity_class) == (
        "ward-a",
        (home / "client.pub").read_bytes(),
        "small",
    )
    join = json.loads((home / "join.json").read_text())
    assert join["ca"] == coordinator.authority.pem
    private = [home / "client.key", home / "identity" / "key.pem"]
    assert [p.stat().st_mode & 0o777 for p in private] == [0o600, 0o600]
    assert [p.stat().st_mode & 0o777 for p in (home, home / "identity")] == [0o700, 0o700]
    at_the_coordinator = b"".join(tree(coordinator.home).values())
    assert not any(p.read_bytes() in at_the_coordinator for p in private)


def test_another_coordinator_than_the_tokens_is_told_nothing(coordinator, home, tmp_path):
    other = Coordinator(tmp_path / "other")
    try:
        told = parse_token(coordinator.token())
        astray = EnrolmentToken(
            token_id=told.token_id, secret=told.secret, pin=told.pin, address=other.address, name=told.name
        )
        with pytest.raises(
            EnrolmentError, match="is not the coordinator that made this token; nothing was sent"
        ):
            enrol(home, astray.encode())
        assert other.seen == []
        assert not (home / "join.json").exists()
        enrol(home, coordinator.token())  # positive control: with its own coordinator the same keys enrol
    finally:
        other.close()


def test_nobody_there_is_said_so(home):
    token = EnrolmentToken.new(pin="0" * 64, address="127.0.0.1:9", name="ward-a")
    with pytest.raises(EnrolmentError, match="nobody answers with TLS"):
        enrol(home, token.encode())


def test_a_lost_answer_is_given_again_to_the_same_keys(coordinator, home):
    token = coordinator.token()
    coordinator.swallowed = 1
    with pytest.raises(EnrolmentError, match="does not answer") as lost:
        enrol(home, token)
    assert "same token" in lost.value.hint
    assert len(coordinator.store.clients()) == 1
    enrol(home, token)
    assert len(coordinator.store.identities.certificates()) == 1
    assert enrol(home, token) == load_identity(home / "identity")


@pytest.mark.parametrize("step", range(8))
def test_killed_before_any_write_the_same_command_goes_on(coordinator, home, step, monkeypatch):
    token, writes = coordinator.token(), []

    class KilledError(BaseException):
        pass

    def dying(real):
        def write(*arguments, **options):
            if len(writes) == step:
                raise KilledError
            writes.append(arguments[0].name)
            return real(*arguments, **options)

        return write

    with monkeypatch.context() as patched:
        patched.setattr(
            "client.keys.write_whole", dying(client.keys.write_whole)
        )  # of both private keys, too
        patched.setattr("client.enrolment.write_whole", dying(client.enrolment.write_whole))
        try:
            enrol(home, token)
        except KilledError:
            assert step < 7
        else:
            assert step == 7  # as many writes as there are; the last one makes it whole
            assert writes[-1] == "certificate.pem"
    assert load_identity((enrol(home, token)).folder).name == "ward-a"
    assert len(coordinator.store.identities.certificates()) == 1
    assert len(coordinator.store.clients()) == 1


def test_a_used_token_with_other_keys_is_refused_in_the_coordinators_words(coordinator, home, tmp_path):
    token = coordinator.token()
    enrol(home, token)
    with pytest.raises(EnrolmentError, match="the enrolment token is used") as refused:
        enrol(tmp_path / "thief", token)
    assert "motet ca token" in refused.value.hint
    assert not (tmp_path / "thief/identity/certificate.pem").exists()


def test_a_home_is_of_one_client(coordinator, home):
    enrol(home, coordinator.token())
    before = tree(home)
    with pytest.raises(EnrolmentError, match="belongs to client ward-a, the token is for ward-b"):
        enrol(home, coordinator.token("ward-b"))
    assert tree(home) == before


def test_an_answer_with_another_ones_certificate_is_not_kept(coordinator, home, tmp_path, monkeypatch):
    other = enrol(tmp_path / "ward-b", coordinator.token("ward-b"))
    real = client.enrolment.call_enrol

    def exchanged(*arguments):
        answer = real(*arguments)
        object.__setattr__(answer, "certificate_pem", other.certificate_path.read_text())
        return answer

    monkeypatch.setattr("client.enrolment.call_enrol", exchanged)
    with pytest.raises(EnrolmentError, match="not this client's; it was not kept"):
        enrol(home, coordinator.token())
    assert not (home / "identity/certificate.pem").exists()


def serial_of(identity):
    return x509.load_pem_x509_certificate(identity.certificate_path.read_bytes()).serial_number


def test_a_renewal_replaces_the_certificate_and_nothing_else(coordinator, home):
    first = serial_of(enrol(home, coordinator.token()))
    before = tree(home)
    renewed = renew(home)
    assert serial_of(renewed) != first
    changed = {name for name, data in tree(home).items() if before[name] != data}
    assert changed == {"identity/certificate.pem"}
    assert not coordinator.store.identities.is_revoked(serial_of(renewed))
    assert not coordinator.store.identities.is_revoked(first)


def test_a_revoked_client_gets_no_new_certificate(coordinator, home):
    enrol(home, coordinator.token())
    coordinator.store.identities.revoke_name("ward-a")
    before = tree(home)
    with pytest.raises(EnrolmentError, match="revoked"):
        renew(home)
    assert tree(home) == before


def test_a_running_client_renews_when_less_than_a_third_of_the_life_is_left(coordinator, home, caplog):
    first = enrol(home, coordinator.token())
    now = datetime.datetime.now(datetime.UTC)
    assert not needs_renewal(first, now + 19 * DAY)
    assert needs_renewal(first, now + 21 * DAY)
    once = threading.Event()
    once.set()
    before = serial_of(first)
    keep_renewed(home, once, now=lambda: now + 19 * DAY)
    assert serial_of(first) == before
    with caplog.at_level(logging.INFO):
        keep_renewed(home, once, now=lambda: now + 21 * DAY)
    assert serial_of(first) != before
    assert "was renewed" in caplog.text


def test_a_renewal_that_fails_is_logged_and_the_client_goes_on(coordinator, home, caplog):
    identity = enrol(home, coordinator.token())
    coordinator.store.identities.revoke_name("ward-a")
    once = threading.Event()
    once.set()
    before = serial_of(identity)
    keep_renewed(home, once, now=lambda: datetime.datetime.now(datetime.UTC) + 25 * DAY)
    assert serial_of(identity) == before
    assert "could not be renewed" in caplog.text


def test_a_home_that_was_joined_by_hand_is_not_renewed(tmp_path):
    tmp_path.joinpath("home").mkdir()
    keep_renewed(tmp_path / "home", threading.Event())  # ends at once: nothing to renew
    with pytest.raises(IdentityError, match="no such file"):
        renew(tmp_path / "home")


def test_the_doctor_sees_who_the_client_is_a_renewal_that_is_due_and_a_part_that_is_missing(
    coordinator, home, monkeypatch
):
    from motet.doctor import client_side

    def found():
        return [(f.level, f.what, f.mend) for f in client_side._identity(home)]

    assert found() == []  # not enrolled: nothing to say
    identity = enrol(home, coordinator.token())
    assert [level for level, *_ in found()] == ["ok"]
    assert f"ward-a of {identity.federation}" in found()[0][1]
    monkeypatch.setattr(client_side, "needs_renewal", lambda _identity, _now: True)
    assert found()[0][::2] == ("warning", f"motet client renew --home {home}")
    (home / "identity/ca.pem").unlink()
    assert found()[0][0] == "failure"

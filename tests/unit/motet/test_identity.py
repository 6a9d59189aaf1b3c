"""An identity's folder: its parts belong together, nobody else reads its key, and its dates are looked at."""

import datetime
import json
import shutil

import pytest
from cryptography import x509

from coordinator.authority import issue_identity
from motet.identity import (
    ExpiredIdentityError,
    IdentityError,
    check_name,
    federation_of,
    identity_of,
    identity_uri,
    load_identity,
    parse_identity_uri,
)

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("authority")
    ann = issue_identity(
        folder / "home", "researcher", "ann", folder / "ann", control="127.0.0.1:8444", now=NOW
    )
    issue_identity(folder / "home", "auditor", "bea", folder / "bea")
    issue_identity(folder / "other", "researcher", "ann", folder / "stranger")
    return ann


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made.folder, tmp_path / "ann")


def test_an_issued_identity_says_who_it_is_and_where_the_coordinator_is(made):
    authority = x509.load_pem_x509_certificate(made.authority_path.read_bytes())
    assert (made.role, made.name, made.control) == ("researcher", "ann", "127.0.0.1:8444")
    assert made.federation == federation_of(authority)
    certificate = x509.load_pem_x509_certificate(made.certificate_path.read_bytes())
    assert identity_of(certificate) == (made.federation, "researcher", "ann")
    assert load_identity(made.folder) == made


def test_the_folder_and_the_key_are_for_its_owner_alone(made, folder):
    assert made.folder.stat().st_mode & 0o777 == 0o700
    assert made.key_path.stat().st_mode & 0o777 == 0o600
    (folder / "key.pem").chmod(0o640)
    with pytest.raises(IdentityError, match="others may read") as refused:
        load_identity(folder)
    assert refused.value.hint == f"chmod 600 {folder / 'key.pem'}"


def test_a_certificate_is_good_for_its_time_and_five_minutes_of_difference_between_clocks(folder):
    minutes = datetime.timedelta(minutes=1)
    load_identity(folder, now=NOW + 29 * DAY)
    load_identity(folder, now=NOW - 9 * minutes)  # 5 of the certificate, 5 of ours
    with pytest.raises(ExpiredIdentityError, match="ended on"):
        load_identity(folder, now=NOW + 31 * DAY)
    with pytest.raises(ExpiredIdentityError, match="begins on"):
        load_identity(folder, now=NOW - 12 * minutes)


@pytest.mark.parametrize("name", ["key.pem", "certificate.pem", "ca.pem", "identity.json"])
def test_a_missing_damaged_or_exchanged_part_is_named(made, folder, name):
    whole = (folder / name).read_bytes()
    other = "bea" if name in {"key.pem", "certificate.pem", "identity.json"} else "stranger"
    (folder / name).write_bytes((made.folder.parent / other / name).read_bytes())
    with pytest.raises(IdentityError):
        load_identity(folder)
    (folder / name).write_bytes(whole[:20])
    with pytest.raises(IdentityError, match=name.replace(".", r"\.")):
        load_identity(folder)
    (folder / name).unlink()
    with pytest.raises(IdentityError, match="no such file"):
        load_identity(folder)


def test_a_name_in_identity_json_does_not_change_who_somebody_is(folder):
    facts = json.loads((folder / "identity.json").read_text())
    (folder / "identity.json").write_text(json.dumps({**facts, "role": "operator"}))
    with pytest.raises(IdentityError, match="not of one identity"):
        load_identity(folder)


@pytest.mark.parametrize(
    "name", ["../x", "a/b", "", "-a", "a" * 64, "\u0430nn", "a\x00", "a\n", "x' OR 1=1 --", "a b"]
)
def test_names_are_short_plain_words(name):
    with pytest.raises(IdentityError, match="is no name"):
        check_name(name)
    with pytest.raises(IdentityError):
        parse_identity_uri(identity_uri("f-00", "client", name))


def test_an_identity_uri_has_one_reading():
    assert parse_identity_uri("spiffe://f-1/client/ward-a") == ("f-1", "client", "ward-a")
    for wrong in (
        "spiffe://f-1/root/ann",
        "spiffe:///client/ann",
        "http://f-1/client/ann",
        "spiffe://f-1/client/ann/more",
        "spiffe://f-1/client/ann?x",
        "spiffe://F-1/client/ann",
    ):
        with pytest.raises(IdentityError):
            parse_identity_uri(wrong)

"""The authority: made once, kept for ever; certificates that say who, for a short time, and that are on record."""

import datetime
import os
import threading

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from coordinator.authority import ensure_authority, issue_identity
from coordinator.authority.issuing import requested_key
from coordinator.storage.where import open_store
from coordinator.tls import CertificateError, ensure_certificates, write_private
from motet.identity import IdentityError, load_identity

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)


def server_chain(home):
    return x509.load_pem_x509_certificates((home / "tls" / "server.pem").read_bytes())


def test_the_authority_of_a_home_is_made_once_and_is_the_same_ever_after(tmp_path):
    made = ensure_authority(tmp_path / "home")
    assert (tmp_path / "home/tls/ca.key").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "home/tls").stat().st_mode & 0o777 == 0o700
    again = ensure_authority(tmp_path / "home", names=["fed.example.org"])
    assert (again.federation, again.pin, again.pem) == (made.federation, made.pin, made.pem)
    assert ensure_authority(tmp_path / "another").federation != made.federation


def test_a_secret_is_written_to_a_new_file_of_its_own_whatever_lay_there(tmp_path):
    secret, other = tmp_path / "token", tmp_path / "other"
    other.write_bytes(b"somebody else's")
    for lay in (lambda: secret.symlink_to(other), lambda: (secret.write_bytes(b"old"), secret.chmod(0o666))):
        lay()
        before = os.umask(0)
        try:
            write_private(secret, b"new")
        finally:
            os.umask(before)
        assert (secret.read_bytes(), secret.stat().st_mode & 0o777) == (b"new", 0o600)
        assert not secret.is_symlink()
        secret.unlink()
    assert other.read_bytes() == b"somebody else's"


def test_two_commands_that_start_in_one_new_home_make_one_authority(tmp_path):
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(ensure_authority(tmp_path / "home").pin))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6
    assert len(set(found)) == 1


@pytest.mark.parametrize("lost", ["ca.key", "ca.crt", "server.pem"])
def test_a_part_that_is_lost_is_not_replaced_by_a_new_authority(tmp_path, lost):
    ensure_authority(tmp_path)
    (tmp_path / "tls" / lost).unlink()
    with pytest.raises(CertificateError, match=f"{lost} missing"):
        ensure_authority(tmp_path)
    assert not (tmp_path / "tls" / lost).exists()


def test_the_servers_certificate_is_renewed_before_its_end_under_the_same_key_and_authority(tmp_path):
    made = ensure_authority(tmp_path, names=["fed.example.org"], now=NOW)
    first = server_chain(tmp_path)
    ensure_authority(tmp_path, now=NOW + 300 * DAY)
    assert server_chain(tmp_path)[0] == first[0]
    ensure_authority(tmp_path, now=NOW + 360 * DAY)
    renewed = server_chain(tmp_path)
    assert renewed[0].not_valid_after_utc > first[0].not_valid_after_utc + 300 * DAY
    assert renewed[0].public_key() == first[0].public_key()
    assert renewed[1] == made.certificate
    names = renewed[0].extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "fed.example.org" in names.get_values_for_type(x509.DNSName)


def test_a_home_of_before_there_were_identities_keeps_its_authority_and_clients_trust_its_server(tmp_path):
    """Earlier versions wrote the server's certificate without the authority's after it."""
    ensure_certificates(tmp_path / "tls", [], NOW)
    alone = server_chain(tmp_path)[0]
    (tmp_path / "tls/server.pem").write_bytes(alone.public_bytes(serialization.Encoding.PEM))
    ca = (tmp_path / "tls/ca.crt").read_bytes()
    authority = ensure_authority(tmp_path)
    assert (tmp_path / "tls/ca.crt").read_bytes() == ca
    server, sent = server_chain(tmp_path)
    server.verify_directly_issued_by(authority.certificate)
    assert sent == authority.certificate


def test_a_certificate_has_one_uri_client_auth_and_no_power_to_sign(tmp_path):
    authority = ensure_authority(tmp_path)
    key = ec.generate_private_key(ec.SECP256R1())
    issued = authority.certify(key.public_key(), "client", "ward-a", now=NOW, lifetime=7 * DAY)
    made = x509.load_pem_x509_certificate(issued.pem.encode())
    made.verify_directly_issued_by(authority.certificate)
    of = made.extensions.get_extension_for_class
    names = of(x509.SubjectAlternativeName).value
    assert [n.value for n in names] == [f"spiffe://{authority.federation}/client/ward-a"]
    assert list(of(x509.ExtendedKeyUsage).value) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert not of(x509.BasicConstraints).value.ca
    assert not of(x509.KeyUsage).value.key_cert_sign
    assert made.not_valid_before_utc <= NOW - datetime.timedelta(minutes=4)
    assert made.not_valid_after_utc - NOW <= 7 * DAY
    assert issued.fingerprint == made.fingerprint(hashes.SHA256()).hex()


@pytest.mark.parametrize(
    ("role", "name", "lifetime"),
    [("root", "a", DAY), ("client", "../a", DAY), ("client", "a", 0 * DAY), ("client", "a", 500 * DAY)],
)
def test_no_certificate_for_another_role_a_bad_name_or_a_long_life(tmp_path, role, name, lifetime):
    key = ec.generate_private_key(ec.SECP256R1())
    with pytest.raises(IdentityError):
        ensure_authority(tmp_path).certify(key.public_key(), role, name, now=NOW, lifetime=lifetime)


def request_for(key, signer=None):
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "whoever")])
    made = x509.CertificateSigningRequestBuilder().subject_name(name)
    return made.sign(signer or key, None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256())


def test_a_request_counts_for_the_key_that_signed_it_and_for_nothing_else():
    key = ec.generate_private_key(ec.SECP256R1())
    pem = request_for(key).public_bytes(serialization.Encoding.PEM)
    assert requested_key(pem.decode()) == key.public_key()
    der = bytearray(request_for(key).public_bytes(serialization.Encoding.DER))
    der[-1] ^= 1
    import base64

    forged = "-----BEGIN CERTIFICATE REQUEST-----\n" + base64.encodebytes(bytes(der)).decode()
    with pytest.raises(IdentityError):
        requested_key(forged + "-----END CERTIFICATE REQUEST-----\n")
    for wrong in (ec.generate_private_key(ec.SECP384R1()), ed25519.Ed25519PrivateKey.generate()):
        with pytest.raises(IdentityError, match="P-256"):
            requested_key(request_for(wrong).public_bytes(serialization.Encoding.PEM).decode())
    for noise in (
        "",
        "x" * 9000,
        "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
    ):
        with pytest.raises(IdentityError):
            requested_key(noise)


def test_an_identity_is_on_record_before_it_is_handed_out_and_a_client_is_not_made_here(tmp_path):
    ann = issue_identity(tmp_path / "home", "researcher", "ann", tmp_path / "ann")
    serial = x509.load_pem_x509_certificate(ann.certificate_path.read_bytes()).serial_number
    store = open_store(tmp_path / "home")
    try:
        assert not store.identities.is_revoked(serial)
        store.identities.revoke_name("ann", "left the house")
        assert store.identities.is_revoked(serial)
    finally:
        store.close()
    again = issue_identity(tmp_path / "home", "researcher", "ann", tmp_path / "ann")
    assert load_identity(again.folder) == again
    with pytest.raises(IdentityError, match="made by the client itself"):
        issue_identity(tmp_path / "home", "client", "ward-a", tmp_path / "ward-a")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").write_text("mine")
    with pytest.raises(IdentityError, match="not an earlier export"):
        issue_identity(tmp_path / "home", "auditor", "bea", tmp_path / "full")

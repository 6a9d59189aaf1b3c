"""``motet ca`` and ``motet client enrol``, as people type them."""

import io
import json

import pytest
from enrolling import Coordinator

from motet.addresses import Addresses, remember_addresses
from motet.cli.main import main
from motet.enrolment import parse_token
from motet.errors import NotFoundError
from motet.identity import IdentityError, load_identity
from motet.reaching import connect


@pytest.fixture
def motet(capsys):
    def run(*arguments):
        try:
            main([str(a) for a in arguments])
            code = 0
        except SystemExit as e:
            code = e.code or 0
        out = capsys.readouterr()
        return code, out.out, out.err

    return run


@pytest.fixture
def coordinator(tmp_path):
    made = Coordinator(tmp_path / "home")
    yield made
    made.close()


def test_from_nothing_to_an_enrolled_client_and_out_again(motet, coordinator, tmp_path):
    home, ward = ("--home", coordinator.home), ("--home", tmp_path / "ward-a")
    code, out, _ = motet("ca", "init", *home, "--json")
    assert (code, json.loads(out)["pin"]) == (0, coordinator.authority.pin)
    remember_addresses(
        coordinator.home, Addresses(control=coordinator.control, enrolment=coordinator.address)
    )
    file = tmp_path / "ward-a.token"
    code, out, err = motet("ca", "token", "--client", "ward-a", "--lifetime", "2h", "--out", file, *home)
    assert code == 0
    token = file.read_text().strip()
    assert token not in out + err
    assert file.stat().st_mode & 0o777 == 0o600
    code, out, err = motet("client", "enrol", "--token-file", file, *ward)
    assert code == 0
    assert "ward-a belongs to federation" in out
    assert token not in out + err
    assert load_identity(tmp_path / "ward-a/identity").name == "ward-a"
    assert motet("client", "renew", *ward)[0] == 0
    code, out, _ = motet("ca", "list", *home, "--json")
    assert [(r["name"], r["revoked_at"]) for r in json.loads(out)["identities"]] == [("ward-a", None)] * 2
    code, out, _ = motet("ca", "revoke", "ward-a", "--reason", "laptop stolen", *home)
    assert "client ward-a: 2 certificates revoked; the client is out" in out
    code, _, err = motet("client", "renew", *ward)
    assert (code, "revoked" in err) == (7, True)
    code, out, _ = motet("ca", "list", *home)
    assert out.count("laptop stolen") == 2


def test_a_token_is_printed_once_alone_on_standard_output_and_can_come_by_standard_input(
    motet, coordinator, tmp_path, monkeypatch
):
    where = ("--home", coordinator.home, "--address", coordinator.address)
    code, out, err = motet("ca", "token", "--client", "ward-a", *where)
    assert (code, parse_token(out).name) == (0, "ward-a")
    assert "not shown again" in err
    monkeypatch.setattr("sys.stdin", io.StringIO(out))
    assert motet("client", "enrol", "--token-file", "-", "--home", tmp_path / "ward-a", "--json")[0] == 0
    out = motet("ca", "token", "--client", "ward-b", *where, "--json")[1]
    assert motet("client", "enrol", "--token", json.loads(out)["token"], "--home", tmp_path / "b")[0] == 0


def test_a_person_gets_a_folder_and_one_certificate_can_be_taken_back(motet, coordinator, tmp_path):
    home = ("--home", coordinator.home)
    remember_addresses(
        coordinator.home, Addresses(control=coordinator.control, enrolment=coordinator.address)
    )
    ann = tmp_path / "ann"
    code, out, _ = motet(
        "ca", "issue", "--role", "researcher", "--name", "ann", "--out", ann, *home, "--json"
    )
    assert (code, json.loads(out)["role"]) == (0, "researcher")
    assert load_identity(ann).control == coordinator.control
    motet("ca", "issue", "--role", "researcher", "--name", "ann", "--out", tmp_path / "second", *home)
    first, second = json.loads(motet("ca", "list", *home, "--json")[1])["identities"]
    assert motet("ca", "revoke", first["serial"], *home)[0] == 0
    assert coordinator.store.identities.is_revoked(first["serial"])
    assert not coordinator.store.identities.is_revoked(second["serial"])
    code, out, _ = motet("ca", "show", *home)
    assert coordinator.control in out


def test_a_token_or_an_identity_replaces_nothing_but_its_like(motet, coordinator, tmp_path):
    home = ("--home", coordinator.home, "--address", coordinator.address)
    token, data = tmp_path / "a.token", tmp_path / "a.jsonl"
    data.write_text("{}\n")
    assert motet("ca", "token", "--client", "a", "--out", token, *home)[0] == 0
    before = token.read_text()
    for client, out in (("b", token), ("a", data)):
        code, _, err = motet("ca", "token", "--client", client, "--out", out, *home)
        assert (code, f"holds no token of {client}" in err) == (2, True)
    assert (token.read_text(), data.read_text()) == (before, "{}\n")
    for cut in (
        before,
        before[:40],
        "",
    ):  # positive control: the same client's, whole or cut by a crash, gives way
        token.write_text(cut)
        assert motet("ca", "token", "--client", "a", "--out", token, *home)[0] == 0
        assert parse_token(token.read_text()).name == "a"
    issue = ("ca", "issue", "--out", tmp_path / "ann", *home[:2], "--role", "researcher", "--name")
    assert motet(*issue, "ann")[0] == 0
    key = (tmp_path / "ann/key.pem").read_bytes()
    code, _, err = motet(*issue, "bob")
    assert (code, "holds the identity of researcher ann" in err) == (7, True)
    assert (tmp_path / "ann/key.pem").read_bytes() == key
    assert motet(*issue, "ann")[0] == 0
    assert (tmp_path / "ann/key.pem").read_bytes() != key
    assert len(json.loads(motet("ca", "list", *home[:2], "--json")[1])["identities"]) == 2  # none for bob


def test_what_is_wrong_is_said_with_what_to_do(motet, coordinator, tmp_path):
    home = ("--home", coordinator.home)
    file = tmp_path / "cut.token"
    file.write_text(coordinator.token()[:80])
    for arguments, code, words in (
        (("ca", "token", "--client", "ward-a", *home), 2, "give --address HOST:PORT"),
        (("ca", "token", "--client", "ward-a", "--lifetime", "soon", *home), 2, "for example 30m"),
        (
            ("ca", "issue", "--role", "client", "--name", "a", "--out", tmp_path / "a", *home),
            7,
            "motet ca token",
        ),
        (("ca", "issue", "--role", "boss", "--name", "a", "--out", tmp_path / "a", *home), 2, "is none of"),
        (("ca", "revoke", "nobody", *home), 2, "motet ca list"),
        (("ca", "revoke", "ffff", *home), 2, "motet ca list"),
        (("ca", "show", "--home", tmp_path / "none"), 7, "motet ca init"),
        (("client", "enrol", "--home", tmp_path / "b"), 2, "--token-file keeps it out"),
        (("client", "enrol", "--token-file", file, "--home", tmp_path / "b"), 2, "cut or mistyped"),
        (
            ("client", "enrol", "--token-file", tmp_path / "none", "--home", tmp_path / "b"),
            2,
            "can not be read",
        ),
        (("client", "renew", "--home", tmp_path / "b"), 7, "motet client enrol"),
        (("client", "start", "--data", file, "--home", tmp_path / "b"), 2, "is not enrolled"),
    ):
        found = motet(*arguments)
        assert (found[0], words in " ".join(found[2].split())) == (code, True), (arguments, found)


def test_without_a_running_coordinator_the_home_answers_who_belongs_to_it(coordinator, motet):
    home = coordinator.home
    remember_addresses(home, Addresses(control=coordinator.control, enrolment=coordinator.address))
    motet("ca", "issue", "--role", "auditor", "--name", "bea", "--out", home / "bea", "--home", home)
    with connect(home=home) as operator:
        assert [r.name for r in operator.identities.list()] == ["bea"]
        told = operator.identities.token("ward-a")
        assert (parse_token(told.token).name, told.enrol_address) == ("ward-a", coordinator.address)
        assert told.token not in repr(told)
        assert len(operator.identities.revoke("bea", reason="left").serials) == 1
        with pytest.raises(NotFoundError):
            operator.identities.revoke("nobody")
        with pytest.raises(IdentityError):
            operator.identities.token("../ward")

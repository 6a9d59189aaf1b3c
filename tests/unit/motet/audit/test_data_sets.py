"""What was spent by (client, data set, unit): from the owner's word, beside what the coordinator counts by client."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
from audit_houses import EVENT
from cryptography.hazmat.primitives import serialization

from client.errors import LedgerError
from client.ledger import ClientLedger
from client.lineage import Lineages
from client.receipts import receipts_of
from motet.audit.data_sets import spending_by_data_set
from motet.audit.receipts import open_receipts
from motet.audit.report.facts import build_report
from motet.audit.report.page import render
from motet.audit.verify import verify_bundle
from motet.cli.main import main
from motet.clock import SystemClock
from privacy.accounting import epsilon_pld
from privacy.ledger.canonical import canonical_bytes, parse_canonical


class Owner:
    """Client a of a house, with a home, data sets and charges of its own."""

    def __init__(self, house, home):
        self.home = home
        home.mkdir()
        pem = house.keys["a"].private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        (home / "client.key").write_bytes(pem)
        self.lineages, self.ledger = Lineages(home), ClientLedger(home / "ledger.jsonl")

    def charge(self, texts, rounds, event=EVENT):
        path = self.home / "data.jsonl"
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        found = self.lineages.identify(path)
        self._reserve(found.name, rounds, event, found.names)

    def charge_file_hash(self, rounds):
        self._reserve("0" * 64, rounds, EVENT, ())

    def _reserve(self, name, rounds, event, names):
        places = [(index, 0) for index in rounds]
        self.ledger.reserve_all(
            places,
            data_set=name,
            run_id="r-1",
            event=event,
            epsilon_cap=None,
            target_delta=1e-5,
            joined=names,
        )

    def receipts(self):
        return receipts_of(self.home, "a", SystemClock())


@pytest.fixture
def owner(house, tmp_path):
    return Owner(house, tmp_path / "home")


ONE = [f"a letter of the first ward, number {i}" for i in range(4)]
TWO = [f"a letter of the second ward, number {i}" for i in range(4)]


def found(house, owner):
    result = verify_bundle(house.bundle(countersignatures=[owner.receipts()]))
    assert result.is_ok, result.findings
    return result


def test_the_budget_is_of_client_data_set_and_unit_over_all_runs(house, owner):
    house.play(range(5), clients=("a",))
    owner.charge(ONE, range(2))
    owner.charge(TWO, range(2, 5))
    result = found(house, owner)
    told = sorted((s.client_id, s.unit, s.charges, s.epsilon_pld) for s in result.data_sets)
    assert told == [
        ("a", "example", n, pytest.approx(epsilon_pld([EVENT] * n, 1e-5), abs=1e-9)) for n in (2, 3)
    ]
    assert len({s.data_set for s in result.data_sets}) == 2


def test_no_data_set_is_above_its_client_and_a_new_one_lowers_nothing_at_the_coordinator(house, owner):
    """The owner names new data in every round; what the coordinator counts and holds to limits goes on."""
    house.play(range(4), clients=("a",))
    for index in range(4):
        owner.charge([f"quite new words, of week {index}, number {i}" for i in range(3)], [index])
    result = found(house, owner)
    (client,) = [c for c in result.clients if c.client_id == "a"]
    assert client.epsilon_pld == pytest.approx(epsilon_pld([EVENT] * 4, 1e-5))
    assert len(result.data_sets) == 4
    # Positive control: had the coordinator counted by the owner's names, it would have seen a quarter of it.
    assert max(s.epsilon_pld for s in result.data_sets) < 0.9 * client.epsilon_pld


def test_data_sets_that_one_row_joins_are_one_budget_with_the_charges_of_both(house, owner):
    house.play(range(2), clients=("a",))
    owner.charge(ONE, range(1))
    owner.charge(TWO, range(1, 2))
    assert [s.charges for s in found(house, owner).data_sets] == [1, 1]
    house.play(range(2, 4), clients=("a",))
    owner.charge([*TWO, ONE[0]], range(2, 4))
    assert [s.charges for s in found(house, owner).data_sets] == [4]


def test_charges_of_before_there_were_data_sets_count_for_every_one(house, owner):
    house.play(range(1), clients=("a",))
    owner.charge_file_hash(range(1))
    assert [(s.data_set, s.charges) for s in found(house, owner).data_sets] == [("every", 1)]
    house.play(range(1, 4), clients=("a",))
    owner.charge(ONE, range(1, 2))
    owner.charge(TWO, range(2, 4))
    assert sorted(s.charges for s in found(house, owner).data_sets) == [2, 3]


def test_units_of_one_data_set_never_add_up(owner):
    owner.charge(ONE, range(2))
    owner.charge(ONE, range(2, 5), dataclasses.replace(EVENT, unit="person"))
    _, charges, _ = open_receipts(owner.receipts())
    assert [(s.unit, s.charges) for s in spending_by_data_set("a", charges, 1e-5)] == [
        ("example", 2),
        ("person", 3),
    ]


def test_an_owner_that_hides_its_data_sets_tells_its_whole_spending_alone(house, owner, tmp_path):
    house.play(range(3), clients=("a",))
    owner.charge(ONE, range(1))
    owner.charge(TWO, range(1, 3))
    hidden = tmp_path / "hidden.json"
    with pytest.raises(SystemExit) as ended:
        main(["audit", "receipts", "a", "--home", str(owner.home), "--out", str(hidden), "--hide-data-sets"])
    assert not ended.value.code
    _, charges, _ = open_receipts(parse_canonical(hidden.read_bytes().rstrip(b"\n")))
    assert {c["data_set"] for c in charges} == {"every"}
    result = verify_bundle(house.bundle(), receipts={"a": hidden.read_bytes()})
    assert result.is_ok
    assert [(s.data_set, s.charges) for s in result.data_sets] == [("every", 3)]
    _, told, _ = open_receipts(owner.receipts())
    assert len({c["data_set"] for c in told}) == 2  # positive control: otherwise it shows that there are two


def test_a_charge_that_can_not_be_read_costs_infinity():
    (told,) = spending_by_data_set("a", [{"data_set": "x", "event": "{"}], 1e-5)
    assert told.epsilon_pld == math.inf


def test_a_tag_is_no_name_of_the_owners_ledger(owner):
    owner.charge(ONE, range(1))
    text = canonical_bytes(owner.receipts()).decode()
    names = owner.lineages.names()
    assert names
    assert not [name for name in names if name in text or name[2:] in text]


def test_a_home_that_forgot_its_data_sets_signs_nothing(owner):
    owner.charge(ONE, range(1))
    for name in ("lineages.jsonl", "lineages.head"):
        (owner.home / name).unlink(missing_ok=True)
    with pytest.raises(LedgerError):
        owner.receipts()


def test_the_command_and_the_page_show_both_figures(house, owner, tmp_path, capsys):
    house.play(range(3), clients=("a",))
    owner.charge(ONE, range(1))
    owner.charge(TWO, range(1, 3))
    path = tmp_path / "bundle.jsonl"
    path.write_bytes(house.bundle(countersignatures=[owner.receipts()]))
    for words in ([], ["--json"]):
        with pytest.raises(SystemExit) as ended:
            main(["audit", "verify", str(path), *words])
        assert not ended.value.code
    shown = capsys.readouterr().out
    told = json.loads(shown.strip().splitlines()[-1])
    assert [s["charges"] for s in told["data_sets"]] in ([1, 2], [2, 1])
    assert "by data set, as owners signed" in shown
    page = render(build_report(verify_bundle(path.read_bytes()), facts={}))
    assert page.count(told["data_sets"][0]["data_set"][:12]) == 1
    assert "signed word" in page

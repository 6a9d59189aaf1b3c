"""Clients, budgets and the ledger's head, as the dashboard shows them."""

import csv
import io

import pytest
from dashboard_home import EVENT, Status, play, recipe, site, submit

from client.keys import init_key
from client.ledger import ClientLedger
from client.receipts import receipts_of
from coordinator.dashboard.budgets import Budgets
from coordinator.dashboard.pages.clients import clients_page
from coordinator.dashboard.pages.privacy import Gauge, privacy_page
from coordinator.registration import register
from coordinator.storage.identities import IssuedCertificate
from privacy.accounting import epsilon_pld
from privacy.ledger.canonical import canonical_bytes

DAY = 86_400.0


@pytest.fixture
def patient(monkeypatch):
    """A page waits until the accountant is done, also on a machine that takes its time."""
    monkeypatch.setattr("coordinator.dashboard.budgets.FIRST_WAIT_S", 60.0)


@pytest.fixture
def served(tmp_path):
    home = tmp_path / "home"
    for name in ("a", "b"):
        register(home, name, init_key(tmp_path / name))
    with site(home, status=Status(["a"], {"a": 1_790_000_005.0, "b": 1_790_000_001.0})) as made:
        yield made


def test_a_client_shows_presence_rank_and_its_last_answer(served):
    submit(served.store, "r-1")
    play(served.store, "r-1", 0, failing=("b",), code="policy_refused", message="clause max_epsilon")
    page = clients_page(served.records, certificates=False, now=served.clock.now())
    by_name = {c.client_id: c for c in page.clients}
    assert (page.total, page.online) == (3, 1)
    assert [by_name[c].presence for c in "abc"] == ["online", "offline", "offline"]
    assert (by_name["a"].rank, by_name["a"].last_outcome, by_name["a"].last_run) == (2, "answered", "r-1")
    assert (by_name["b"].last_outcome, by_name["b"].refusal) == ("failed", "clause max_epsilon")
    assert by_name["a"].seen_at == 1_790_000_005.0
    assert by_name["c"].seen_at == served.clock.now(), "its last answer is when it was last known to be there"
    listed = list(csv.DictReader(io.StringIO(served.sign_in().get("/clients.csv").text)))
    assert [row["presence"] for row in listed] == ["online", "offline", "offline"]


def test_after_a_restart_a_client_is_last_seen_when_it_was_last_there(tmp_path):
    home = tmp_path / "home"
    for name in ("a", "b"):
        register(home, name, init_key(tmp_path / name))
    with site(home, status=Status(["b"], {"b": 1_790_000_009.0})) as made:
        made.store.sightings.record({"a": 1_790_000_005.0, "b": 1_790_000_005.0})
        page = clients_page(made.records, certificates=False, now=made.clock.now())
        assert [c.seen_at for c in page.clients] == [1_790_000_005.0, 1_790_000_009.0]
        assert [c.presence for c in page.clients] == ["offline", "online"]


def test_the_newest_round_of_all_runs_is_the_last_that_a_client_was_asked(served):
    for run in ("r-z", "r-a"):
        submit(served.store, run)
        served.clock.at += 10
        play(served.store, run)
    page = clients_page(served.records, certificates=False, now=0.0)
    assert {c.last_run for c in page.clients} == {"r-a"}


def certificate(served, serial, name, days):
    issued = IssuedCertificate(
        serial=serial,
        role="client",
        name=name,
        fingerprint=serial * 2,
        pem="-",
        not_after=served.clock.now() + days * DAY,
    )
    served.store.identities.record(issued)


@pytest.mark.parametrize(("days", "state"), [(30, "holds"), (10, "ends soon"), (-1, "ended")])
def test_certificates_are_shown_to_those_who_may_list_identities(served, days, state):
    certificate(served, "ab", "a", days)
    page = clients_page(served.records, certificates=True, now=served.clock.now())
    assert next(c for c in page.clients if c.client_id == "a").certificate.state == state
    assert "Certificate" in served.sign_in("auditor").get("/clients").text
    hidden = served.sign_in("researcher")
    assert "Certificate" not in hidden.get("/clients").text
    assert all(not c["certificate"] for c in hidden.get("/clients.json").json()["clients"])


def test_a_revoked_certificate_and_a_revoked_client_are_said_so(served):
    certificate(served, "ab", "a", 30)
    served.store.identities.revoke_name("a", "lost")
    page = clients_page(served.records, certificates=True, now=served.clock.now())
    first = page.clients[0]
    assert (first.presence, first.certificate.state) == ("revoked", "revoked")


def test_budgets_are_those_of_the_accountant_and_the_curve_ends_there(served):
    submit(served.store, "r-1")
    for i in range(3):
        served.clock.at += 60
        play(served.store, "r-1", i, failing=("b",) if i == 2 else ())
    budgets = Budgets(served.store, served.database)
    page = privacy_page(served.records, budgets, tells_data_sets=True, within_s=60)
    by_name = {g.client_id: g for g in page.gauges}
    three, two = epsilon_pld([EVENT] * 3, 1e-5), epsilon_pld([EVENT] * 2, 1e-5)
    assert by_name["a"].total == pytest.approx(three)
    assert (by_name["b"].total, by_name["b"].spent) == (pytest.approx(three), pytest.approx(two))
    assert (by_name["b"].open_charges, by_name["b"].limit) == (1, 8.0)
    for curve in page.curves:
        assert [len(curve.points), curve.points[-1][1]] == [3, pytest.approx(three)]
    served.clock.at += 60
    submit(served.store, "r-2")
    play(served.store, "r-2")
    assert budgets.look()[1], "a charge more makes the figures old"


@pytest.mark.usefixtures("patient")
def test_a_data_set_has_its_gauge_for_those_who_are_told_and_for_nobody_else(served, tmp_path):
    submit(served.store, "r-1")
    play(served.store, "r-1")
    home = tmp_path / "owner"
    served.store.register_client("a", init_key(home).read_bytes())
    ledger = ClientLedger(home / "ledger.jsonl")
    options = {"run_id": "r-1", "round_index": 0, "attempt": 0, "event": EVENT}
    ledger.settle(ledger.reserve(data_set="d", **options, epsilon_cap=None, target_delta=1e-5))
    served.store.witnessed.take(canonical_bytes(receipts_of(home, "a", served.clock)) + b"\n")
    auditor, researcher = served.sign_in("auditor"), served.sign_in("researcher")
    told = {g["client_id"]: g["data_sets"] for g in auditor.get("/privacy.json").json()["gauges"]}
    assert [len(told["a"]), len(told["b"])] == [1, 0]
    assert told["a"][0]["total"] == pytest.approx(epsilon_pld([EVENT], 1e-5))
    tag = told["a"][0]["data_set"]
    assert tag[:8] in auditor.get("/privacy").text
    assert tag in auditor.get("/budgets.csv").text
    for page in ("/privacy", "/privacy.json", "/budgets.csv"):
        assert tag[:8] not in researcher.get(page).text


@pytest.mark.parametrize(
    ("total", "limit", "state"),
    [(1.0, None, "no limit"), (1.0, 8.0, "within"), (6.4, 8.0, "nearly spent"), (8.0, 8.0, "spent"),
     (float("inf"), 8.0, "spent")],
)  # fmt: skip
def test_a_gauge_says_how_much_of_its_limit_is_spent(total, limit, state):
    gauge = Gauge(
        client_id="a",
        unit="example",
        target_delta=1e-5,
        spent=total,
        total=total,
        limit=limit,
        charges=1,
        open_charges=0,
        runs=(),
    )
    assert gauge.state == state
    assert 0.0 <= gauge.part <= 1.0


def test_the_page_of_privacy_shows_the_signed_head_and_what_waits(served):
    client = served.sign_in()
    submit(served.store, "r-1")
    signed = served.store.ledger.publish()
    play(served.store, "r-1")
    page = client.get("/privacy.json").json()
    assert (page["head"]["size"], page["head"]["root"]) == (signed.size, signed.root.hex())
    assert page["head"]["waiting"] == served.store.ledger.unpublished() > 0
    text = client.get("/privacy").text
    assert 'href="/ledger"' in text
    assert client.get("/ledger/checkpoint.json").json()["root"] == signed.root.hex()


@pytest.mark.usefixtures("patient")
def test_places_without_clients_and_charges_say_the_next_command(tmp_path):
    with site(tmp_path / "empty") as made:
        client = made.sign_in()
        assert "motet ca token" in client.get("/clients").text
        assert client.get("/privacy.json").json()["gauges"] == []
        assert "Nothing was charged" in client.get("/privacy").text
        made.store.submit_run(recipe(private=False), run_id="r-1")
        assert client.get("/clients.json").json()["online"] is None

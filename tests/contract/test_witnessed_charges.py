"""A client's own signed record raises the coordinator's count of its charges, and never lowers it."""

import json

import pytest
from control_house import house

from client.keys import init_key, load_key
from client.ledger import ClientLedger
from client.receipts import receipts_of
from coordinator.errors import BudgetRefusedError
from coordinator.storage.witnessed import ReceiptsRefusedError
from motet.audit.receipts import sign_receipts
from motet.cli.main import main
from motet.clock import SystemClock
from motet.connection.errors import NotAllowedError
from motet.enrolment import AdmissionRefusedError
from motet.errors import NotFoundError
from motet.recipe import parse_recipe
from privacy.accounting import epsilon_pld
from privacy.events import PoissonGaussianEvent
from privacy.ledger.canonical import canonical_bytes

RECIPE = """
name: witnessed
base_model: {tiny: tiny-bert}
task: {kind: sequence-classification, num_labels: 2}
data: {path: none.jsonl}
adapter: {lora_rank: 2}
method: {name: flora}
cohort: {clients: [a, b], minimum: 1}
training: {rounds: 9, local_steps: 2}
privacy: {noise_multiplier: 1.0, sampling_rate: 0.1, epsilon_limit: 20, target_delta: 1.0e-5}
"""
EVENT = PoissonGaussianEvent(noise_multiplier=1.0, sampling_rate=0.1, num_steps=2)


@pytest.fixture
def store(place):
    made = place.open()
    yield made
    made.close()


def owner(folder, store, client="a", rounds=3):
    """A client that is registered and has charged itself for so many rounds of r-1; its signed record."""
    store.register_client(client, init_key(folder / client).read_bytes())
    return record(folder, client, range(rounds))


def record(folder, client, rounds):
    ledger = ClientLedger(folder / client / "ledger.jsonl")
    for index in rounds:
        options = {"run_id": "r-1", "round_index": index, "attempt": 0, "event": EVENT}
        ledger.settle(ledger.reserve(data_set="d", **options, epsilon_cap=None, target_delta=1e-5))
    return canonical_bytes(receipts_of(folder / client, client, SystemClock(), names_data_sets=False)) + b"\n"


def plan(store, index, may_spend=None):
    store.plan_round(
        "r-1", index, 0, start_sha256="0" * 64, deadline_s=5, ranks={"a": 2}, event=EVENT, may_spend=may_spend
    )


def epsilon(store, client="a"):
    return epsilon_pld(store.spent_by([client])[client], 1e-5)


def test_what_the_record_holds_and_the_database_lacks_counts_in_every_look(store, tmp_path):
    store.submit_run(parse_recipe(RECIPE), run_id="r-1")
    plan(store, 0)
    document = owner(tmp_path, store)
    assert epsilon(store) == pytest.approx(epsilon_pld([EVENT], 1e-5))  # control: as after an older backup
    told = store.witnessed.take(document)
    assert (told.client_id, told.charges, told.added) == ("a", 3, 2)
    whole = epsilon_pld([EVENT] * 3, 1e-5)
    assert epsilon(store) == pytest.approx(whole)
    assert epsilon_pld(store.spent_events("a"), 1e-5) == pytest.approx(whole)
    assert store.witnessed.take(document).added == 0
    assert epsilon(store) == pytest.approx(whole)
    seen = []

    def may_spend(client_id, events):
        seen.append(epsilon_pld(events, 1e-5))
        raise BudgetRefusedError("it would pass the limit")

    with pytest.raises(BudgetRefusedError):  # the plan of the next round looks at the higher count
        plan(store, 5, may_spend)
    assert seen == [pytest.approx(whole)]


def test_a_charge_that_comes_back_with_a_newer_backup_is_not_counted_twice(store, tmp_path):
    store.submit_run(parse_recipe(RECIPE), run_id="r-1")
    store.witnessed.take(owner(tmp_path, store))
    for index in range(3):
        plan(store, index)
    assert epsilon(store) == pytest.approx(epsilon_pld([EVENT] * 3, 1e-5))
    assert store.witnessed.lacking() == []
    plan(store, 3)
    store.witnessed.take(record(tmp_path, "a", []))  # the record lacks what the coordinator has: it stays
    assert epsilon(store) == pytest.approx(epsilon_pld([EVENT] * 4, 1e-5))


def test_a_record_that_another_key_signed_or_that_was_changed_changes_nothing(store, tmp_path):
    document = owner(tmp_path, store)
    foreign = owner(tmp_path / "other", store, "b")
    store.register_client("a", init_key(tmp_path / "new").read_bytes())
    forged = document.replace(b'"round_index":0', b'"round_index":7')
    for bad in (document, forged, b"[]", b"{", foreign.replace(b'"client_id":"b"', b'"client_id":"a"')):
        with pytest.raises(ReceiptsRefusedError):
            store.witnessed.take(bad)
    with pytest.raises(ReceiptsRefusedError):
        store.witnessed.take(foreign, of="a")
    assert store.spent_by(["a", "b"]) == {"a": [], "b": []}
    assert store.witnessed.take(foreign).added == 3  # positive control


@pytest.mark.parametrize(
    "event",
    [
        "{",
        "[" * 100_000,
        EVENT.to_json().replace('"num_steps":2', '"num_steps":' + "9" * 400),
        EVENT.to_json().replace('"noise_multiplier":1.0', '"noise_multiplier":' + "9" * 400),
        EVENT.to_json().replace('"noise_multiplier":1.0', '"noise_multiplier":NaN'),
    ],
    ids=["cut", "nested", "steps", "noise", "nan"],
)
def test_a_signed_record_with_an_event_that_nobody_can_read_breaks_no_look_at_budgets(store, tmp_path, event):
    document = owner(tmp_path, store)
    charge = {
        "attempt": 0,
        "data_set": "d",
        "event": event,
        "round_index": 0,
        "run_id": "r-1",
        "settled": True,
    }
    signed = sign_receipts(
        load_key(tmp_path / "a"), client_id="a", charges=[charge], head=(1, "0" * 64), made_at_ms=1
    )
    with pytest.raises(ReceiptsRefusedError, match="can not be read"):
        store.witnessed.take(canonical_bytes(signed))
    assert store.witnessed.take(document).added == 3  # control: this client's record is taken
    assert len(store.witnessed.lacking()) == 3


def test_a_client_can_not_make_every_look_at_budgets_slow_by_charges_that_all_differ(
    store, tmp_path, monkeypatch
):
    monkeypatch.setattr("coordinator.storage.witnessed.MOST_KINDS", 3)
    store.register_client("a", init_key(tmp_path / "a").read_bytes())

    def told(noises):
        charges = [
            {
                "attempt": 0,
                "data_set": "every",
                "event": EVENT.to_json().replace('"noise_multiplier":1.0', f'"noise_multiplier":{noise}.0'),
                "round_index": noise,
                "run_id": "r-1",
                "settled": True,
            }
            for noise in noises
        ]
        head = (len(charges), "0" * 64)
        key = load_key(tmp_path / "a")
        return canonical_bytes(sign_receipts(key, client_id="a", charges=charges, head=head, made_at_ms=1))

    assert store.witnessed.take(told([1, 2])).added == 2
    assert store.witnessed.take(told([1, 2, 3])).added == 1  # control: as many as may be
    for more in ([4], [4, 5, 6, 7]):
        with pytest.raises(ReceiptsRefusedError, match="kinds"):
            store.witnessed.take(told(more))
    assert len(store.witnessed.lacking()) == 3


def test_an_operator_takes_a_record_and_the_budget_says_whose_word_it_is(tmp_path, capsys):
    with house(tmp_path / "house") as served:
        served.store.submit_run(parse_recipe(RECIPE), run_id="r-1")
        document = owner(tmp_path, served.store)
        (tmp_path / "a.json").write_bytes(document)
        where = ["--coordinator", served.address, "--identity", str(served.identity("operator"))]
        show(["budget", "take-receipts", str(tmp_path / "a.json"), *where, "--json"])
        assert json.loads(capsys.readouterr().out) == {"client_id": "a", "charges": 3, "added": 3}
        show(["budget", "show", *where])
        assert "a: 3 of 3 charges are known by its own signed record alone" in " ".join(
            capsys.readouterr().out.split()
        )
        (budget,) = served.connect("client", "a").budgets.list("a")
        assert budget.total == pytest.approx(epsilon_pld([EVENT] * 3, 1e-5))
        assert served.connect("client", "a").budgets.take_receipts(document).added == 0
        with pytest.raises(AdmissionRefusedError):
            served.connect("client", "b").budgets.take_receipts(document)
        with pytest.raises(NotAllowedError):
            served.connect("researcher").budgets.take_receipts(document)
        stranger = document.replace(b'"client_id":"a"', b'"client_id":"z"')
        with pytest.raises((AdmissionRefusedError, NotFoundError)):
            served.connect("operator").budgets.take_receipts(stranger)


def show(arguments):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert not stop.value.code

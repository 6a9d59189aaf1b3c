"""Budgets by data set: by an owner's signed word, never below what is known, and not for everybody."""

import pytest
from control_house import house

from client.keys import init_key
from client.ledger import ClientLedger
from client.receipts import receipts_of
from coordinator.storage import witnessed
from coordinator.storage.witnessed import ReceiptsRefusedError
from motet.audit.accounts import budget_of
from motet.cli.main import main
from motet.recipe import parse_recipe
from privacy.accounting import epsilon_pld
from privacy.events import PoissonGaussianEvent
from privacy.ledger.canonical import canonical_bytes

RECIPE = """
name: by-data-set
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


class At:
    """The owner's clock."""

    def __init__(self, at):
        self.at = at

    def now(self):
        return self.at


@pytest.fixture
def store(place):
    made = place.open()
    yield made
    made.close()


def register(folder, store, client="a"):
    store.register_client(client, init_key(folder / client).read_bytes())
    store.submit_run(parse_recipe(RECIPE), run_id="r-1")


def charge(folder, store, index, data_set, client="a"):
    """A round: the coordinator charges the client, and the client itself."""
    if store is not None:
        keys = {"start_sha256": "0" * 64, "deadline_s": 5, "ranks": {client: 2}, "event": EVENT}
        store.plan_round("r-1", index, 0, **keys)
    ledger = ClientLedger(folder / client / "ledger.jsonl")
    options = {"run_id": "r-1", "round_index": index, "attempt": 0, "event": EVENT}
    ledger.settle(ledger.reserve(data_set=data_set, **options, epsilon_cap=None, target_delta=1e-5))


def record(folder, at, client="a", names=True):
    document = receipts_of(folder / client, client, At(at), names_data_sets=names)
    return canonical_bytes(document) + b"\n"


def parts(store):
    """(charges, epsilon) of each data set, and what the client spent in all."""
    names = store.witnessed.data_sets()
    (row,) = budget_of(store.charge_bodies(), witnessed=store.witnessed.lacking(), data_sets=names)
    found = [(p["charges"], p["epsilon"]) for p in row["data_sets"]]
    return sorted(found), row["total"]


def spent(count):
    return count, pytest.approx(epsilon_pld([EVENT] * count, 1e-5))


def test_each_data_set_has_what_its_owner_says_and_every_charge_of_which_nobody_says_it(store, tmp_path):
    register(tmp_path, store)
    for index, name in enumerate(("summer", "summer", "winter")):
        charge(tmp_path, store, index, name)
    assert parts(store)[0] == []  # no record yet
    store.witnessed.take(record(tmp_path, 100.0))
    found, total = parts(store)
    assert found == [spent(1), spent(2)]
    assert total == spent(3)[1]
    charge(tmp_path, store, 3, "winter")
    found, total = parts(store)
    assert found == [spent(2), spent(3)]  # the record is older than this charge: it counts for both
    assert max(epsilon for _, epsilon in found) <= total
    store.witnessed.take(record(tmp_path, 200.0))
    assert parts(store)[0] == [spent(2), spent(2)]


def test_a_charge_that_the_record_alone_has_is_of_its_data_set(store, tmp_path):
    register(tmp_path, store)
    charge(tmp_path, store, 0, "summer")
    charge(tmp_path, None, 1, "winter")
    assert store.witnessed.take(record(tmp_path, 100.0)).added == 1
    assert parts(store)[0] == [spent(1), spent(1)]


def test_the_newest_record_holds_and_one_without_names_takes_them_away(store, tmp_path):
    register(tmp_path, store)
    charge(tmp_path, store, 0, "summer")
    older = record(tmp_path, 100.0)
    charge(tmp_path, store, 1, "winter")
    store.witnessed.take(record(tmp_path, 200.0))
    store.witnessed.take(older)
    assert parts(store)[0] == [spent(1), spent(1)]
    store.witnessed.take(record(tmp_path, 300.0, names=False))
    assert parts(store)[0] == []


def test_names_without_end_cost_no_accountant_its_time_and_what_is_no_tag_is_refused(
    store, tmp_path, monkeypatch
):
    register(tmp_path, store)
    for index in range(3):
        charge(tmp_path, store, index, f"set-{index}")
    document = record(tmp_path, 100.0)
    monkeypatch.setattr(witnessed, "MOST_DATA_SETS", 2)
    assert store.witnessed.take(document).charges == 3
    assert parts(store)[0] == []
    monkeypatch.setattr(witnessed, "MOST_DATA_SETS", 3)
    assert len(parts(store)[0]) == 3
    monkeypatch.setattr("client.receipts.data_set_tag", lambda _key, name: f"<b>{name}</b>")
    with pytest.raises(ReceiptsRefusedError, match="tag"):
        store.witnessed.take(record(tmp_path, 200.0))


def test_operator_auditor_and_the_client_are_told_data_sets_and_a_researcher_is_not(tmp_path, capsys):
    with house(tmp_path / "house") as served:
        register(tmp_path, served.store)
        charge(tmp_path, served.store, 0, "summer")
        served.connect("client", "a").budgets.take_receipts(record(tmp_path, 100.0))
        for role in ("operator", "auditor"):
            (budget,) = served.connect(role).budgets.list()
            assert [(p.charges, p.told_at) for p in budget.data_sets] == [(1, 100.0)]
        (own,) = served.connect("client", "a").budgets.list("a")
        assert own.data_sets == budget.data_sets
        (seen,) = served.connect("researcher").budgets.list()
        assert (seen.total, seen.data_sets) == (budget.total, ())
        where = ["--coordinator", served.address, "--identity", str(served.identity("operator"))]
        with pytest.raises(SystemExit):
            main(["budget", "show", *where])
        said = " ".join(capsys.readouterr().out.split())
        assert f"a: data set {budget.data_sets[0].data_set[:8]} has" in said

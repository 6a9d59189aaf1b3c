"""A hundred clients a round: few commits, few queries, and the same charges, entries and files as one by one."""

import dataclasses
import os

import pytest
from one_by_one import order_sent
from small_federation import SHAPE, honest_reply
from sqlalchemy import event as sql_event

from coordinator.engine.delivery import TOGETHER
from coordinator.engine.grid import GridClient
from coordinator.engine.round_engine import RoundEngine
from coordinator.errors import StorageError
from coordinator.storage.artifacts import ArtifactStore
from coordinator.storage.store import Store
from coordinator.storage.telling import Received, Refused, Sent
from motet.clock import SystemClock
from motet.recipe import parse_recipe
from privacy.accounting import epsilon_pld, epsilon_rdp
from privacy.errors import PrivacyError
from privacy.events import PoissonGaussianEvent
from privacy.ledger.chain import verify_chain
from privacy.ledger.rules import check_entries

EVENT = PoissonGaussianEvent(noise_multiplier=1.0, sampling_rate=0.1, num_steps=10)
OTHER = PoissonGaussianEvent(noise_multiplier=2.0, sampling_rate=0.1, num_steps=3)
RECIPE = """
name: many
base_model: {tiny: tiny-bert}
task: {kind: sequence-classification, num_labels: 2}
data: {path: none.jsonl}
adapter: {lora_rank: 1}
method: {name: fedit}
cohort: {minimum: 1}
training: {rounds: 2, local_steps: 2}
"""
PRIVATE = "privacy: {noise_multiplier: 1.0, sampling_rate: 0.1, epsilon_limit: 20}\n"


@dataclasses.dataclass
class ManyClients:
    """Online, and answering at once."""

    names: list
    orders: dict = dataclasses.field(default_factory=dict)

    def online(self):
        return {name: GridClient(client_id=name) for name in self.names}

    def send(self, order, *, deadline_s):
        self.orders[f"m-{order.client_id}-{order.round_index}-{order.attempt}"] = order
        return f"m-{order.client_id}-{order.round_index}-{order.attempt}"

    def collect(self, message_ids):
        return [(m, honest_reply(self.orders.pop(m))) for m in message_ids if m in self.orders]

    def is_known(self, message_id):
        return message_id in self.orders


@pytest.fixture
def store(tmp_path):
    opened = Store.open(tmp_path / "motet.db")
    yield opened
    opened.close()


@pytest.fixture
def commits(store):
    """How often the database was written."""
    found = []
    engine = store._database._engine
    sql_event.listen(engine, "before_cursor_execute", lambda *a: found.append(a[2]))
    return lambda: sum("BEGIN IMMEDIATE" in statement for statement in found), found


def run_of(store, folder, count, text=RECIPE):
    grid = ManyClients([f"c{i:03d}" for i in range(count)])
    engine = RoundEngine(grid, store, ArtifactStore(folder / "artifacts"), SystemClock(), shape=SHAPE)
    run = store.submit_run(parse_recipe(text))
    return engine.run(run)


def plan(store, round_index, names, *, event=EVENT, may_spend=None, attempt=0):
    store.plan_round(
        "r-1", round_index, attempt, start_sha256="0" * 64, deadline_s=5.0, ranks=dict.fromkeys(names, 1),
        event=event, may_spend=may_spend,
    )  # fmt: skip


@pytest.fixture
def declared(store):
    store.submit_run(parse_recipe(RECIPE), run_id="r-1")
    return store


def received(name, number=1):
    return Received(
        client_id=name,
        payload_sha256=str(number) * 64,
        bytes_up=1,
        weight=1.0,
        num_examples=0,
        lora_rank=None,
    )


@pytest.mark.parametrize("text", [RECIPE, RECIPE + PRIVATE])
def test_a_round_commits_a_few_times_however_many_clients_answer(store, commits, tmp_path, text):
    count, _ = commits
    result = run_of(store, tmp_path, 3 * TOGETHER, text)
    assert result.state == "FINISHED"
    assert count() < 30  # two rounds; one by one they were four hundred
    rows = store.contributions(result.run_id)
    assert [c.state for c in rows].count("RECEIVED") == 2 * 3 * TOGETHER
    entries = verify_chain(store.ledger.leaves())
    assert check_entries(entries).findings == []


def test_what_is_told_one_by_one_costs_a_commit_each(declared, commits):
    """The control of the test above: its count sees them."""
    count, _ = commits
    names = [f"c{i}" for i in range(20)]
    plan(declared, 0, names)
    before = count()
    for name in names:
        order_sent(declared, "r-1", 0, 0, name, message_id=f"m-{name}", bytes_down=1)
    assert count() - before == len(names)
    before = count()
    declared.tell("r-1", 0, 0, [received(name) for name in names])
    assert count() - before == 1


def test_answers_told_together_are_what_they_are_one_by_one(tmp_path):
    kinds = {}
    for way in ("together", "apart"):
        store = Store.open(tmp_path / way / "motet.db")
        store.submit_run(parse_recipe(RECIPE), run_id="r-1")
        plan(store, 0, "abc")
        told = [
            Sent(client_id="a", message_id="m-a", bytes_down=5),
            Sent(client_id="b", message_id="m-b", bytes_down=5),
            received("a"),
            Refused(client_id="b", code="deadline", message="late"),
            received("a", 2),  # overtaken: it was answered
        ]
        for part in [told] if way == "together" else [[one] for one in told]:
            store.tell("r-1", 0, 0, part)
        rows = [
            {k: v for k, v in vars(row).items() if not k.startswith("_")}
            for row in store.contributions("r-1")
        ]
        entries = verify_chain(store.ledger.leaves())
        kinds[way] = rows, [e.body for e in entries[1:]]
        store.close()
    assert kinds["together"] == kinds["apart"]
    assert [row["state"] for row in kinds["together"][0]] == ["RECEIVED", "FAILED", "ORDERED"]


def test_one_answer_that_can_not_be_takes_back_all_that_were_told_with_it(declared):
    plan(declared, 0, "ab")
    before = declared.ledger.leaves()
    with pytest.raises(StorageError):
        declared.tell("r-1", 0, 0, [received("a"), received("stranger")])
    assert [c.state for c in declared.contributions("r-1")] == ["ORDERED", "ORDERED"]
    assert declared.ledger.leaves() == before


def test_equal_events_together_cost_what_they_cost_one_by_one(declared):
    for index in range(6):
        plan(declared, index, "ab" if index % 2 else "a", event=OTHER if index == 5 else EVENT)
    together, apart = (
        declared.spent_by(["a", "b", "new"]),
        {c: declared.spent_events(c) for c in ("a", "b", "new")},
    )
    assert {c: len(events) for c, events in apart.items()} == {"a": 6, "b": 3, "new": 0}
    assert {c: len(events) for c, events in together.items()} == {"a": 2, "b": 2, "new": 0}
    for client in ("a", "b", "new"):
        for epsilon in (epsilon_rdp, epsilon_pld):
            assert epsilon(together[client], 1e-5) == epsilon(apart[client], 1e-5)


def test_an_event_that_is_not_understood_stays_infinite_together(declared):
    plan(declared, 0, "a")
    with declared._database.transaction() as session:
        session.connection().exec_driver_sql("DROP TRIGGER privacy_events_settle_only")
        session.connection().exec_driver_sql('UPDATE privacy_events SET event_json = \'{"kind": "newer"}\'')
    assert epsilon_rdp(declared.spent_by(["a"])["a"], 1e-5) == float("inf")


def test_a_look_at_all_budgets_reads_as_much_after_many_rounds_as_after_one(declared, commits):
    _, statements = commits
    names = [f"c{i:03d}" for i in range(40)]
    seen, spent = [], []
    for index in range(4):
        before = len(statements)
        plan(declared, index, names, may_spend=lambda _client, events: spent.append(len(events)))
        seen.append(len(statements) - before)
    assert seen[1] == seen[2] == seen[3] < 20
    assert spent == [0] * 40 + [1] * 120


def test_one_client_without_budget_takes_back_the_charges_of_all(declared):
    def refuse(client_id, spent):
        if client_id == "b" and spent:
            raise PrivacyError("spent")

    plan(declared, 0, "abc", may_spend=refuse)
    before = declared.count_rows()
    with pytest.raises(PrivacyError):
        plan(declared, 1, "abc", may_spend=refuse)
    assert declared.count_rows() == before


def test_files_that_are_put_together_are_all_there_and_synced(tmp_path, monkeypatch):
    synced = []
    original = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(fd), original(fd))[1])
    store = ArtifactStore(tmp_path / "artifacts")
    parts = [f"update {i}".encode() for i in range(20)]
    names = store.put_all([*parts, parts[0]], "update")
    assert [store.get(name) for name in names] == [*parts, parts[0]]
    assert len(synced) >= 2 * len(parts)  # each file, and its folder
    assert list(store.leftovers()) == []


def test_a_file_that_can_not_be_written_fails_all_that_were_put_together(tmp_path, monkeypatch):
    store = ArtifactStore(tmp_path / "artifacts")
    original = store.write

    def write(path, parts):
        if write.left == 0:
            raise StorageError("the disk is full")
        write.left -= 1
        original(path, parts)

    write.left = 3
    monkeypatch.setattr(store, "write", write)
    with pytest.raises(StorageError):
        store.put_all([bytes([i]) for i in range(8)], "update")

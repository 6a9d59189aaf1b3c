"""A client trains only for a ledger that grew from what it saw: every way to put one back is found."""

import dataclasses
import json
import shutil

import pytest
from golden_databases import RECIPE

from client.errors import LedgerError
from client.seen_ledger import LedgerRolledBackError, SeenLedger
from coordinator.storage.store import Store
from motet.audit.assurance import Assurance, Assurances
from motet.recipe import parse_recipe
from privacy.events import PoissonGaussianEvent
from privacy.ledger.notes import Checkpoint, Verifier

EVENT = PoissonGaussianEvent(noise_multiplier=1.0, sampling_rate=0.1, num_steps=10)
RECIPE = parse_recipe(RECIPE + "privacy: {noise_multiplier: 1.0, sampling_rate: 0.1}\n")


class Federation:
    """A coordinator's store that plays private rounds, and one client that looks at its ledger."""

    def __init__(self, folder):
        self.place, self.home = folder / "coordinator", folder / "client"
        self.open()

    def open(self):
        self.store = Store.open(self.place / "motet.db")
        self.store.ledger.reconcile()

    def plan(self, run, round_index, clients=("a",)):
        if run not in {r.run_id for r in self.store.list_runs()}:
            self.store.submit_run(RECIPE, run_id=run)
            self.store.start_run(run)
        ranks = dict.fromkeys(clients, 2)
        self.store.plan_round(
            run, round_index, 0, start_sha256="0" * 64, deadline_s=5, ranks=ranks, event=EVENT
        )
        self.store.ledger.publish()

    def order(self, run, round_index, client="a"):
        """The order's words about the ledger."""
        text = Assurances(self.store.ledger.file).for_client(client)
        self.store.order_sent(
            run, round_index, 0, client, message_id=f"m-{run}-{round_index}-{client}", bytes_down=1
        )
        return text

    def settle(self, run, round_index, client="a"):
        self.store.reply_received(
            run, round_index, 0, client, payload_sha256="1" * 64, bytes_up=1, weight=1.0, num_examples=0
        )

    def round(self, run, round_index, *, sees=True, settles=True):
        self.plan(run, round_index)
        text = self.order(run, round_index)
        if sees:
            SeenLedger(self.home).check(text)
        if settles:
            self.settle(run, round_index)
        return text

    def backup(self, to):
        self.store.close()
        shutil.copytree(self.place, to)
        self.open()

    def put_back(self, backup):
        """Without a word, as somebody would who wants charges forgotten."""
        self.store.close()
        shutil.rmtree(self.place)
        shutil.copytree(backup, self.place)
        self.open()


@pytest.fixture
def federation(tmp_path):
    made = Federation(tmp_path)
    yield made
    made.store.close()


def test_a_ledger_that_only_grows_is_trained_for_round_after_round(federation):
    for index in range(6):
        federation.round("r-1", index)
    seen = SeenLedger(federation.home).seen()
    assert str(seen.checkpoint.size) == federation.store.ledger.file.checkpoints()[-1].split("\n")[1]
    federation.store.close()
    federation.open()  # a restart changes nothing
    federation.round("r-2", 0)
    assert SeenLedger(federation.home).seen().checkpoint.size > seen.checkpoint.size


@pytest.mark.parametrize("rounds_after", [0, 1, 5])
def test_a_coordinator_that_was_put_back_is_refused_however_far_it_went_on(
    federation, tmp_path, rounds_after
):
    federation.round("r-1", 0)
    federation.backup(tmp_path / "backup")
    for index in (1, 2):
        federation.round("r-1", index)
    seen = SeenLedger(federation.home).seen()
    federation.put_back(tmp_path / "backup")
    for index in range(1, 1 + rounds_after):
        federation.round("r-1", index, sees=False, settles=False)
    with pytest.raises(LedgerRolledBackError, match="restores the newest backup") as caught:
        federation.round("r-9", 0)
    assert caught.value.code == "ledger_rolled_back"
    assert "accept-rollback" in caught.value.message
    assert SeenLedger(federation.home).seen() == seen  # the evidence stays


def test_the_newest_backup_put_back_is_trained_for(federation, tmp_path):
    federation.round("r-1", 0)
    federation.round("r-1", 1)
    federation.backup(tmp_path / "backup")
    federation.put_back(tmp_path / "backup")
    federation.round("r-1", 2)


def test_a_new_ledger_in_the_place_of_the_old_one_is_refused(federation, tmp_path):
    federation.round("r-1", 0)
    other = Federation(tmp_path / "other")
    for index in range(4):
        other.plan("r-1", index)
        text = other.order("r-1", index)
    other.store.close()
    with pytest.raises(LedgerRolledBackError, match="another ledger"):
        SeenLedger(federation.home).check(text)


def test_a_coordinator_that_shows_no_ledger_any_more_is_refused(federation):
    SeenLedger(federation.home).check("")  # never saw one: an older coordinator
    federation.round("r-1", 0)
    with pytest.raises(LedgerRolledBackError, match="no ledger"):
        SeenLedger(federation.home).check("")


def test_orders_that_were_not_seen_or_not_answered_lead_on_as_well(federation):
    federation.round("r-1", 0)
    for index in range(1, 30):
        federation.round("r-1", index, sees=False, settles=False)
    federation.round("r-1", 40, settles=False)
    for index in range(41, 60):
        federation.round("r-1", index, sees=index % 3 == 0, settles=False)
    federation.round("r-1", 60)
    assert len(federation.round("r-1", 61)) < 5000  # bytes, once orders are answered


def test_an_order_that_was_made_earlier_and_comes_later_is_trained_for(federation):
    federation.round("r-1", 0)
    federation.plan("r-1", 1)
    slow = federation.order("r-1", 1)
    federation.plan("r-2", 0)
    quick = federation.order("r-2", 0)
    seen = SeenLedger(federation.home)
    seen.check(quick)
    size = seen.seen().checkpoint.size
    seen.check(slow)
    assert seen.seen().checkpoint.size == size
    assert Assurance.from_text(slow).checkpoint.size < size


def test_the_owner_can_accept_a_loss_and_the_evidence_is_kept(federation, tmp_path):
    federation.round("r-1", 0)
    federation.backup(tmp_path / "backup")
    federation.round("r-1", 1)
    size = SeenLedger(federation.home).seen().checkpoint.size
    federation.put_back(tmp_path / "backup")
    done = SeenLedger(federation.home).accept()
    assert done.size == size
    note = json.loads(done.evidence.read_text())["checkpoint"]
    assert note.split("\n")[1] == str(size)
    federation.round("r-1", 1)
    federation.round("r-1", 2)
    assert SeenLedger(tmp_path / "nobody").accept() is None


def mutations(text):
    """Wrong words about a ledger, each by what is wrong."""
    good = json.loads(text)
    told = Assurance.from_text(text)
    verifier = Verifier.from_text(told.key)
    other_size = Checkpoint(
        origin=verifier.name, size=told.checkpoint.size + 1, root=told.checkpoint.root
    ).to_text()
    signature = told.note.split("\n\n")[1]
    yield "not json", text[:-1]
    yield "no checkpoint", json.dumps({k: v for k, v in good.items() if k != "checkpoint"})
    yield "unsigned size", json.dumps(good | {"checkpoint": other_size + "\n" + signature})
    yield "no proofs", json.dumps(good | {"proofs": {}})
    yield (
        "a proof of zeros",
        json.dumps(good | {"proofs": {k: ["0" * 64] * len(v) for k, v in good["proofs"].items()}}),
    )
    yield "a proof cut", json.dumps(good | {"proofs": {k: v[:-1] for k, v in good["proofs"].items()}})
    yield "short hashes", json.dumps(good | {"proofs": {k: ["00"] for k in good["proofs"]}})
    yield "proofs of another kind", json.dumps(good | {"proofs": [1]})
    yield "too long", text + " " * 300_000


def test_words_about_a_ledger_that_do_not_hold_are_refused(federation):
    federation.round("r-1", 0)
    federation.plan("r-1", 1)
    text = federation.order("r-1", 1)
    seen = SeenLedger(federation.home)
    for what, wrong in mutations(text):
        with pytest.raises(LedgerRolledBackError):
            print(what, seen.check(wrong))
    seen.check(text)  # positive control


def test_a_damaged_memory_of_what_was_seen_stops_and_is_not_forgotten(federation):
    federation.round("r-1", 0)
    path = federation.home / "ledger-seen.json"
    path.write_text("{}")
    with pytest.raises(LedgerError, match="damaged"):
        federation.round("r-1", 1)
    assert path.read_text() == "{}"


def test_the_words_of_an_order_read_back_as_they_were(federation):
    text = federation.round("r-1", 0)
    text = federation.round("r-1", 1)
    told = Assurance.from_text(text)
    assert told.to_text() == text
    assert told.proofs
    assert dataclasses.replace(told, proofs={}).to_text() != text

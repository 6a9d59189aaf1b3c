"""A client trains only for a ledger that grew from what it saw: every way to put one back is found."""

import dataclasses
import json

import pytest
from ledger_federation import LedgerFederation

from client.errors import LedgerError
from client.seen_ledger import LedgerRolledBackError, SeenLedger
from motet.audit.assurance import Assurance
from privacy.ledger.notes import Checkpoint, Verifier


@pytest.fixture
def federation(tmp_path):
    made = LedgerFederation(tmp_path)
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
    before = SeenLedger(federation.home).seen().checkpoint.size
    federation.round("r-1", 2)
    assert SeenLedger(federation.home).seen().checkpoint.size > before


def test_a_new_ledger_in_the_place_of_the_old_one_is_refused(federation, tmp_path):
    federation.round("r-1", 0)
    other = LedgerFederation(tmp_path / "other")
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
    for index in range(1, 12):
        federation.round("r-1", index, sees=False, settles=False)
    federation.round("r-1", 12, settles=False)
    for index in range(13, 22):
        federation.round("r-1", index, sees=index % 3 == 0, settles=False)
    federation.round("r-1", 22)
    assert len(federation.round("r-1", 23)) < 5000  # bytes, once orders are answered


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

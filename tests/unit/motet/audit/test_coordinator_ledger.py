"""The coordinator's ledger on disk."""

from __future__ import annotations

import stat

import pytest
from audit_houses import WritingLedger, reserve

from motet.audit.errors import JournalError, LedgerConflictError, LedgerKeyError
from motet.audit.ledger import CoordinatorLedger
from privacy.ledger.entries import Settle
from privacy.ledger.merkle import leaf_hash, verify_inclusion
from privacy.ledger.notes import open_checkpoint


def again(house):
    """The same folder, as another process sees it."""
    return WritingLedger(house.ledger._folder)


def test_what_is_there_already_is_not_written_again(house):
    house.play(range(3))
    before = house.ledger.entries()
    house.play(range(3))
    assert house.ledger.entries() == before
    assert again(house).entries() == before


def test_what_a_crash_left_undone_is_completed_by_the_same_calls(house, tmp_path):
    house.ledger.append([reserve(0, "a")])
    ledger = again(house)
    ledger.append([reserve(0, "a"), reserve(0, "b")])
    kinds = [e.body.kind for e in ledger.entries()]
    assert kinds.count("reserve") == 2
    assert house.ledger.entries() == ledger.entries()  # the first object sees what the second wrote


def test_a_charge_is_durable_when_it_was_handed_over(house):
    house.ledger.append([reserve(0, "a")])
    assert reserve(0, "a") in [e.body for e in again(house).entries()]


def test_whatever_is_written_ends_in_a_checkpoint_over_everything(house):
    house.play(range(2))
    checkpoint = house.ledger.append([reserve(9, "a")])
    notes = house.ledger.checkpoints()
    assert open_checkpoint(notes[-1], house.ledger.verifier()) == checkpoint
    assert checkpoint.size == len(house.ledger.entries())
    count = len(notes)
    house.ledger.append([])
    assert len(house.ledger.checkpoints()) == count  # nothing new, no new checkpoint


def test_a_client_can_hold_a_proof_that_its_charge_is_in_the_ledger(house):
    house.play(range(5))
    charge = reserve(2, "c")
    checkpoint = house.ledger.append([])
    index, proof = house.ledger.proof(charge)
    leaf = leaf_hash(house.ledger.entries()[index].to_bytes())
    good = {"index": index, "size": checkpoint.size, "proof": proof, "root": checkpoint.root}
    assert verify_inclusion(leaf=leaf, **good)
    assert not verify_inclusion(leaf=leaf_hash(b"another charge"), **good)
    with pytest.raises(KeyError):
        house.ledger.proof(reserve(99, "c"))


def test_the_key_is_readable_by_its_owner_alone(house):
    mode = stat.S_IMODE((house.ledger._folder / "ledger.key").stat().st_mode)
    assert mode == 0o600


def test_a_ledger_without_its_key_or_with_another_is_refused(house, tmp_path):
    path = house.ledger._folder / "ledger.key"
    path.unlink()
    with pytest.raises(LedgerKeyError, match="missing"):
        again(house).append([reserve(0, "a")])
    other = WritingLedger(tmp_path / "other")
    other.append([])
    path.write_bytes((tmp_path / "other" / "ledger.key").read_bytes())
    with pytest.raises(LedgerKeyError, match="not the key"):
        again(house).append([reserve(0, "a")])
    path.write_text("no key")
    with pytest.raises(LedgerKeyError, match="can not be read"):
        again(house).append([reserve(0, "a")])


def test_an_empty_ledger_has_no_public_key(tmp_path):
    with pytest.raises(LedgerKeyError, match="no ledger yet"):
        CoordinatorLedger(tmp_path).verifier()


def test_an_altered_entry_stops_the_ledger_and_is_named(house):
    house.play(range(2))
    path = house.ledger._folder / "entries.jsonl"
    path.write_text(path.read_text().replace('"round_index":0', '"round_index":3', 1))
    with pytest.raises(JournalError, match=r"entries.jsonl:\d+: entry \d+ does not follow"):
        again(house).append([Settle(reservation_id="x", payload_sha256="")])


def test_a_ledger_put_back_from_an_older_copy_is_refused(house):
    path = house.ledger._folder / "entries.jsonl"
    older = path.read_bytes()
    house.play(range(2))
    path.write_bytes(older)
    with pytest.raises(JournalError, match="older copy"):
        house.ledger.append([reserve(5, "a")])


def test_entries_of_another_ledger_or_fewer_than_were_signed_are_refused_and_nothing_is_written(
    house, tmp_path
):
    house.play(range(2))
    before = house.ledger.leaves()
    other = WritingLedger(tmp_path / "other")
    other.append([reserve(0, "a")])
    with pytest.raises(LedgerConflictError, match="entry 0 of the database is not the one that was signed"):
        house.ledger.follow(lambda start: other.leaves()[start:])
    with pytest.raises(LedgerConflictError, match=r"lacks 4 charges .* round 1, attempt 0, client a"):
        house.ledger.follow(lambda start: before[:18][start:])
    with pytest.raises(LedgerConflictError, match="entry 9 of the database"):
        house.ledger.hold_against([*before[:9], b"{}", *before[10:]])
    assert again(house).leaves() == before
    house.ledger.follow(lambda start: before[start:])  # positive control


def test_proofs_for_a_whole_fleet_read_the_file_once_and_again_when_another_process_has_written(
    house, monkeypatch
):
    house.play(range(3))
    reads = []
    original = type(house.ledger._entries).lines

    def lines(journal):
        if journal is house.ledger._entries:
            reads.append(journal)
        return original(journal)

    monkeypatch.setattr(type(house.ledger._entries), "lines", lines)
    size = len(house.ledger.leaves())
    reads.clear()
    for old in range(1, size):
        house.ledger.consistency_proof(old, size)
    assert reads == []
    again(house).append([reserve(9, "a")])
    assert len(house.ledger.leaves()) == size + 1
    assert len(reads) == 1

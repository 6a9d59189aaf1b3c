"""A ledger's file that is behind its database: news at a coordinator that stands, none at one that runs."""

import dataclasses

import pytest

from coordinator.authority import ensure_authority
from coordinator.storage.where import open_store
from motet.doctor import coordinator_side
from motet.doctor.findings import Level


@pytest.fixture
def home(tmp_path):
    """Its database has entries that the signed file lacks, as after each enrolment."""
    ensure_authority(tmp_path)
    store = open_store(tmp_path)
    store.register_client("ward-a", b"key")
    store.ledger.publish()
    store.register_client("ward-b", b"key")
    store.close()
    return tmp_path


def found(home, monkeypatch, *, is_running):
    monkeypatch.setattr(coordinator_side.machine, "is_locked", lambda _lock: is_running)
    (finding,) = [f for f in coordinator_side.look(home) if f.check == "ledger"]
    return finding


def test_entries_that_wait_for_the_next_order_are_no_finding_while_the_coordinator_runs(home, monkeypatch):
    running = found(home, monkeypatch, is_running=True)
    assert (running.level, running.mend) == (Level.OK, "")
    assert "1 more are written before the next order leaves" in running.what
    standing = found(home, monkeypatch, is_running=False)  # positive control: it is seen all the same
    assert (standing.level, "1 more" in standing.what) == (Level.WARNING, True)


def test_an_entry_that_is_written_and_signed_between_the_two_looks_is_no_conflict(home, monkeypatch):
    store, look = open_store(home), coordinator_side.look_at
    looks = []

    def look_and_go_on(database):
        seen = look(database)
        if not looks:
            store.register_client("ward-c", b"key")
            store.ledger.publish()
        looks.append(len(seen.leaves))
        return seen

    monkeypatch.setattr(coordinator_side, "look_at", look_and_go_on)
    finding = found(home, monkeypatch, is_running=True)
    assert finding.level == Level.OK, finding
    assert looks[1] == looks[0] + 1
    store.close()


def test_a_database_that_lacks_what_was_signed_is_a_conflict(home, monkeypatch):
    look = coordinator_side.look_at
    store = open_store(home)
    store.ledger.publish()
    store.close()
    monkeypatch.setattr(
        coordinator_side, "look_at", lambda d: dataclasses.replace(seen := look(d), leaves=seen.leaves[:-1])
    )
    assert found(home, monkeypatch, is_running=True).level == Level.FAILURE

"""What a coordinator holds of its ledger in memory, and what it reads again from the file."""

import gc
import tracemalloc

import pytest
from audit_houses import WritingLedger, order, reserve

from motet.audit.errors import JournalError
from motet.audit.ledger import CoordinatorLedger
from motet.audit.orders_seen import OrdersSeen
from privacy.ledger.chain import entry_from_bytes
from privacy.ledger.entries import Settle, identity
from privacy.ledger.merkle import MerkleTree, leaf_hash

ROUNDS, CLIENTS = 60, ("a", "b", "c", "d")
MOST_BYTES_AN_ENTRY = 150


def bytes_held(make):
    """What an object holds, and the object."""
    gc.collect()
    tracemalloc.start()
    made = make()
    gc.collect()
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return held, made


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of a ledger with 600 charges."""
    folder = tmp_path_factory.mktemp("ledger")
    charges = [reserve(index, client) for index in range(ROUNDS) for client in CLIENTS]
    settled = [Settle(reservation_id=c.reservation_id, payload_sha256="") for c in charges]
    orders = [order(c) for c in charges]
    WritingLedger(folder).append([x for group in zip(charges, orders, settled, strict=True) for x in group])
    return folder


def loaded(folder):
    ledger = CoordinatorLedger(folder)
    ledger.size()
    return ledger


def test_an_entry_costs_memory_for_its_hash_and_its_place_alone(folder):
    held, ledger = bytes_held(lambda: loaded(folder))
    size = ledger.size()
    assert size > 3 * ROUNDS * len(CLIENTS)
    assert held / size < MOST_BYTES_AN_ENTRY
    with_leaves, _ = bytes_held(lambda: (loaded(folder), ledger.leaves()))  # the control
    assert with_leaves / size > 3 * MOST_BYTES_AN_ENTRY


def test_what_is_read_again_is_what_was_written(folder):
    ledger = loaded(folder)
    lines = (folder / "entries.jsonl").read_bytes().splitlines()
    assert ledger.leaves() == lines
    for start, end in ((0, 1), (5, 9), (len(lines) - 2, len(lines) + 5), (7, 7), (9, 3)):
        assert ledger.leaves_between(start, end) == lines[start:end]
    bodies = [entry_from_bytes(line).body for line in lines]
    assert ledger.bodies() == {identity(body): body for body in bodies}
    assert ledger.leaf_hashes(3, 6) == [leaf_hash(line) for line in lines[3:6]]
    assert ledger.root(len(lines)) == MerkleTree(lines).root()


def test_an_entry_that_was_altered_since_it_was_taken_in_is_not_handed_out(folder, tmp_path, monkeypatch):
    for name in ("entries.jsonl", "entries.head", "ledger.key", "checkpoints.jsonl", "checkpoints.head"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    ledger = loaded(tmp_path)
    path, caught_up = tmp_path / "entries.jsonl", ledger._caught_up
    path.write_bytes(path.read_bytes().replace(b'"round_index":7', b'"round_index":9'))
    monkeypatch.setattr(ledger._entries, "stamps", lambda: caught_up)  # the file looks as it did
    with pytest.raises(JournalError, match="altered"):
        ledger.leaves()
    monkeypatch.undo()
    with pytest.raises(JournalError, match="does not follow"):
        ledger.leaves()


def test_of_a_clients_orders_the_last_that_settled_and_those_after_it_are_held():
    charges = [reserve(index, "a") for index in range(5)]
    seen = OrdersSeen()
    for sequence, charge in enumerate(charges):
        seen.take(sequence, order(charge))
    assert seen.by_client() == {"a": [0, 1, 2, 3, 4]}
    seen.take(5, Settle(reservation_id=charges[2].reservation_id, payload_sha256=""))
    assert seen.by_client() == {"a": [2, 3, 4]}
    seen.take(
        6, Settle(reservation_id=charges[0].reservation_id, payload_sha256="")
    )  # late; it changes nothing
    assert seen.by_client() == {"a": [2, 3, 4]}
    assert len(seen._by_charge) == 3
    for index in range(100):
        seen.take(7 + index, order(reserve(10 + index, "a")))
    assert len(seen.by_client()["a"]) == 24

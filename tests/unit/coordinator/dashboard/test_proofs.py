"""What the dashboard hands out for a browser to check the ledger by, against the Python verifier."""

import pytest
from audit_houses import WritingLedger, house_at
from starlette.applications import Starlette
from starlette.testclient import TestClient

from coordinator.dashboard import proofs
from coordinator.rpc.roles import ALLOWED, CLIENT, RESEARCHER, may_call
from privacy.ledger.merkle import MerkleTree, leaf_hash, verify_consistency, verify_inclusion
from privacy.ledger.notes import Verifier, open_checkpoint


@pytest.fixture(scope="module")
def ledger(tmp_path_factory):
    house = house_at(tmp_path_factory.mktemp("house"))
    house.play(range(4))
    return house.ledger


def client(ledger, *, may_read):
    return TestClient(Starlette(routes=proofs.routes(ledger, may_read=lambda request: may_read)))


def test_the_head_is_the_newest_that_was_signed(ledger):
    told = proofs.checkpoint(ledger)
    head = open_checkpoint(told["note"], Verifier.from_text(told["key"]))
    assert (head.size, head.root.hex(), head.origin) == (told["size"], told["root"], told["origin"])
    assert head.size == ledger.size() == len(ledger.leaves())
    assert head.root == MerkleTree(ledger.leaves()).root()


def test_a_ledger_that_was_never_signed_has_no_head(tmp_path):
    assert proofs.checkpoint(WritingLedger(tmp_path)) == {"size": 0, "note": None}


def test_pages_of_entries_are_their_bytes_and_never_empty(ledger, monkeypatch):
    leaves = ledger.leaves()
    assert proofs.entries(ledger, start=0, end=len(leaves)) == b"".join(leaf + b"\n" for leaf in leaves)
    monkeypatch.setattr(proofs, "MOST_BYTES", 1)
    assert proofs.entries(ledger, start=3, end=9) == leaves[3] + b"\n"
    monkeypatch.setattr(proofs, "MOST_ENTRIES", 2)
    assert proofs.leaf_hashes(ledger, start=3, end=9) == leaf_hash(leaves[3]) + leaf_hash(leaves[4])


def test_every_proof_that_is_handed_out_verifies(ledger):
    size, root = ledger.size(), MerkleTree(ledger.leaves()).root()
    for n in range(size):
        told = proofs.inclusion(ledger, sequence=n, size=size, may_read=True)
        hashes = [bytes.fromhex(h) for h in told["hashes"]]
        assert leaf_hash(told["entry"].encode()).hex() == told["leaf_hash"]
        assert verify_inclusion(
            leaf=bytes.fromhex(told["leaf_hash"]), index=n, size=size, proof=hashes, root=root
        )
        old = MerkleTree(ledger.leaves()[: n + 1]).root()
        hashes = [bytes.fromhex(h) for h in proofs.consistency(ledger, old_size=n + 1, size=size)["hashes"]]
        assert verify_consistency(old_size=n + 1, size=size, proof=hashes, old_root=old, root=root)


def test_who_may_not_read_entries_gets_their_hashes_alone(ledger):
    asked = client(ledger, may_read=False)
    size = ledger.size()
    assert asked.get("/ledger/checkpoint.json").json()["may_read"] is False
    assert asked.get(f"/ledger/entries.jsonl?start=0&end={size}").status_code == 403
    proof = asked.get(f"/ledger/inclusion.json?sequence=3&size={size}")
    assert sorted(proof.json()) == ["hashes", "leaf_hash", "sequence", "size"]
    assert asked.get(f"/ledger/hashes.bin?start=0&end={size}").content == b"".join(
        map(leaf_hash, ledger.leaves())
    )
    reader = client(ledger, may_read=True)
    assert reader.get(f"/ledger/entries.jsonl?start=0&end={size}").content.splitlines() == ledger.leaves()
    assert (
        reader.get(f"/ledger/inclusion.json?sequence=3&size={size}").json()["entry"].encode()
        in ledger.leaves()
    )


@pytest.mark.parametrize(
    "path",
    [
        "/ledger/entries.jsonl",
        "/ledger/entries.jsonl?start=0&end=100000",
        "/ledger/entries.jsonl?start=-1&end=3",
        "/ledger/entries.jsonl?start=3&end=3",
        "/ledger/hashes.bin?start=²&end=3",
        "/ledger/hashes.bin?start=0&end=" + "9" * 400,
        "/ledger/inclusion.json?sequence=7&size=7",
        "/ledger/inclusion.json?sequence=0&size=100000",
        "/ledger/consistency.json?old_size=0&size=4",
        "/ledger/consistency.json?old_size=5&size=4",
    ],
)
def test_a_question_without_meaning_is_refused_in_words(ledger, path):
    answer = client(ledger, may_read=True).get(path)
    assert answer.status_code == 400
    assert answer.json()["error"]


def test_every_route_stands_for_calls_that_the_table_of_roles_has(ledger):
    names = {route.name for route in proofs.routes(ledger, may_read=lambda request: True)}
    assert names == set(proofs.CALLS)
    assert {call for calls in proofs.CALLS.values() for call in calls} <= set(ALLOWED)
    for role in (RESEARCHER, CLIENT):
        assert not may_call(role, *proofs.CALLS["ledger-entries"])
        assert may_call(role, *proofs.CALLS["ledger-hashes"])

"""What the control API shows of the ledger, and to whom."""

import json

import pytest
from control_house import ROLES, house, play, submit

from motet.connection.errors import BadRequestError
from privacy.ledger.merkle import leaf_hash, verify_consistency, verify_inclusion


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with house(tmp_path_factory.mktemp("house")) as made:
        yield made


@pytest.fixture(scope="module")
def people(served):
    return {role: served.connect(role) for role in ROLES}


def test_the_ledger_is_proved_to_whoever_asks(served, people):
    submit(served, "r-proved")
    play(served, "r-proved")
    ledger = people["client"].ledger
    before = ledger.checkpoint()
    play(served, "r-proved", 1)
    after = ledger.checkpoint()
    assert after.size > before.size
    for sequence in (0, before.size - 1, after.size - 1):
        proof = ledger.inclusion_proof(sequence)
        assert proof.root == after.root
        assert verify_inclusion(
            leaf=proof.leaf_hash, index=sequence, size=after.size, proof=proof.hashes, root=after.root
        )
    grown = ledger.consistency_proof(before.size)
    assert verify_consistency(
        old_size=before.size, size=after.size, proof=grown.hashes, old_root=before.root, root=after.root
    )
    entries = list(people["auditor"].ledger.entries())
    assert [e.sequence for e in entries] == list(range(after.size))
    assert json.loads(entries[0].leaf)
    for bad in (lambda: ledger.inclusion_proof(after.size), lambda: ledger.consistency_proof(0)):
        with pytest.raises(BadRequestError):
            bad()


def test_a_proof_shows_an_entry_only_to_those_who_may_read_it(served, people):
    submit(served, "r-mine")
    play(served, "r-mine")
    entries = list(people["auditor"].ledger.entries())
    owners = {e.sequence: json.loads(e.leaf)["body"].get("client_id") for e in entries}
    assert {"a", None} < set(owners.values())
    mine = served.connect("client", "a")
    for who in (*people.values(), mine):
        for entry in entries:
            proof = who.ledger.inclusion_proof(entry.sequence)
            may = who in (people["operator"], people["auditor"]) or (
                who is mine and owners[entry.sequence] == "a"
            )
            assert proof.leaf == (entry.leaf if may else b"")
            assert proof.leaf_hash == leaf_hash(entry.leaf)

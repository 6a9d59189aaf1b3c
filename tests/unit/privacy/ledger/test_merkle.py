"""The tree of RFC 6962, held to the vectors of the Certificate Transparency reference implementation."""

from __future__ import annotations

import hashlib

import pytest

from privacy.ledger import merkle
from privacy.ledger.merkle import (
    EMPTY_ROOT,
    MerkleTree,
    leaf_hash,
    node_hash,
    verify_consistency,
    verify_inclusion,
)

LEAVES = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
INCLUSION = {
    (0, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
}
CONSISTENCY = {
    (6, 8): [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 5): [
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ],
}


@pytest.mark.parametrize("size", range(1, 9))
def test_roots_are_those_of_the_reference_implementation(size):
    assert MerkleTree(LEAVES[:size]).root().hex() == ROOTS[size - 1]
    assert MerkleTree(LEAVES).root(size).hex() == ROOTS[size - 1]


def test_the_empty_tree_has_the_hash_of_nothing():
    assert MerkleTree().root() == EMPTY_ROOT == hashlib.sha256(b"").digest()


@pytest.mark.parametrize(("index", "size"), INCLUSION)
def test_inclusion_proofs_are_those_of_the_reference_implementation(index, size):
    assert [h.hex() for h in MerkleTree(LEAVES).inclusion_proof(index, size)] == INCLUSION[index, size]


@pytest.mark.parametrize(("old", "size"), CONSISTENCY)
def test_consistency_proofs_are_those_of_the_reference_implementation(old, size):
    assert [h.hex() for h in MerkleTree(LEAVES).consistency_proof(old, size)] == CONSISTENCY[old, size]


def test_every_proof_of_every_tree_up_to_forty_leaves_verifies_and_with_a_wrong_leaf_does_not():
    data = [bytes([i]) for i in range(40)]
    tree = MerkleTree(data)
    for size in range(1, 41):
        root = tree.root(size)
        for index in range(size):
            proof = tree.inclusion_proof(index, size)
            common = {"index": index, "size": size, "proof": proof, "root": root}
            assert verify_inclusion(leaf=leaf_hash(data[index]), **common)
            assert not verify_inclusion(leaf=leaf_hash(b"other"), **common)
        for old in range(1, size + 1):
            proof = tree.consistency_proof(old, size)
            common = {"old_size": old, "size": size, "proof": proof, "root": root}
            assert verify_consistency(old_root=tree.root(old), **common)
            assert not verify_consistency(old_root=leaf_hash(b"other"), **common)


def test_a_leaf_can_not_be_passed_off_as_a_node():
    left, right = leaf_hash(b"a"), leaf_hash(b"b")
    assert MerkleTree([b"a", b"b"]).root() == node_hash(left, right)
    assert MerkleTree([left + right]).root() != MerkleTree([b"a", b"b"]).root()


def test_without_the_prefixes_a_leaf_could_be_passed_off_as_a_node(monkeypatch):
    monkeypatch.setattr(merkle, "leaf_hash", lambda data: hashlib.sha256(data).digest())
    monkeypatch.setattr(merkle, "node_hash", lambda left, right: hashlib.sha256(left + right).digest())
    forged = hashlib.sha256(b"a").digest() + hashlib.sha256(b"b").digest()
    assert MerkleTree([forged]).root() == MerkleTree([b"a", b"b"]).root()


@pytest.mark.parametrize(("index", "size"), [(-1, 3), (3, 3), (0, 9), (0, 0)])
def test_no_proof_for_a_leaf_that_is_not_there(index, size):
    with pytest.raises(ValueError, match="no proof"):
        MerkleTree(LEAVES).inclusion_proof(index, size)


@pytest.mark.parametrize(("old", "size"), [(0, 3), (4, 3), (1, 9)])
def test_no_proof_of_consistency_outside_the_tree(old, size):
    with pytest.raises(ValueError, match="no proof"):
        MerkleTree(LEAVES).consistency_proof(old, size)


@pytest.mark.parametrize("size", [-1, 9])
def test_no_root_outside_the_tree(size):
    with pytest.raises(ValueError, match="no root"):
        MerkleTree(LEAVES).root(size)


def test_proofs_that_do_not_fit_are_false_and_raise_nothing():
    tree = MerkleTree(LEAVES)
    root, leaf = tree.root(), leaf_hash(LEAVES[2])
    proof = tree.inclusion_proof(2)
    good = {"leaf": leaf, "index": 2, "size": 8, "proof": proof, "root": root}
    assert verify_inclusion(**good)
    wrong = [
        {"index": 8},
        {"index": -1},
        {"size": 0},
        {"proof": proof[:-1]},
        {"proof": [*proof, proof[0]]},
        {"proof": [b"short"]},
        {"root": b""},
        {"index": 3},
    ]
    assert not any(verify_inclusion(**{**good, **change}) for change in wrong)
    old = {
        "old_size": 6,
        "size": 8,
        "proof": tree.consistency_proof(6),
        "old_root": tree.root(6),
        "root": root,
    }
    assert verify_consistency(**old)
    wrong = [
        {"old_size": 9},
        {"old_size": 0},
        {"old_size": 8},
        {"proof": []},
        {"proof": [*old["proof"], root]},
        {"proof": [b""]},
    ]
    assert not any(verify_consistency(**{**old, **change}) for change in wrong)
    assert verify_consistency(old_size=0, size=8, proof=[], old_root=EMPTY_ROOT, root=root)

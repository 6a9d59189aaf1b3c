"""Proofs of the Merkle tree and the canonical form, for any input that hypothesis can think of."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.ledger.canonical import canonical_bytes, parse_canonical
from privacy.ledger.errors import LedgerFormatError
from privacy.ledger.merkle import MerkleTree, leaf_hash, verify_consistency, verify_inclusion

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(codec="ascii")), inner, max_size=4)
    ),
    max_leaves=12,
)


def naive_root(leaves: list[bytes]) -> bytes:
    """RFC 6962, section 2.1, as it is written there."""
    if len(leaves) == 1:
        return leaf_hash(leaves[0])
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    import hashlib

    return hashlib.sha256(b"\x01" + naive_root(leaves[:split]) + naive_root(leaves[split:])).digest()


@given(VALUES)
def test_a_value_comes_back_from_its_canonical_bytes(value):
    assert parse_canonical(canonical_bytes(value)) == value


@given(st.binary(max_size=60))
def test_bytes_are_one_canonical_value_or_an_error_of_ours(data):
    try:
        value = parse_canonical(data)
    except LedgerFormatError:
        return
    assert canonical_bytes(value) == data


@given(st.lists(st.binary(max_size=8), min_size=1, max_size=70))
def test_the_tree_agrees_with_the_definition(leaves):
    assert MerkleTree(leaves).root() == naive_root(leaves)


@given(st.lists(st.binary(max_size=8), min_size=1, max_size=70), st.data())
def test_a_proof_holds_for_what_it_proves_and_for_nothing_else(leaves, data):
    tree = MerkleTree(leaves)
    size = data.draw(st.integers(1, len(leaves)))
    index = data.draw(st.integers(0, size - 1))
    proof = tree.inclusion_proof(index, size)
    good = {"leaf": leaf_hash(leaves[index]), "index": index, "size": size, "proof": proof}
    assert verify_inclusion(**good, root=tree.root(size))
    altered = [*leaves[:index], leaves[index] + b"x", *leaves[index + 1 :]]
    assert not verify_inclusion(**good, root=MerkleTree(altered).root(size))


@given(st.lists(st.binary(max_size=8), min_size=1, max_size=70), st.data())
def test_a_log_that_was_rewritten_has_no_proof_of_consistency(leaves, data):
    old_size = data.draw(st.integers(1, len(leaves)))
    tree = MerkleTree(leaves)
    good = {"old_size": old_size, "size": len(leaves), "old_root": tree.root(old_size)}
    proof = tree.consistency_proof(old_size)
    assert verify_consistency(**good, proof=proof, root=tree.root())
    index = data.draw(st.integers(0, old_size - 1))
    rewritten = MerkleTree([*leaves[:index], leaves[index] + b"x", *leaves[index + 1 :]])
    assert not verify_consistency(**good, proof=rewritten.consistency_proof(old_size), root=rewritten.root())


@given(st.integers(-3, 80), st.integers(-3, 80), st.lists(st.binary(min_size=32, max_size=32), max_size=8))
def test_made_up_proofs_prove_nothing(first, second, proof):
    root, leaf = b"\x01" * 32, b"\x02" * 32
    assert not verify_inclusion(leaf=leaf, index=first, size=second, proof=proof, root=root)
    assert not verify_consistency(old_size=first, size=second, proof=proof, old_root=leaf, root=root)


def test_the_definition_is_no_tautology():
    with pytest.raises(AssertionError):
        assert MerkleTree([b"a", b"b", b"c"]).root() == naive_root([b"a", b"c", b"b"])

"""Signed notes and checkpoints, held to the example of Go's ``golang.org/x/mod/sumdb/note``."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privacy.ledger.errors import LedgerFormatError, SignatureError
from privacy.ledger.merkle import MerkleTree
from privacy.ledger.notes import (
    Checkpoint,
    Verifier,
    open_checkpoint,
    open_note,
    sign_checkpoint,
    sign_note,
    verifier_of,
)

GO_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_TEXT = (
    "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
)
GO_NOTE = (
    GO_TEXT + "\n\u2014 PeterNeumann "
    "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(32))
VERIFIER = verifier_of("motet/test", KEY)
CHECKPOINT = Checkpoint(origin="motet/test", size=3, root=MerkleTree([b"a", b"b", b"c"]).root())


def test_a_note_of_another_implementation_is_read():
    assert open_note(GO_NOTE, Verifier.from_text(GO_KEY)) == GO_TEXT
    with pytest.raises(SignatureError):  # positive control
        open_note(GO_NOTE.replace("answer", "Answer"), Verifier.from_text(GO_KEY))


def test_a_checkpoint_comes_back_as_it_was_signed():
    note = sign_checkpoint(CHECKPOINT, KEY)
    assert note.startswith("motet/test\n3\n")
    assert open_checkpoint(note, VERIFIER) == CHECKPOINT
    assert Verifier.from_text(VERIFIER.to_text()) == VERIFIER


def test_each_flipped_byte_of_a_checkpoint_is_refused():
    note = sign_checkpoint(CHECKPOINT, KEY).encode()
    for position in range(len(note)):
        altered = bytearray(note)
        altered[position] ^= 1
        try:
            text = altered.decode()
        except UnicodeDecodeError:
            continue
        with pytest.raises((SignatureError, LedgerFormatError)):
            open_checkpoint(text, VERIFIER)


def test_another_key_of_the_same_name_is_refused():
    with pytest.raises(SignatureError, match="no signature"):
        open_checkpoint(sign_checkpoint(CHECKPOINT, OTHER), VERIFIER)


def test_a_signature_beside_ours_is_passed_over():
    note = sign_checkpoint(CHECKPOINT, KEY)
    witness = sign_note(CHECKPOINT.to_text(), "witness", OTHER).rpartition("\n\n")[2]
    assert open_checkpoint(note + witness, VERIFIER) == CHECKPOINT


def test_a_checkpoint_of_another_log_is_refused():
    other = Checkpoint(origin="motet/other", size=3, root=CHECKPOINT.root)
    note = sign_note(other.to_text(), "motet/test", KEY)
    with pytest.raises(LedgerFormatError, match="not of 'motet/test'"):
        open_checkpoint(note, VERIFIER)


@pytest.mark.parametrize("text", ["no newline", "empty\n\nline\n", "tab\t\n"])
def test_a_text_that_is_no_note_is_not_signed(text):
    with pytest.raises(LedgerFormatError):
        sign_note(text, "motet/test", KEY)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a+b",
        "motet/test+00000000+" + VERIFIER.to_text().split("+", 2)[2],
        "a+00000000+Ag==",
        "a+0+?",
        "a b",
    ],
)
def test_a_key_that_is_none_is_refused(text):
    with pytest.raises(LedgerFormatError):
        Verifier.from_text(text)


@pytest.mark.parametrize("name", ["", "motet test", "a+b", "motet/test\n", "a" * 201], ids=ascii)
def test_a_name_with_a_space_a_plus_or_a_line_end_names_no_log(name):
    with pytest.raises(LedgerFormatError):
        Verifier(name=name, key=VERIFIER.key)
    with pytest.raises(LedgerFormatError):
        Checkpoint(origin=name, size=1, root=bytes(32))


@pytest.mark.parametrize(
    "text", ["", "a\n1\n", "a\n01\nAA==\n", "a\n1\nAA==\n", "a\n-1\nAA==\n", "a\n1\nx\nmore\n"]
)
def test_a_text_that_is_no_checkpoint_is_refused(text):
    with pytest.raises(LedgerFormatError):
        Checkpoint.from_text(text)


@pytest.mark.parametrize("note", ["", "text\n", "text\n\nno dash\n", "text\n\n\u2014 a b"])
def test_a_text_without_signature_lines_is_no_note(note):
    with pytest.raises((LedgerFormatError, SignatureError)):
        open_note(note, VERIFIER)

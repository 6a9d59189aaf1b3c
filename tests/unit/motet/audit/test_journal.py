"""The file of a ledger: durable, and honest about its length."""

from __future__ import annotations

import os

import pytest

from motet.audit.errors import JournalError
from motet.audit.journal import Journal


@pytest.fixture
def journal(tmp_path):
    journal = Journal(tmp_path / "folder" / "ledger.jsonl")
    with journal.locked():
        journal.append([b"one", b"two"])
        journal.append([b"three"])
    return journal


def test_lines_come_back(journal):
    assert journal.lines() == [b"one", b"two", b"three"]
    assert Journal(journal.path).lines() == journal.lines()


def test_a_file_that_is_not_there_has_no_lines(tmp_path):
    assert Journal(tmp_path / "none").lines() == []


@pytest.mark.parametrize("kept", [b"one\ntwo\n", b"one\n", b"", b"one\ntwo\nthre", b"one\ntwo\nthree"])
def test_a_file_that_was_cut_is_refused(journal, kept):
    journal.path.write_bytes(kept)
    with pytest.raises(JournalError, match="missing from the end"):
        journal.lines()
    with pytest.raises(JournalError), journal.locked():
        journal.append([b"four"])
    assert journal.path.read_bytes() == kept


def test_an_older_copy_put_back_is_refused(journal):
    older = journal.path.read_bytes()
    with journal.locked():
        journal.append([b"four"])
    journal.path.write_bytes(older)
    with pytest.raises(JournalError, match=r":4: 1 of 4 lines"):
        journal.lines()


def test_an_altered_last_line_is_refused(journal):
    journal.path.write_bytes(b"one\ntwo\nthrEe\n")
    with pytest.raises(JournalError, match=r":3: the line was altered"):
        journal.lines()


def test_half_a_line_that_a_crash_left_is_dropped(journal):
    with journal.path.open("ab") as file:
        file.write(b"fou")
    assert journal.lines() == [b"one", b"two", b"three"]
    with journal.locked():
        journal.append([b"five"])
    assert journal.path.read_bytes() == b"one\ntwo\nthree\nfive\n"


def test_a_line_whose_head_a_crash_kept_back_counts(journal):
    with journal.path.open("ab") as file:
        file.write(b"four\n")
    assert journal.lines()[-1] == b"four"
    with journal.locked():
        journal.append([b"five"])
    assert journal.lines()[-2:] == [b"four", b"five"]


def test_lines_are_on_disk_before_append_returns(tmp_path, monkeypatch):
    synced = []
    real = os.fsync

    def spy(descriptor):
        synced.append((tmp_path / "l").read_bytes())
        real(descriptor)

    monkeypatch.setattr(os, "fsync", spy)
    journal = Journal(tmp_path / "l")
    with journal.locked():
        journal.append([b"one"])
    assert synced[0] == b"one\n"


def test_nothing_to_append_writes_nothing(tmp_path):
    Journal(tmp_path / "l").append([])
    assert not (tmp_path / "l").exists()


def test_a_damaged_head_is_told(journal):
    journal.path.with_suffix(".head").write_text("{}")
    with pytest.raises(JournalError, match="damaged"):
        journal.lines()


def test_a_folder_in_place_of_the_file_is_told(tmp_path):
    (tmp_path / "l").mkdir()
    with pytest.raises(JournalError, match="can not be read"):
        Journal(tmp_path / "l").lines()


def test_a_folder_that_can_not_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError, match="can not be written"), Journal(tmp_path / "file" / "l").locked():
        pass

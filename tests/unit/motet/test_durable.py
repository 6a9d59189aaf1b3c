"""A file is whole or not there, and on disk on return: content first, then its name."""

import os
import stat
from pathlib import Path

import pytest

from motet.durable import write_whole


@pytest.fixture
def synced(monkeypatch):
    """What was synced, in order: ``file``, or a folder by the files that it had then."""
    found, real = [], os.fsync

    def sync(descriptor):
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        found.append({p.name: p.read_bytes() for p in path.iterdir()} if path.is_dir() else "file")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", sync)
    return found


def test_the_content_is_synced_before_the_rename_and_the_folder_after_it(tmp_path, synced):
    path = tmp_path / "state"
    path.write_bytes(b"old")
    write_whole(path, b"new")
    assert synced == ["file", {"state": b"new"}]
    assert path.read_bytes() == b"new"


def test_what_can_not_be_written_leaves_the_old_file_and_nothing_beside(tmp_path, monkeypatch):
    path = tmp_path / "state"
    path.write_bytes(b"old")

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(path, b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["state"]
    assert path.read_bytes() == b"old"


def test_a_private_file_is_never_readable_by_others_not_even_while_it_is_written(tmp_path, monkeypatch):
    modes, real = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda d: modes.append(stat.S_IMODE(os.fstat(d).st_mode)) or real(d))
    write_whole(tmp_path / "key", b"secret", mode=0o600)
    assert modes[0] == 0o600
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600

"""Artifacts on disk: plain or encrypted, whole or not at all, and never taken for something else."""

import hashlib
import os
import secrets

import pytest

from coordinator.errors import StorageError
from coordinator.storage.artifacts import KEY_FILE, SEALED, ArtifactStore, open_artifacts
from coordinator.storage.keyring import Keyring, WrappingKey, read_keyring
from coordinator.storage.rotation import rotate_keys
from coordinator.storage.sealing import FRAME_BYTES, HEADER_BYTES

SIZES = [0, 1, 1000, FRAME_BYTES - 1, FRAME_BYTES, FRAME_BYTES + 1, 2 * FRAME_BYTES, 2 * FRAME_BYTES + 5]


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


@pytest.fixture
def store(home):
    return open_artifacts(home)


def everything(home):
    return {p: p.read_bytes() for p in home.rglob("*") if p.is_file()}


@pytest.mark.parametrize("size", SIZES)
def test_what_is_stored_is_what_is_read_at_every_size(store, home, size):
    data = os.urandom(size)
    name = store.put(data, "update")
    assert name == hashlib.sha256(data).hexdigest()
    assert ArtifactStore(home / "artifacts").get(name) == data
    assert max((len(c) for c in store.chunks(name)), default=0) <= FRAME_BYTES
    assert store.path_of(name).name == name + SEALED


def test_a_new_home_holds_no_plain_byte_of_an_artifact_outside_memory(store, home):
    data = b"an owner's update " * 1000
    store.put(data, "update")
    files = everything(home)
    assert len(files) >= 3
    assert not [p for p, content in files.items() if b"an owner's update" in content]
    plain = ArtifactStore(home / "plain")  # positive control
    assert b"an owner's update" in plain.path_of(plain.put(data)).read_bytes()


def test_the_key_is_readable_by_its_owner_alone_and_stands_in_no_other_file(store, home):
    key = home / KEY_FILE
    assert key.stat().st_mode & 0o777 == 0o600
    store.put(b"x" * 100)
    secret = read_keyring(key).current.secret
    for path, content in everything(home).items():
        if path != key:
            assert secret not in content
            assert secret.hex().encode() not in content
    assert secret.hex() not in repr(read_keyring(key))
    key.chmod(0o640)
    with pytest.raises(StorageError, match="other users may read") as caught:
        ArtifactStore(home / "artifacts").put(b"y")
    assert "chmod 600" in caught.value.hint


def test_any_changed_byte_of_an_encrypted_artifact_is_found(store):
    data = os.urandom(3000)
    name = store.put(data, "adapter")
    path = store.path_of(name)
    whole = path.read_bytes()
    for place in [*range(HEADER_BYTES + 20), *range(HEADER_BYTES + 20, len(whole), 37), len(whole) - 1]:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(StorageError, match=r"altered|damaged|lacks it"):
            store.get(name)
    path.write_bytes(whole)
    assert store.get(name) == data


def test_a_cut_longer_or_reordered_file_is_found(store):
    data = os.urandom(3 * FRAME_BYTES)
    name = store.put(data)
    path = store.path_of(name)
    whole = path.read_bytes()
    frame = FRAME_BYTES + 16
    first, second, rest = (
        whole[HEADER_BYTES : HEADER_BYTES + frame],
        whole[HEADER_BYTES + frame : HEADER_BYTES + 2 * frame],
        whole[HEADER_BYTES + 2 * frame :],
    )
    head = whole[:HEADER_BYTES]
    for wrong in (
        whole[:-1],
        whole + b"\0",
        head + first + second,
        head + second + first + rest,
        head + first + first + rest,
        head,
        head[:-1],
        b"",
    ):
        path.write_bytes(wrong)
        with pytest.raises(StorageError):
            store.get(name)


def test_an_artifact_under_the_name_of_another_is_refused(store):
    one, two = store.put(b"one" * 100), store.put(b"two" * 100)
    store.path_of(one).write_bytes(store.path_of(two).read_bytes())
    with pytest.raises(StorageError, match="does not belong"):
        store.get(one)


def test_two_stores_of_the_same_bytes_differ_on_disk(store, tmp_path):
    other = open_artifacts(tmp_path / "other")
    data = b"same" * 50
    name = store.put(data)
    other.put(data)
    assert store.path_of(name).read_bytes()[HEADER_BYTES:] != other.path_of(name).read_bytes()[HEADER_BYTES:]


def test_an_older_home_stays_plain_and_readable_until_its_keys_are_rotated(home):
    old = ArtifactStore(home / "artifacts")
    name = old.put(b"plain" * 10)
    store = open_artifacts(home)
    second = store.put(b"later" * 10)
    assert store.path_of(second).suffix == ""
    assert not (home / KEY_FILE).exists()
    done = rotate_keys(home)
    assert (done.encrypted, done.rewrapped) == (2, 0)
    for sha256, data in ((name, b"plain" * 10), (second, b"later" * 10)):
        assert store.get(sha256) == data
        assert store.path_of(sha256).suffix == SEALED
    assert not [p for p in (home / "artifacts").rglob("*") if len(p.name) == 64]
    assert store.path_of(store.put(b"new")).suffix == SEALED


def test_a_missing_key_or_ring_is_said_and_nothing_is_written_in_plain(store, home):
    name = store.put(b"secret")
    key = (home / KEY_FILE).read_bytes()
    (home / KEY_FILE).unlink()
    for use in (lambda: store.get(name), lambda: store.put(b"more"), lambda: open_artifacts(home)):
        with pytest.raises(StorageError, match="is missing"):
            use()
    (home / KEY_FILE).write_bytes(key)
    (home / KEY_FILE).chmod(0o600)
    (home / "artifacts/keyring.path").unlink()
    with pytest.raises(StorageError, match=r"keyring\.path is missing"):
        open_artifacts(home)


def test_the_key_can_be_kept_elsewhere_and_every_command_finds_it(home, tmp_path):
    key = tmp_path / "vault/motet.keys"
    store = open_artifacts(home, key)
    name = store.put(b"x" * 10)
    assert key.exists()
    assert not (home / KEY_FILE).exists()
    assert ArtifactStore(home / "artifacts").get(name) == b"x" * 10
    with pytest.raises(StorageError, match="under the keys of") as caught:
        open_artifacts(home, tmp_path / "another.keys")
    assert "rotate-keys" in caught.value.hint


def test_a_home_that_moves_keeps_its_key(store, home, tmp_path):
    name = store.put(b"x" * 10)
    moved = home.rename(tmp_path / "elsewhere")
    assert ArtifactStore(moved / "artifacts").get(name) == b"x" * 10


def test_a_damaged_key_file_is_found(home, store):
    text = (home / KEY_FILE).read_text()
    for wrong in (
        "",
        "{}",
        text.replace("motet-artifact-keys/1", "other/9"),
        text.replace('"id": "', '"id": "00'),
    ):
        (home / KEY_FILE).write_text(wrong)
        with pytest.raises(StorageError):
            ArtifactStore(home / "artifacts").put(b"x")


# -- rotation --------------------------------------------------------------------------------------------------------


def contents(store):
    return {sha256: store.get(sha256) for sha256, _ in store.files()}


def test_after_a_rotation_everything_is_readable_and_the_old_key_opens_nothing(store, home):
    names = [store.put(os.urandom(n)) for n in (0, 10, FRAME_BYTES + 3)]
    before = contents(store)
    old = read_keyring(home / KEY_FILE)
    frames = {n: store.path_of(n).read_bytes()[HEADER_BYTES:] for n in names}
    done = rotate_keys(home)
    assert (done.rewrapped, done.encrypted) == (3, 0)
    ring = read_keyring(home / KEY_FILE)
    assert len(ring.keys) == 1
    assert ring.current != old.current
    assert contents(store) == before  # a store that was open all the time
    assert {
        n: store.path_of(n).read_bytes()[HEADER_BYTES:] for n in names
    } == frames  # only headers were made anew
    old.save()
    for name in names:
        with pytest.raises(StorageError, match="lacks it"):
            ArtifactStore(home / "artifacts").get(name)


class CutOffError(Exception):
    pass


@pytest.mark.parametrize("at", range(12))
def test_a_rotation_that_is_cut_off_anywhere_loses_nothing_and_the_same_call_finishes(home, monkeypatch, at):
    store = open_artifacts(home)
    for n in range(3):
        store.put(secrets.token_bytes(100 + n))
    plain = ArtifactStore(home / "artifacts")
    monkeypatch.setattr(plain, "keyring", lambda: None)
    plain.put(b"plain from earlier")
    before = contents(store)
    first = read_keyring(home / KEY_FILE).current
    left = [at]
    replace, rename = os.replace, os.rename

    def counted(do):
        def call(*args, **kwargs):
            left[0] -= 1
            if left[0] == -1:
                raise CutOffError
            result = do(*args, **kwargs)
            left[0] -= 1
            if left[0] == -1:
                raise CutOffError
            return result

        return call

    monkeypatch.setattr(os, "replace", counted(replace))
    monkeypatch.setattr(os, "rename", counted(rename))
    try:
        rotate_keys(home)
        was_cut = False
    except CutOffError:
        was_cut = True
    monkeypatch.setattr(os, "replace", replace)
    monkeypatch.setattr(os, "rename", rename)
    assert was_cut
    again = ArtifactStore(home / "artifacts")
    assert contents(again) == before
    name = again.put(b"written between")
    rotate_keys(home)
    ring = read_keyring(home / KEY_FILE)
    assert len(ring.keys) == 1
    assert ring.current != first
    assert contents(ArtifactStore(home / "artifacts")) == before | {name: b"written between"}
    assert {p.suffix for _, p in again.files()} == {SEALED}


def test_a_rotation_to_another_file_leaves_the_old_one_and_uses_the_new(store, home, tmp_path):
    name = store.put(b"x" * 10)
    done = rotate_keys(home, tmp_path / "vault.keys")
    assert done.key_path == tmp_path / "vault.keys"
    assert (home / KEY_FILE).exists()
    (home / KEY_FILE).unlink()
    assert ArtifactStore(home / "artifacts").get(name) == b"x" * 10
    Keyring(path=tmp_path / "foreign.keys", keys=(WrappingKey.new(),)).save()
    with pytest.raises(StorageError, match="other keys"):
        rotate_keys(home, tmp_path / "foreign.keys")


def test_a_rotation_keeps_the_old_key_while_an_artifact_needs_it(store, home):
    good, bad = store.put(b"good" * 10), store.put(b"bad" * 10)
    whole = store.path_of(bad).read_bytes()
    store.path_of(bad).write_bytes(whole[:40] + bytes([whole[40] ^ 1]) + whole[41:])
    with pytest.raises(StorageError, match="1 artifacts are not under the new key"):
        rotate_keys(home)
    assert len(read_keyring(home / KEY_FILE).keys) == 2
    assert store.get(good) == b"good" * 10
    store.path_of(bad).write_bytes(whole)  # restored
    assert rotate_keys(home).rewrapped == 1
    assert store.get(bad) == b"bad" * 10


def test_a_full_disk_leaves_nothing_half(store, home, monkeypatch):
    def full(_fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        store.put(b"x" * 100)
    assert not list(store.files())
    assert not list(store.leftovers())

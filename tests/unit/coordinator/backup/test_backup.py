"""A backup of a home at work is one moment of it; what is not whole is never restored; nothing is overwritten."""

import io
import json
import shutil
import tarfile

import pytest
from databases import BOTH, new_place, postgresql_url  # noqa: F401 - a fixture
from golden_databases import fill, read_golden, tables, write_key
from small_federation import SHAPE

from coordinator.backup.archive import MANIFEST, Writer, check, members
from coordinator.backup.errors import BackupError, RolledBackError
from coordinator.backup.making import back_up
from coordinator.backup.restoring import restore
from coordinator.engine.round_engine import RoundEngine
from coordinator.storage.artifacts import ArtifactStore, open_artifacts
from coordinator.storage.store import Store
from coordinator.storage.where import open_store
from coordinator.tls import ensure_certificates
from motet.audit.ledger import CoordinatorLedger
from motet.doctor.machine import now

SECRET = "correct horse battery"


@pytest.fixture
def home(tmp_path):
    """A coordinator's home with runs in every state, certificates and artifacts."""
    home = tmp_path / "home"
    store = open_store(home)
    fill(store)
    store.ledger.publish()
    store.close()
    ensure_certificates(home / "tls", ["localhost"], now())
    artifacts = open_artifacts(home)
    for index in range(3):
        artifacts.put(bytes([index]) * 1000, "update")
    (home / "join.json").write_text('{"address": "127.0.0.1:8443"}\n')
    return home


def in_order(found):
    return {name: sorted(rows, key=repr) for name, rows in found.items()}


def content(home):
    """Rows, ledger and readable artifacts of a home."""
    store = open_store(home)
    try:
        leaves = store.ledger.leaves()
        store.ledger.reconcile()
        rows = {name: getattr(store, name)() for name in ("count_rows", "list_runs")}
        runs = [(r.run_id, r.state, r.recipe_sha256, r.reason) for r in rows["list_runs"]]
        spent = {c: [e.to_json() for e in store.spent_events(c)] for c in "ab"}
        told = [
            (c.run_id, c.round_index, c.attempt, c.client_id, c.state, c.error_message, c.weight)
            for r in runs
            for c in store.contributions(r[0])
        ]
    finally:
        store.close()
    artifacts = ArtifactStore(home / "artifacts")
    return rows["count_rows"], runs, spent, told, leaves, {n: artifacts.get(n) for n, _ in artifacts.files()}


def test_a_restored_home_holds_what_the_home_held(home, tmp_path):
    done = back_up(home, tmp_path / "one.motet", passphrase=SECRET)
    back = restore(tmp_path / "one.motet", tmp_path / "back", passphrase=SECRET)
    assert (back.entries, back.missing_keys, back.is_rolled_back) == (done.entries, (), False)
    assert content(tmp_path / "back") == content(home)
    for name in (
        "tls/ca.crt",
        "tls/ca.key",
        "tls/server.pem",
        "ledger/ledger.key",
        "artifact.keys",
        "join.json",
    ):
        assert (tmp_path / "back" / name).read_bytes() == (home / name).read_bytes(), name
    for name in ("tls/ca.key", "ledger/ledger.key", "artifact.keys"):
        assert (tmp_path / "back" / name).stat().st_mode & 0o777 == 0o600
    assert done.path.stat().st_mode & 0o777 == 0o600
    assert not list(tmp_path.glob(".*"))


def test_no_key_stands_in_the_file_and_one_without_keys_says_which_are_missing(home, tmp_path):
    back_up(home, tmp_path / "with.motet", passphrase=SECRET)
    back_up(home, tmp_path / "without.motet", passphrase=None)
    secrets = [(home / n).read_bytes() for n in ("tls/ca.key", "tls/server.key", "ledger/ledger.key")]
    secrets.append(json.loads((home / "artifact.keys").read_text())["keys"][0]["key"].encode())
    for name in ("with.motet", "without.motet"):
        data = (tmp_path / name).read_bytes()
        assert not [s for s in secrets if s in data or (s.splitlines()[1:2] and s.splitlines()[1] in data)]
    assert (home / "tls/ca.crt").read_bytes() in data  # positive control: what is no secret is found
    back = restore(tmp_path / "without.motet", tmp_path / "back")
    assert back.missing_keys == ("tls/ca.key", "tls/server.key", "ledger/ledger.key", "artifact.keys")
    for name in back.missing_keys:
        shutil.copy2(home / name, tmp_path / "back" / name)
    assert content(tmp_path / "back") == content(home)


@pytest.mark.parametrize("passphrase", ["wrong horse battery", None])
def test_another_passphrase_opens_nothing_and_writes_nothing(home, tmp_path, passphrase):
    back_up(home, tmp_path / "one.motet", passphrase=SECRET)
    with pytest.raises(BackupError, match="passphrase"):
        restore(tmp_path / "one.motet", tmp_path / "back", passphrase=passphrase)
    assert not (tmp_path / "back").exists()
    with pytest.raises(BackupError, match="too short"):
        back_up(home, tmp_path / "two.motet", passphrase="short")
    assert not (tmp_path / "two.motet").exists()


def test_a_backup_while_rounds_are_played_is_one_moment_and_the_run_ends_as_the_whole_one(
    federation, recipes, tmp_path
):
    federation.artifacts = open_artifacts(tmp_path)
    whole = federation.engine().run(federation.submit(recipes["private"], run_id="whole")).adapter_sha256
    run = federation.submit(recipes["private"], run_id="cut")
    made = []

    def at_order(order):
        if order.run_id == run and (order.round_index, order.client_id) == (1, "b"):
            made.append(back_up(tmp_path, tmp_path / "one.motet", passphrase=SECRET, after_snapshot=later))

    def later():
        """What is written while the backup is under way is not in it."""
        federation.store.count(run, 0, "late_replies")
        federation.artifacts.put(b"later" * 100)

    federation.grid.on_send = at_order
    assert federation.engine().run(run).adapter_sha256 == whole
    assert len(made) == 1
    back = tmp_path / "back"
    restore(tmp_path / "one.motet", back, passphrase=SECRET)
    store = open_store(back, clock=federation.clock)
    try:
        assert store.get_run(run).state == "RUNNING"
        assert [r.state for r in store.rounds(run)] == ["CLOSED", "PLANNED"]
        assert not [m for m in store.metrics(run) if m.name == "late_replies"]
        spent = len(store.spent_events("a", run))
        federation.grid.on_send = lambda order: None
        engine = RoundEngine(
            federation.grid, store, ArtifactStore(back / "artifacts"), federation.clock, shape=SHAPE
        )
        assert engine.run(run).adapter_sha256 == whole
        assert len(store.spent_events("a", run)) == spent + 1  # the round that had not begun
    finally:
        store.close()


@pytest.mark.parametrize("revision", ["0001", "0004"])
def test_a_backup_before_an_upgrade_is_of_the_old_revision_and_upgrades_after_the_restore(tmp_path, revision):
    home = tmp_path / "home"
    (home / "ledger").mkdir(parents=True)
    write_key(home / "ledger")
    read_golden(revision, home / "motet.db")
    before = tables(home / "motet.db")
    if revision == "0001":  # its signed file was written at an export
        with pytest.raises(BackupError, match="no ledger"):
            back_up(home, tmp_path / "one.motet", passphrase=None)
        return
    leaves = [r["leaf"] for r in sorted(before["ledger_entries"], key=lambda r: r["sequence"])]
    CoordinatorLedger(home / "ledger").follow(lambda start: leaves[start:])
    assert back_up(home, tmp_path / "one.motet", passphrase=SECRET).revision == revision
    assert in_order(tables(home / "motet.db")) == in_order(before)  # nothing was upgraded
    assert restore(tmp_path / "one.motet", tmp_path / "back", passphrase=SECRET).revision == revision
    assert in_order(tables(tmp_path / "back/motet.db")) == in_order(before)
    open_store(tmp_path / "back").close()
    assert len(tables(tmp_path / "back/motet.db")["privacy_events"]) == len(before["privacy_events"])


@pytest.mark.parametrize("place", BOTH[1:], indirect=True)
def test_a_sqlite_home_is_restored_into_postgresql_and_back(home, tmp_path, place):
    back_up(home, tmp_path / "one.motet", passphrase=SECRET)
    restore(tmp_path / "one.motet", tmp_path / "server", passphrase=SECRET, database=place.address)
    assert content(tmp_path / "server") == content(home)
    with pytest.raises(BackupError, match="is not empty"):
        restore(tmp_path / "one.motet", tmp_path / "again", passphrase=SECRET, database=place.address)
    assert not (tmp_path / "again").exists()
    back_up(tmp_path / "server", tmp_path / "two.motet", passphrase=SECRET)
    restore(tmp_path / "two.motet", tmp_path / "back", passphrase=SECRET)
    assert content(tmp_path / "back") == content(home)
    assert not (tmp_path / "back/database.url").exists()


@pytest.fixture
def place(request, tmp_path):
    with new_place(request, tmp_path) as made:
        yield made


# -- what is not whole -----------------------------------------------------------------------------------------------


def rewritten(path, out, change):
    """A copy of a backup; ``change`` maps (name, data) to other members."""
    with tarfile.open(path) as old, tarfile.open(out, "w") as new:
        for info in old:
            for name, data in change(info.name, old.extractfile(info).read()):
                made = tarfile.TarInfo(name)
                made.size = len(data)
                new.addfile(made, io.BytesIO(data))


def flip(data):
    return bytes([data[0] ^ 1]) + data[1:] if data else b"x"


def test_any_changed_missing_or_added_member_is_found_before_anything_is_written(home, tmp_path):
    back_up(home, tmp_path / "one.motet", passphrase=SECRET)
    with tarfile.open(tmp_path / "one.motet") as tar:
        names = tar.getnames()
    assert {n.split("/")[0] for n in names} == {
        "ledger", "tables", "artifacts", "tls", "join.json", "keys.json", MANIFEST, "manifest.note",
    }  # fmt: skip
    wrong = tmp_path / "wrong.motet"
    for name in names:
        for change in (
            lambda n, d, name=name: [(n, flip(d) if n == name else d)],
            lambda n, d, name=name: [] if n == name else [(n, d)],
        ):
            rewritten(tmp_path / "one.motet", wrong, change)
            with pytest.raises(BackupError):
                restore(wrong, tmp_path / "back", passphrase=SECRET)
            assert not (tmp_path / "back").exists()
    for extra in (
        "artifacts/aa/more",
        "../outside",
        "/etc/motet",
        "tls/../../x",
        "superlink/secret",
        "ledger/.hidden",
    ):
        rewritten(
            tmp_path / "one.motet",
            wrong,
            lambda n, d, extra=extra: [(n, d), *([(extra, b"x")] if n == names[0] else [])],
        )
        with pytest.raises(BackupError):
            restore(wrong, tmp_path / "back", passphrase=SECRET)
    whole = (tmp_path / "one.motet").read_bytes()
    for cut in (0, 100, len(whole) // 2, whole.index(b"manifest.json")):
        wrong.write_bytes(whole[:cut])
        with pytest.raises(BackupError):
            check(wrong)
    assert not (tmp_path / "back").exists()
    restore(tmp_path / "one.motet", tmp_path / "back", passphrase=SECRET)  # positive control


def test_a_link_in_the_place_of_a_file_is_refused(home, tmp_path):
    back_up(home, tmp_path / "one.motet", passphrase=None)
    with tarfile.open(tmp_path / "one.motet") as old, tarfile.open(tmp_path / "wrong.motet", "w") as new:
        for info in old:
            if info.name == "join.json":
                info.type, info.linkname, info.size = tarfile.SYMTYPE, "/etc/passwd", 0
                new.addfile(info)
            else:
                new.addfile(info, old.extractfile(info))
    with pytest.raises(BackupError, match="no plain file"):
        check(tmp_path / "wrong.motet")


def test_a_file_of_zeros_that_is_larger_than_any_disk_is_refused_before_it_is_read(tmp_path):
    with tarfile.open(tmp_path / "wrong.motet", "w", format=tarfile.PAX_FORMAT) as new:
        info = tarfile.TarInfo("join.json")
        info.pax_headers = {
            "GNU.sparse.major": "1",
            "GNU.sparse.minor": "0",
            "GNU.sparse.name": "join.json",
            "GNU.sparse.realsize": str(10**15),
        }
        data = b"1\n0\n1\n".ljust(512, b"\0") + b"x"
        info.size = len(data)
        new.addfile(info, io.BytesIO(data))
    with tarfile.open(tmp_path / "wrong.motet") as tar:
        assert [(m.size, m.issparse()) for m in tar] == [(10**15, True)]  # control: so it reads for tarfile
    with pytest.raises(BackupError, match="no plain file"):
        check(tmp_path / "wrong.motet")


@pytest.mark.parametrize(
    "name", ["artifacts/keyring.path", "tls/ca.key", "tls/server.key", "ledger/ledger.key"]
)
def test_a_backup_that_somebody_made_up_brings_no_keys_and_no_place_for_them(home, tmp_path, name):
    """Whoever has a ledger's key can sign any backup: what it may put into a home is bounded all the same."""
    back_up(home, tmp_path / "one.motet", passphrase=None)
    ledger = CoordinatorLedger(home / "ledger")

    def made_up(path, *extra):
        with path.open("wb") as file:
            writer = Writer(file)
            for known, _, content in members(tmp_path / "one.motet"):
                data = content.read()
                if known == MANIFEST:
                    facts = {k: v for k, v in json.loads(data).items() if k not in {"format", "files"}}
                elif known != "manifest.note":
                    writer.add(known, data)
            for other in extra:
                writer.add(other, b"/tmp/elsewhere\n")
            writer.close(facts, ledger.sign)
        return path

    check(made_up(tmp_path / "fine.motet"))  # control
    with pytest.raises(BackupError, match="does not belong"):
        check(made_up(tmp_path / "wrong.motet", name))


def test_a_home_that_is_not_empty_is_left_alone(home, tmp_path):
    back_up(home, tmp_path / "one.motet", passphrase=None)
    before = sorted(p.name for p in home.iterdir())
    with pytest.raises(BackupError, match="is not empty"):
        restore(tmp_path / "one.motet", home)
    assert sorted(p.name for p in home.iterdir()) == before
    with pytest.raises(BackupError, match="is there already"):
        back_up(home, tmp_path / "one.motet", passphrase=None)
    (tmp_path / "empty").mkdir()
    restore(tmp_path / "one.motet", tmp_path / "empty")


def test_another_ledgers_key_is_refused_where_the_operator_names_the_own(home, tmp_path):
    back_up(home, tmp_path / "one.motet", passphrase=None)
    key = check(tmp_path / "one.motet").key
    other = tmp_path / "other"
    store = Store.open(other / "motet.db")
    fill(store)
    store.ledger.publish()
    store.close()
    open_artifacts(other)
    back_up(other, tmp_path / "other.motet", passphrase=None)
    with pytest.raises(BackupError, match="another key"):
        restore(tmp_path / "other.motet", tmp_path / "back", key=key)
    restore(tmp_path / "one.motet", tmp_path / "back", key=key)


# -- rollback --------------------------------------------------------------------------------------------------------


def test_a_backup_that_is_older_than_what_was_seen_is_refused_unless_the_loss_is_accepted(home, tmp_path):
    back_up(home, tmp_path / "one.motet", passphrase=SECRET)
    store = open_store(home)
    fill(store, runs=("n-whole", "n-open", "n-plain", "n-queued"))
    store.ledger.publish()
    notes = store.ledger.file.checkpoints()
    store.close()
    evidence = {"note": notes[-1], "client": json.dumps({"checkpoint": notes[-1], "key": "", "proofs": {}})}
    for name, text in evidence.items():
        (tmp_path / name).write_text(text)
    for path in (tmp_path / "note", tmp_path / "client", home, home / "ledger"):
        with pytest.raises(RolledBackError, match="would be forgotten") as caught:
            restore(tmp_path / "one.motet", tmp_path / "back", passphrase=SECRET, checkpoints=[path])
        assert "--accept-rollback" in caught.value.hint
        assert not (tmp_path / "back").exists()
    (tmp_path / "old").write_text(notes[0])
    restore(tmp_path / "one.motet", tmp_path / "fine", passphrase=SECRET, checkpoints=[tmp_path / "old"])
    options = {
        "passphrase": SECRET,
        "checkpoints": [tmp_path / "note", tmp_path / "old"],
        "accept_rollback": True,
    }
    assert restore(tmp_path / "one.motet", tmp_path / "back", **options).is_rolled_back
    told = json.loads((tmp_path / "back/ledger/rollback-accepted.json").read_text())
    assert told["newest_seen"] == int(notes[-1].split("\n")[1]) > told["entries"]
    (tmp_path / "none").write_text("no checkpoint")
    with pytest.raises(BackupError, match="no checkpoint of this ledger"):
        restore(tmp_path / "one.motet", tmp_path / "more", passphrase=SECRET, checkpoints=[tmp_path / "none"])


def test_a_ledger_that_went_another_way_is_refused_however_long_it_is(home, tmp_path):
    shutil.copytree(home, tmp_path / "twin")
    for folder, runs in ((home, "abcd"), (tmp_path / "twin", "efgh")):
        store = open_store(folder)
        fill(store, runs=tuple(f"{r}-run" for r in runs))
        store.ledger.publish()
        store.close()
    back_up(home, tmp_path / "one.motet", passphrase=SECRET)
    with pytest.raises(RolledBackError, match="another one"):
        restore(tmp_path / "one.motet", tmp_path / "back", passphrase=SECRET, checkpoints=[tmp_path / "twin"])

"""``motet audit`` and ``motet budget`` on a coordinator's home, as people type them."""

from __future__ import annotations

import json
import resource
import shutil
import sqlite3
import subprocess
import sys

import pytest
from audit_houses import house_at
from one_by_one import order_sent, reply_received

from client.keys import init_key
from client.ledger import ClientLedger
from coordinator.registration import register
from coordinator.storage.store import Store
from motet.cli.main import main
from motet.recipe import parse_recipe
from motet.recipe.noise import round_event
from privacy.accounting import epsilon_pld
from privacy.events import PoissonGaussianEvent

YAML = """
name: tiny
base_model: {tiny: tiny-bert}
task: {kind: sequence-classification, num_labels: 2}
data: {path: none.jsonl}
adapter: {lora_rank: 2}
method: {name: flora}
cohort: {clients: [a, b], minimum: 1, deadline_s: 5}
training: {rounds: 4, local_steps: 2}
privacy: {noise_multiplier: 1.0, sampling_rate: 0.1, epsilon_limit: 20, target_delta: 1.0e-5}
"""


def run_rounds(home, run_id="r-1", rounds=range(3), text=YAML):
    """Three rounds: all is well, b fails, the attempt is aborted."""
    recipe = parse_recipe(text)
    store = Store.open(home / "motet.db")
    store.submit_run(recipe, run_id=run_id)
    for index in rounds:
        options = {"start_sha256": "0" * 64, "deadline_s": 5, "ranks": {"a": 1, "b": 2}}
        store.plan_round(run_id, index, 0, **options, event=round_event(recipe))
        for client in "ab":
            order_sent(store, run_id, index, 0, client, message_id=f"m{index}{client}", bytes_down=9)
        common = {"payload_sha256": "1" * 64, "bytes_up": 9, "weight": 1.0, "num_examples": 0}
        if index < 2:
            reply_received(store, run_id, index, 0, "a", **common)
        if index == 0:
            reply_received(store, run_id, index, 0, "b", **common)
        if index == 1:
            store.reply_failed(run_id, index, 0, "b", code="deadline", message="no answer")
        if index == 2:
            store.abort_round(run_id, index, 0, "too few")
    store.close()


def motet(capsys, *arguments):
    """Exit code, standard output, standard error."""
    code = 0
    try:
        main([str(a) for a in arguments])
    except SystemExit as stop:
        code = stop.code or 0
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def home(tmp_path):
    home = tmp_path / "fed"
    for client in "ab":
        register_client(home, tmp_path, client)
    run_rounds(home)
    return home


def register_client(home, tmp_path, client):
    register(home, client, init_key(tmp_path / client))


def charge_itself(tmp_path, client, rounds):
    ledger = ClientLedger(tmp_path / client / "ledger.jsonl")
    for index in rounds:
        event = PoissonGaussianEvent(noise_multiplier=1.0, sampling_rate=0.1, num_steps=2)
        options = {"run_id": "r-1", "round_index": index, "attempt": 0, "event": event}
        name = ledger.reserve(data_set="d", **options, epsilon_cap=None, target_delta=1e-5)
        ledger.settle(name)


def test_export_then_verify_holds_and_tells_the_epsilon_of_each_client(home, tmp_path, capsys):
    out = tmp_path / "audit.jsonl"
    code, text, _ = motet(capsys, "audit", "export", "r-1", "--home", home, "--out", out)
    assert (code, "22 entries" in text) == (0, True)  # genesis, 2 keys, run; 6 charges, orders, outcomes
    code, text, _ = motet(capsys, "audit", "verify", out, "--json")
    told = json.loads(text)
    assert (code, told["ok"], told["findings"]) == (0, True, [])
    event = PoissonGaussianEvent(noise_multiplier=1.0, sampling_rate=0.1, num_steps=2)
    assert [c["epsilon_pld"] for c in told["clients"]] == [pytest.approx(epsilon_pld([event] * 3, 1e-5))] * 2
    code, text, _ = motet(capsys, "audit", "verify", out)
    assert (code, "all holds" in text) == (0, True)


def test_a_tampered_bundle_exits_with_11_and_names_the_row(home, tmp_path, capsys):
    out = tmp_path / "audit.jsonl"
    motet(capsys, "audit", "export", "r-1", "--home", home, "--out", out)
    lines = out.read_text().split("\n")
    lines[7] = lines[7].replace('"round_index":0', '"round_index":1')
    out.write_text("\n".join(lines))
    code, text, err = motet(capsys, "audit", "verify", out)
    assert code == 11
    assert "row 8" in text
    assert "row 8" in err
    code, text, _ = motet(capsys, "audit", "verify", out, "--json")
    assert (code, json.loads(text)["findings"][0]["row"]) == (11, 8)


def as_before_it_had_a_ledger(home):
    """The database of a version that wrote no ledger; only its owner can make it so."""
    with sqlite3.connect(home / "motet.db") as connection:
        connection.execute("DROP TRIGGER ledger_entries_no_delete")
        connection.execute("DELETE FROM ledger_entries")
    shutil.rmtree(home / "ledger", ignore_errors=True)


def test_what_happens_is_written_as_it_happens_and_not_at_the_export(home, tmp_path, capsys):
    out = tmp_path / "audit.jsonl"
    motet(capsys, "audit", "export", "r-1", "--home", home, "--out", out)
    _, text, _ = motet(capsys, "audit", "verify", out, "--json")
    assert json.loads(text)["entries"] == 22
    assert not any("written at an export" in note for note in json.loads(text)["notes"])
    # positive control: what a database older than its ledger tells is marked
    as_before_it_had_a_ledger(home)
    motet(capsys, "audit", "export", "r-1", "--home", home, "--out", out)
    code, text, _ = motet(capsys, "audit", "verify", out, "--json")
    assert (code, json.loads(text)["entries"]) == (0, 22)
    assert any("21 of 22 entries were written at an export" in note for note in json.loads(text)["notes"])


def test_entries_of_a_signed_file_that_is_older_than_the_table_are_kept_as_they_were_signed(
    home, tmp_path, capsys
):
    first, second = tmp_path / "1.jsonl", tmp_path / "2.jsonl"
    motet(capsys, "audit", "export", "r-1", "--home", home, "--out", first)
    kept = shutil.copytree(home / "ledger", tmp_path / "kept")
    as_before_it_had_a_ledger(home)
    shutil.copytree(kept, home / "ledger")
    run_rounds(home, "r-2")
    motet(capsys, "audit", "export", "r-2", "--home", home, "--out", second)
    code, text, _ = motet(capsys, "audit", "verify", second, "--previous", first, "--json")
    assert (code, json.loads(text)["ok"], json.loads(text)["runs"]) == (0, True, 2)


def test_a_second_export_extends_the_first(home, tmp_path, capsys):
    first, second = tmp_path / "1.jsonl", tmp_path / "2.jsonl"
    motet(capsys, "audit", "export", "r-1", "--home", home, "--out", first)
    run_rounds(home, "r-2")
    code, text, _ = motet(capsys, "audit", "export", "r-2", "--home", home, "--out", second, "--json")
    key = json.loads(text)["key"]
    code, text, _ = motet(capsys, "audit", "verify", second, "--previous", first, "--key", key, "--json")
    assert (code, json.loads(text)["ok"]) == (0, True)
    assert json.loads(text)["runs"] == 2
    code, _, err = motet(capsys, "audit", "verify", first, "--previous", second)
    assert (code, "older copy" in err) == (11, True)


def test_a_database_put_back_from_an_older_copy_is_refused(home, tmp_path, capsys):
    older = (home / "motet.db").read_bytes()
    run_rounds(home, "r-2")
    motet(capsys, "audit", "export", "r-1", "--home", home, "--out", tmp_path / "x")
    for suffix in ("-wal", "-shm"):
        (home / f"motet.db{suffix}").unlink(missing_ok=True)
    (home / "motet.db").write_bytes(older)
    code, _, err = motet(capsys, "audit", "export", "r-1", "--home", home, "--out", tmp_path / "y")
    assert (code, "lacks 6 charges" in err) == (11, True)
    assert not (tmp_path / "y").exists()


def test_a_charge_that_was_made_cheaper_in_the_database_is_refused(home, tmp_path, capsys):
    motet(capsys, "audit", "export", "r-1", "--home", home, "--out", tmp_path / "x")
    with sqlite3.connect(home / "motet.db") as connection:
        connection.execute("DROP TRIGGER privacy_events_settle_only")  # what whoever owns the file can do
        connection.execute(
            "UPDATE privacy_events SET event_json = replace(event_json, '\"noise_multiplier\":1.0', "
            "'\"noise_multiplier\":9.0') WHERE client_id = 'a' AND round_index = 0"
        )
    code, _, err = motet(capsys, "audit", "export", "r-1", "--home", home, "--out", tmp_path / "y")
    assert (code, "another reserve entry" in err) == (11, True)


def test_countersignatures_of_data_owners_are_checked(home, tmp_path, capsys):
    files = []
    for client in "ab":
        charge_itself(tmp_path, client, range(3))
        files.append(tmp_path / f"{client}.json")
        code, text, _ = motet(
            capsys, "audit", "receipts", client, "--home", tmp_path / client, "--out", files[-1]
        )
        assert code == 0
    assert "fingerprint" not in files[0].read_text()
    out = tmp_path / "audit.jsonl"
    options = ["--receipts", files[0], "--receipts", files[1]]
    motet(capsys, "audit", "export", "r-1", "--home", home, "--out", out, *options)
    code, text, _ = motet(capsys, "audit", "verify", out, "--json")
    assert (code, json.loads(text)["countersignatures"]) == (0, 2)
    assert not any("no countersignature" in note for note in json.loads(text)["notes"])
    # positive control: a charges itself once more and signs before the bundle is made
    charge_itself(tmp_path, "a", range(3, 4))
    motet(capsys, "audit", "receipts", "a", "--home", tmp_path / "a", "--out", files[0])
    motet(capsys, "audit", "export", "r-1", "--home", home, "--out", out, *options)
    code, _, err = motet(capsys, "audit", "verify", out)
    assert (code, "holds no such charge" in err) == (11, True)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["audit", "verify", "none.jsonl"], 2, "none.jsonl"),
        (["audit", "export", "r-404", "--home", "fed", "--out", "x"], 2, "knows no run"),
        (["audit", "export", "r-1", "--home", "elsewhere", "--out", "x"], 8, "no such database"),
        (["audit", "export", "r-1", "--home", "fed", "--out", "file/x"], 8, "can not be written"),
        (
            ["audit", "export", "r-1", "--home", "fed", "--out", "x", "--receipts", "file"],
            2,
            "no countersignature",
        ),
        (["audit", "receipts", "a", "--home", "elsewhere", "--out", "x"], 8, "motet client init"),
        (["budget", "show", "--home", "elsewhere"], 8, "no such database"),
        (
            ["budget", "calibrate", "--epsilon", "-1", "--sampling-rate", "0.1", "--steps", "3"],
            2,
            "--epsilon: -1 must be above 0",
        ),
        (
            ["budget", "calibrate", "--epsilon", "1e-9", "--sampling-rate", "1", "--steps", "999"],
            2,
            "no noise",
        ),
    ],
)
def test_what_can_not_be_done_is_told_in_words(home, tmp_path, capsys, monkeypatch, arguments, code, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("no folder")
    got, _, err = motet(capsys, *arguments)
    assert got == code
    assert words in " ".join(err.split())
    assert "Traceback" not in err


def test_a_file_that_is_no_database_is_told(tmp_path, capsys):
    (tmp_path / "motet.db").write_text("not a database at all, but long enough to be looked at")
    code, _, err = motet(capsys, "budget", "show", "--home", tmp_path)
    assert (code, "motet.db" in err) == (8, True)


def test_what_is_reserved_counts_and_is_shown_apart(home, capsys):
    code, text, _ = motet(capsys, "budget", "show", "--home", home, "--json")
    rows = {row["client_id"]: row for row in json.loads(text)["clients"]}
    event = PoissonGaussianEvent(noise_multiplier=1.0, sampling_rate=0.1, num_steps=2)
    three = epsilon_pld([event] * 3, 1e-5)
    assert code == 0
    assert rows["a"]["total"] == rows["b"]["total"] == pytest.approx(three)
    assert rows["a"]["spent"] == pytest.approx(epsilon_pld([event] * 2, 1e-5))
    assert rows["b"]["spent"] == pytest.approx(epsilon_pld([event], 1e-5))
    for row in rows.values():
        assert row["reserved"] == pytest.approx(row["total"] - row["spent"])
        assert row["remaining"] == pytest.approx(20 - three)
    assert (rows["b"]["charges"], rows["b"]["open_charges"]) == (3, 2)
    assert rows["a"]["runs"] == [{"run_id": "r-1", "epsilon": pytest.approx(three), "charges": 3}]


def test_runs_compose_and_are_listed(home, capsys):
    run_rounds(home, "r-2")
    _, text, _ = motet(capsys, "budget", "show", "--home", home, "--json")
    row = json.loads(text)["clients"][0]
    assert [run["run_id"] for run in row["runs"]] == ["r-1", "r-2"]
    assert row["runs"][0]["epsilon"] < row["total"] < 2 * row["runs"][0]["epsilon"]
    code, text, _ = motet(capsys, "budget", "show", "--home", home)
    assert (code, "r-2" in text) == (0, True)


def test_an_event_that_is_not_understood_is_shown_as_infinite(home, capsys):
    with sqlite3.connect(home / "motet.db") as connection:
        connection.execute("DROP TRIGGER privacy_events_settle_only")  # what whoever owns the file can do
        connection.execute(
            "UPDATE privacy_events SET event_json = '{' WHERE client_id = 'a' AND round_index = 0"
        )
    code, text, _ = motet(capsys, "budget", "show", "--home", home)
    assert (code, "inf" in text) == (0, True)
    _, text, _ = motet(capsys, "budget", "show", "--home", home, "--json")
    row = json.loads(text)["clients"][0]
    assert (row["total"], row["remaining"]) == (None, 0.0)


def test_nothing_charged_is_told(tmp_path, capsys):
    Store.open(tmp_path / "motet.db").close()
    code, text, _ = motet(capsys, "budget", "show", "--home", tmp_path)
    assert (code, "nothing was charged" in text) == (0, True)


def test_the_calibrated_noise_meets_the_target_with_the_number_that_is_printed(capsys):
    options = ["--epsilon", "4", "--delta", "1e-5", "--sampling-rate", "0.05", "--steps", "20"]
    code, text, _ = motet(capsys, "budget", "calibrate", *options, "--json")
    told = json.loads(text)
    event = PoissonGaussianEvent(noise_multiplier=told["noise_multiplier"], sampling_rate=0.05, num_steps=20)
    assert code == 0
    assert 0.98 * 4 < epsilon_pld([event], 1e-5) <= 4
    less = PoissonGaussianEvent(
        noise_multiplier=0.97 * told["noise_multiplier"], sampling_rate=0.05, num_steps=20
    )
    assert epsilon_pld([less], 1e-5) > 4  # positive control: less noise would not do
    code, text, _ = motet(capsys, "budget", "calibrate", *options)
    assert text.startswith(f"noise_multiplier: {told['noise_multiplier']:g}")


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A bundle of ten thousand entries."""
    folder = tmp_path_factory.mktemp("large")
    house = house_at(folder)
    for start in range(0, 840, 20):
        house.play(range(start, start + 20))
    path = folder / "large.jsonl"
    path.write_bytes(house.bundle())
    return path


PROGRAM = """
import sys
from motet.audit.ledger import CoordinatorLedger
from motet.cli.main import main
try:
    main(["audit", "verify", sys.argv[1], "--json"])
finally:
    loaded = sorted(n for n in ("torch", "sqlalchemy", "transformers", "flwr") if n in sys.modules)
    print("LOADED", loaded, file=sys.stderr)
"""


def test_verify_loads_neither_torch_nor_a_database_and_takes_ten_thousand_entries_in_five_seconds(large):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(large)], capture_output=True, text=True, check=False
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    told = json.loads(done.stdout)
    assert told["ok"], told["findings"][:3]
    assert told["entries"] >= 10_000
    assert "LOADED []" in done.stderr
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 5  # seconds of one core


def test_the_test_would_see_a_loaded_database():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.replace("import sys", "import sys, sqlalchemy", 1), "none"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "LOADED ['sqlalchemy']" in done.stderr

"""A budget follows the data, not the file: edits, copies, other names and formats change nothing."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.errors import LedgerError
from client.ledger import ClientLedger
from client.lineage import Lineages
from client.policy import Policy
from client.worker import ClientWorker
from motet.cli.main import main
from motet.data import DataError
from privacy.accounting import epsilon_pld

PRIVATE = "privacy: {noise_multiplier: 1.0, sampling_rate: 0.2}\n"
NOTES = [{"text": f"the patient of bed {i} slept well and ate", "label": i % 2} for i in range(30)]


def put(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def lineages(tmp_path):
    return Lineages(tmp_path / "home")


@pytest.fixture
def first(tmp_path, lineages):
    """The file, and what it was called."""
    path = put(tmp_path / "notes.jsonl", NOTES)
    return path, lineages.identify(path)


def test_a_new_data_set_has_a_name_of_its_own(tmp_path, lineages, first):
    _, found = first
    assert (found.num_rows, found.known_rows, found.overlaps) == (30, 0, ())
    other = lineages.identify(
        put(tmp_path / "other.jsonl", [{"text": f"a quite different sentence, number {i}"} for i in range(9)])
    )
    assert other.name != found.name  # positive control: what shares nothing is another data set
    assert other.overlaps == ()


EDITS = {
    "touched": lambda rows: rows,
    "rows appended": lambda rows: [*rows, {"text": "one more note, of tonight", "label": 1}],
    "rows removed": lambda rows: rows[:3],
    "shuffled": lambda rows: random.Random(0).sample(rows, len(rows)),
    "labels changed": lambda rows: [{**row, "label": 1 - row["label"]} for row in rows],
    "a column added": lambda rows: [{**row, "ward": "north"} for row in rows],
    "columns renamed": lambda rows: [{"body": row["text"], "class": row["label"]} for row in rows],
    "case and spacing": lambda rows: [{**row, "text": "  " + row["text"].upper()} for row in rows],
    "every row twice": lambda rows: [*rows, *rows],
    "most texts rewritten": lambda rows: [{"text": f"nothing like it, {i}"} for i in range(40)] + rows[:1],
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_file_is_the_same_data_set(lineages, first, edit):
    path, found = first
    rows = EDITS[edit](NOTES)
    os.utime(put(path, rows), (1, 1))
    again = lineages.identify(path)
    assert again.name == found.name
    assert again.num_rows == len(rows)
    assert again.known_rows > 0


def test_a_copy_under_another_name_and_as_csv_is_the_same_data_set(tmp_path, lineages, first):
    _, found = first
    path = tmp_path / "elsewhere" / "renamed.csv"
    path.parent.mkdir()
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, ["label", "text"])
        writer.writeheader()
        writer.writerows(NOTES)
    copy = lineages.identify(path)
    assert (copy.name, copy.known_rows, copy.root) == (found.name, 30, found.root)


def test_a_chain_of_edits_that_shares_nothing_with_the_first_version_is_still_it(tmp_path, lineages, first):
    path, found = first
    rows = NOTES
    for step in range(4):
        rows = rows[10:] + [{"text": f"a later note, {step} {i}, of another night"} for i in range(10)]
        last = lineages.identify(put(path, rows))
    assert not {r["text"] for r in rows} & {r["text"] for r in NOTES}
    assert last.name == found.name


def test_a_file_of_two_data_sets_joins_them_and_says_what_it_shares(tmp_path, lineages, first):
    _, found = first
    others = [{"text": f"letter {i} of a bank's customer"} for i in range(12)]
    bank = lineages.identify(put(tmp_path / "bank.jsonl", others))
    both = lineages.identify(put(tmp_path / "both.jsonl", NOTES[:5] + others))
    assert both.name == found.name
    assert set(both.names) == {found.name, bank.name}
    assert [(o.lineage, o.shared_rows) for o in both.overlaps] == [(bank.name, 12), (found.name, 5)]
    assert lineages.identify(tmp_path / "bank.jsonl").name == found.name  # from now on it is one data set


def test_a_text_that_stands_in_every_row_does_not_tie_two_data_sets(tmp_path, lineages):
    stamp = "consent was given in writing"
    one = [{"text": f"note {i}", "consent": stamp} for i in range(5)]
    two = [{"text": f"other {i}", "consent": stamp} for i in range(5)]
    names = {lineages.identify(put(tmp_path / f"{n}.jsonl", rows)).name for n, rows in enumerate((one, two))}
    assert len(names) == 2


def test_new_rows_of_a_known_person_go_on_with_the_budget_where_persons_are_protected(tmp_path, lineages):
    one = put(tmp_path / "one.jsonl", [{"text": f"first night, {i}", "patient": i // 3} for i in range(9)])
    two = put(tmp_path / "two.jsonl", [{"text": f"second night, {i}", "patient": 2 + i} for i in range(9)])
    by_row = [lineages.identify(p).name for p in (one, two)]
    assert by_row[0] != by_row[1]  # positive control: by their rows they are two data sets
    lineages.identify(one, person_column="patient")
    assert set(lineages.identify(two, person_column="patient").names) == set(by_row)


def test_pictures_in_a_folder_are_told_by_their_content(tmp_path, lineages):
    folder = tmp_path / "cats"
    folder.mkdir()
    for i in range(3):
        (folder / f"{i}.png").write_bytes(b"picture %d" % i)
    found = lineages.identify(folder)
    folder.rename(tmp_path / "dogs")
    (tmp_path / "dogs" / "0.png").rename(tmp_path / "dogs" / "z.png")
    assert lineages.identify(tmp_path / "dogs").name == found.name


@settings(max_examples=25, deadline=None)
@given(kept=st.sets(st.integers(0, 29), min_size=1), seed=st.integers(0, 9))
def test_any_shared_row_is_enough(tmp_path_factory, kept, seed):
    folder = tmp_path_factory.mktemp("lineage")
    lineages = Lineages(folder)
    found = lineages.identify(put(folder / "a.jsonl", NOTES))
    rows = [NOTES[i] for i in kept] + [{"text": f"something new {seed} {i}"} for i in range(50)]
    random.Random(seed).shuffle(rows)
    again = lineages.identify(put(folder / "b.jsonl", rows))
    assert (again.name, again.known_rows) == (found.name, len(kept))


def test_what_is_kept_tells_nothing_of_the_rows_without_the_key(tmp_path, first):
    home = tmp_path / "home"
    kept = (home / "lineages.jsonl").read_bytes()
    assert b"patient" not in kept
    again = Lineages(
        tmp_path / "other"
    )  # another key: the same rows have no mark in common, so nobody can test a guess
    again.identify(first[0])
    marks = [
        json.loads(p.read_text())["marks"]
        for p in (home / "lineages.jsonl", tmp_path / "other/lineages.jsonl")
    ]
    assert marks[0] != marks[1]
    assert (home / "lineages.key").stat().st_mode & 0o077 == 0


def test_an_unchanged_file_writes_nothing(tmp_path, lineages, first):
    before = (tmp_path / "home/lineages.jsonl").read_bytes()
    lineages.identify(first[0])
    assert (tmp_path / "home/lineages.jsonl").read_bytes() == before


@pytest.mark.parametrize("damage", ["cut", "altered", "key lost", "key cut", "no line"])
def test_forgotten_marks_are_an_error_not_a_new_data_set(tmp_path, lineages, first, damage):
    path, home = tmp_path / "home/lineages.jsonl", tmp_path / "home"
    if damage == "cut":
        path.write_bytes(b"")
    elif damage == "altered":
        path.write_text(path.read_text().replace("l-", "m-"))
    elif damage == "key lost":
        (home / "lineages.key").unlink()
    elif damage == "key cut":
        (home / "lineages.key").write_bytes(b"short")
    else:
        path.write_text("{}\n")
        path.with_suffix(".head").unlink()
    with pytest.raises(LedgerError):
        lineages.identify(first[0])


def test_a_file_that_can_not_be_read_is_told(tmp_path, lineages):
    with pytest.raises(DataError):
        lineages.identify(tmp_path / "none.jsonl")


def test_a_look_remembers_and_joins_nothing(tmp_path, lineages, first):
    _, found = first
    others = put(tmp_path / "bank.jsonl", [{"text": f"letter {i} of a bank's customer"} for i in range(12)])
    assert lineages.look(others) is None
    bank = lineages.identify(others)
    both = put(
        tmp_path / "both.jsonl", NOTES[:5] + [json.loads(line) for line in others.read_text().splitlines()]
    )
    before = (tmp_path / "home/lineages.jsonl").read_bytes()
    seen = lineages.look(both)
    assert set(seen.names) == {found.name, bank.name}
    assert (tmp_path / "home/lineages.jsonl").read_bytes() == before
    assert (
        lineages.identify(others).name == bank.name
    )  # positive control: identifying ``both`` would have joined them
    lineages.identify(both)
    assert lineages.identify(others).name == found.name


def test_a_look_into_a_home_that_has_seen_nothing_makes_nothing(tmp_path):
    path = put(tmp_path / "notes.jsonl", NOTES)
    assert Lineages(tmp_path / "empty").look(path) is None
    assert not (tmp_path / "empty").exists()


# -- the budget, through the worker that answers orders ---------------------------------------------------------------


def test_a_second_run_starts_where_the_first_ended_and_so_does_a_renamed_or_longer_copy(
    recipe_of, order_of, data_file, tmp_path
):
    order = order_of(recipe_of(extra=PRIVATE))
    ledger, lineages = ClientLedger(tmp_path / "s/ledger.jsonl"), Lineages(tmp_path / "s")
    text = data_file.read_text()
    copies = {
        "r-1": data_file,
        "r-2": data_file,
        "r-3": tmp_path / "renamed.jsonl",
        "r-4": tmp_path / "longer.jsonl",
    }
    copies["r-3"].write_text(text)
    copies["r-4"].write_text(text + json.dumps({"text": "one more of these rows", "label": 0}) + "\n")
    spent = []
    for run_id, path in copies.items():
        reply = ClientWorker("a", path, tmp_path / "s").handle(dataclasses.replace(order, run_id=run_id))
        assert reply.error_code == ""
        spent.append(epsilon_pld(ledger.spent(*lineages.identify(path).names), 1e-5))
    assert spent == sorted(set(spent))  # each begins with what the one before has spent
    assert len({row["data_set"] for row in ledger.rows() if row["kind"] == "reserve"}) == 1


def test_a_cap_can_not_be_passed_by_renaming_the_file(recipe_of, order_of, data_file, tmp_path):
    order = order_of(recipe_of(extra=PRIVATE))
    event_cost = 4.0  # one round costs 3.4; two cost 4.8
    policy = Policy(max_epsilon=event_cost)
    assert ClientWorker("a", data_file, tmp_path / "s", policy=policy).handle(order).error_code == ""
    copy = tmp_path / "copy.jsonl"
    copy.write_text(data_file.read_text() + json.dumps({"text": "and one row more", "label": 1}) + "\n")
    again = dataclasses.replace(order, run_id="r-2")
    reply = ClientWorker("a", copy, tmp_path / "s", policy=policy).handle(again)
    assert (reply.error_code, "max_epsilon" in reply.error_message) == ("policy_refused", True)
    fresh = tmp_path / "fresh.jsonl"  # positive control: other data has a budget of its own
    fresh.write_text(
        "".join(json.dumps({"text": f"fresh words {i}", "label": i % 2}) + "\n" for i in range(40))
    )
    assert ClientWorker("a", fresh, tmp_path / "s", policy=policy).handle(again).error_code == ""


def test_a_ledger_whose_data_sets_are_forgotten_stops_private_work(recipe_of, order_of, data_file, tmp_path):
    order = order_of(recipe_of(extra=PRIVATE))
    assert ClientWorker("a", data_file, tmp_path / "s").handle(order).error_code == ""
    for name in ("lineages.jsonl", "lineages.head", "lineages.key"):
        (tmp_path / "s" / name).unlink()
    reply = ClientWorker("a", data_file, tmp_path / "s").handle(dataclasses.replace(order, run_id="r-2"))
    assert reply.error_code == "ledger_failed"


def test_the_worker_reads_a_file_again_when_it_has_changed(recipe_of, order_of, data_file, tmp_path):
    worker, order = ClientWorker("a", data_file, tmp_path / "s"), order_of(recipe_of())
    assert worker.handle(order).num_examples == 40
    data_file.write_text(data_file.read_text() + json.dumps({"text": "one more", "label": 0}) + "\n")
    assert worker.handle(dataclasses.replace(order, round_index=1)).num_examples == 41


def test_motet_client_data_tells_what_was_spent_on_a_renamed_copy(
    recipe_of, order_of, data_file, tmp_path, capsys
):
    ClientWorker("a", data_file, tmp_path / "s").handle(order_of(recipe_of(extra=PRIVATE)))
    copy = tmp_path / "copy.jsonl"
    copy.write_text(data_file.read_text() + json.dumps({"text": "and one row more", "label": 1}) + "\n")
    told = {}
    for path in (data_file, copy):
        with pytest.raises(SystemExit):
            main(["client", "data", "--data", str(path), "--home", str(tmp_path / "s"), "--json"])
        told[path] = json.loads(capsys.readouterr().out)
    assert told[copy]["data_set"] == told[data_file]["data_set"]
    assert told[copy]["spent"] == told[data_file]["spent"]
    assert told[copy]["spent"][0]["epsilon"] > 1
    assert (told[copy]["known_rows"], told[copy]["rows"]) == (40, 41)
    fresh = put(tmp_path / "fresh.jsonl", [{"text": f"fresh words {i}"} for i in range(3)])
    with pytest.raises(SystemExit):
        main(["client", "data", "--data", str(fresh), "--home", str(tmp_path / "s")])
    assert "a new data set" in capsys.readouterr().out

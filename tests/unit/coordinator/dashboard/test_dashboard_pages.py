"""What the pages show of a store, and that nothing in it can become HTML."""

import csv
import io
import json

import pytest
from dashboard_home import play, site, submit

from coordinator.dashboard.pages.run import run_page
from coordinator.dashboard.pages.runs import runs_page

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"


@pytest.fixture
def served(tmp_path):
    with site(tmp_path / "home") as made:
        yield made


def test_the_list_has_the_newest_first_with_its_figures(served):
    submit(served.store, "r-old", name="old", private=False)
    play(served.store, "r-old", private=False)
    served.clock.at += 10
    submit(served.store, "r-new", name="new", method="fedit")
    page = runs_page(served.records)
    assert [r.run_id for r in page.runs] == ["r-new", "r-old"]
    old = page.runs[1]
    assert (old.rounds_closed, old.rounds_total, old.clients, old.is_private) == (1, 3, 3, False)
    assert (old.bytes_up, old.bytes_down) == (50 * (2 + 4 + 8), 300)
    assert dict(page.counts) == {"RUNNING": 1, "QUEUED": 1}
    assert [m.method for m in page.methods] == ["flora"]


def test_a_long_list_has_pages_and_a_number_beyond_is_the_last(served):
    for i in range(53):
        served.clock.at += 1
        submit(served.store, f"r-{i}", private=False)
    first, last = runs_page(served.records, 1), runs_page(served.records, 99)
    assert (len(first.runs), len(last.runs), last.number, last.pages) == (50, 3, 2, 2)
    assert len({r.run_id for r in (*first.runs, *last.runs)}) == 53


def test_a_run_shows_who_was_late_and_who_failed(served):
    submit(served.store, "r-1")
    play(served.store, "r-1", 0, failing=("b",), code="deadline", message="not in time")
    play(served.store, "r-1", 1, failing=("c",), code="client_failed", message="out of memory")
    page = run_page(served.records, "r-1")
    assert [a.stragglers for a in page.attempts] == [("b",), ()]
    assert [a.failures for a in page.attempts] == [(), ("c",)]
    assert page.attempts[0].bytes_up == 50 * (2 + 8)
    by_name = {c.client_id: c for c in page.clients}
    assert (by_name["b"].late, by_name["b"].answered, by_name["b"].rank) == (1, 1, 4)
    assert (by_name["c"].failed, by_name["c"].error) == (1, "out of memory")
    text = served.sign_in().get("/runs/r-1").text
    assert "out of memory" in text
    assert "left behind" in text


def test_empty_places_say_the_next_command(served):
    client = served.sign_in()
    assert "motet run submit" in client.get("/").text
    submit(served.store, "r-1")
    assert "motet run watch r-1" in client.get("/runs/r-1").text


def test_what_does_not_exist_is_said_so(served):
    answer = served.sign_in().get("/runs/none")
    assert answer.status_code == 404
    assert "Not found" in answer.text


@pytest.mark.parametrize("path", ["/runs/r-1", "/"])
def test_words_of_clients_and_recipes_are_shown_and_never_run(served, path):
    submit(served.store, "r-1")
    play(served.store, "r-1", 0, failing=("b",), message=HOSTILE)
    served.store.end_run("r-1", "FAILED", HOSTILE)
    text = served.sign_in().get(path).text
    assert "<script>alert" not in text
    assert "<img" not in text
    assert "&lt;script&gt;alert(1)" in text


def test_a_page_that_asks_again_gets_its_middle_and_304_while_nothing_changes(served):
    submit(served.store, "r-1")
    client = served.sign_in()
    live = client.get("/runs/r-1", headers={"motet-live": "1"})
    assert "<header" not in live.text
    tag = {"motet-live": "1", "if-none-match": live.headers["etag"]}
    same = client.get("/runs/r-1", headers=tag)
    assert (same.status_code, same.content) == (304, b"")
    play(served.store, "r-1")
    assert client.get("/runs/r-1", headers=tag).status_code == 200


def test_downloads_hold_the_figures_of_the_page(served):
    submit(served.store, "r-1")
    play(served.store, "r-1", 0, failing=("b",), message="=cmd|'/c calc'!A0")
    client = served.sign_in()
    told = json.loads(client.get("/runs/r-1/run.json").content)
    assert (told["run_id"], told["attempts"][0]["relative_error"]) == ("r-1", 0.25)
    rounds = list(csv.DictReader(io.StringIO(client.get("/runs/r-1/rounds.csv").text)))
    assert (rounds[0]["failures"], float(rounds[0]["relative_error"])) == ("b", 0.25)
    clients = list(csv.DictReader(io.StringIO(client.get("/runs/r-1/clients.csv").text)))
    assert {r["client"]: r["outcome"] for r in clients} == {"a": "answered", "b": "failed", "c": "answered"}
    listed = list(csv.DictReader(io.StringIO(client.get("/runs.csv").text)))
    assert listed[0]["run_id"] == json.loads(client.get("/runs.json").content)["runs"][0]["run_id"] == "r-1"
    assert "attachment" in client.get("/runs.csv").headers["content-disposition"]


def test_a_cell_that_a_spreadsheet_would_run_is_quoted(served):
    submit(served.store, "r-1")
    served.store.end_run("r-1", "CANCELLED", "=HYPERLINK(1)")
    listed = list(csv.DictReader(io.StringIO(served.sign_in().get("/runs.csv").text)))
    assert listed[0]["reason"] == "'=HYPERLINK(1)"

"""When clients were last seen, on both databases: kept across a restart, written by whoever leads, in one statement."""

import pytest
from control_house import house
from databases import Place
from sqlalchemy import event

from coordinator.errors import LeadLostError
from coordinator.storage.leases import Candidate
from coordinator.storage.where import open_store
from motet.cli.main import main

HERE = Candidate(place="boot/1/1", host="host-1", home="/srv/one")


@pytest.fixture
def store(place: Place):
    store = place.open()
    for name in ("a", "b"):
        store.register_client(name, f"key of {name}".encode())
    yield store
    store.close()


def seen(store):
    return {row.client_id: row.last_seen_at for row in store.clients()}


def test_a_client_that_went_away_keeps_the_time_it_was_last_seen_across_a_restart(store, place):
    assert seen(store) == {"a": None, "b": None}
    store.sightings.record({"a": 100.5, "b": 100.5, "stranger": 100.5})
    store.sightings.record({"b": 160.25})
    store.sightings.record({})
    again = place.open()
    try:
        assert seen(again) == {"a": 100.5, "b": 160.25}
        again.register_client("a", b"another key")  # its row goes on
        again.sightings.record({"b": 220.0})
        assert seen(again) == {"a": 100.5, "b": 220.0}
    finally:
        again.close()


def test_a_thousand_clients_are_one_statement_in_one_transaction(store):
    engine, updates, commits = store._database.engine, [], []
    event.listen(engine, "before_cursor_execute", lambda *a: updates.append(a[2]))
    event.listen(engine, "commit", commits.append)
    store.sightings.record(dict.fromkeys([f"c{i}" for i in range(998)] + ["a", "b"], 7.0))
    assert sum(s.lstrip().upper().startswith("UPDATE") for s in updates) == 1
    assert len(commits) == 1
    assert seen(store) == {"a": 7.0, "b": 7.0}


def test_who_leads_no_more_can_not_say_who_was_there(store, place):
    other = place.open()
    try:
        assert store.leases.take(HERE, 3600.0)
        store.sightings.record({"a": 100.0})  # positive control
        assert other.leases.take(HERE, 3600.0)  # of the same place: it followed
        with pytest.raises(LeadLostError):
            store.sightings.record({"a": 200.0})
        assert seen(other)["a"] == 100.0
        other.sightings.record({"a": 300.0})
        assert seen(other)["a"] == 300.0
    finally:
        other.close()


def test_the_control_api_tells_the_newer_of_what_is_kept_and_what_this_coordinator_saw(tmp_path):
    seen = (frozenset({"a"}), {"a": 900.0, "b": 50.0})
    with house(tmp_path, presence=lambda: seen) as served:
        for name in ("a", "b", "c", "d"):
            served.store.register_client(name, f"key of {name}".encode())
        served.store.sightings.record({"a": 300.0, "b": 300.0, "c": 300.0})
        told = {c.client_id: (c.last_seen_at, c.is_online) for c in served.connect().clients.list()}
        assert told == {"a": (900.0, True), "b": (300.0, False), "c": (300.0, False), "d": (None, False)}
        own = served.connect("client", "a").clients.get("a")
        assert (own.last_seen_at, own.is_online) == (900.0, True)


def test_where_nobody_serves_the_kept_time_is_told_and_nobody_is_online(tmp_path, capsys):
    store = open_store(tmp_path)
    for name in ("a", "b"):
        store.register_client(name, f"key of {name}".encode())
    store.sightings.record({"a": 1_790_000_000.0})
    store.close()
    with pytest.raises(SystemExit):
        main(["coordinator", "clients", "--home", str(tmp_path)])
    assert capsys.readouterr().out == "a (last seen 2026-09-21 14:13 UTC)\nb (never seen)\n"

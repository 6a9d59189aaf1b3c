"""When clients were last there: how often it is written, what a fault does, and what the grid knows."""

import threading
import time

import pytest
from fake_superlink import FEDERATION, Site

from coordinator.engine.flower_grid import FlowerGrid
from coordinator.errors import LeadLostError
from coordinator.presence import EVERY_S, NEWCOMERS_EVERY_S, Presence, watching_presence
from motet.errors import DatabaseAwayError


class Fleet:
    """A grid whose clients come and go as the test says; time is the test's too."""

    def __init__(self):
        self.there, self.last_online, self.asked, self.at = set(), {}, 0, 1000.0

    def online(self):
        self.asked += 1
        self.look()

    def look(self):
        """What a run or an idle coordinator does in between."""
        self.last_online = {**self.last_online, **dict.fromkeys(self.there, self.at)}


class Written:
    """Sightings that remember; ``fault``: raised by the next write."""

    def __init__(self):
        self.writes, self.times, self.fault = [], {}, None

    def record(self, seen):
        if self.fault is not None:
            fault, self.fault = self.fault, None
            raise fault
        self.writes.extend([seen] if seen else [])
        self.times |= seen


@pytest.fixture
def fleet():
    return Fleet()


@pytest.fixture
def written():
    return Written()


@pytest.fixture
def presence(fleet, written):
    return Presence(fleet, written, monotonic=lambda: fleet.at)


def is_watched():
    return any(t.name == "presence" for t in threading.enumerate())


def minutes(fleet, presence, many):
    for _ in range(int(many * 60 / NEWCOMERS_EVERY_S)):
        fleet.at += NEWCOMERS_EVERY_S
        fleet.look()
        presence.step()


def test_a_thousand_clients_that_are_there_are_one_write_a_minute(fleet, written, presence):
    fleet.there = {f"c{i}" for i in range(1000)}
    minutes(fleet, presence, 10)
    assert 10 <= len(written.writes) <= 11
    assert fleet.asked <= 11
    assert all(len(seen) == 1000 for seen in written.writes)
    assert fleet.at - min(written.times.values()) <= EVERY_S


def test_in_a_long_round_where_nobody_else_asks_it_asks_once_a_minute(fleet, written, presence):
    fleet.there = {"a"}
    for _ in range(300):
        fleet.at += NEWCOMERS_EVERY_S
        presence.step()
    assert 10 <= fleet.asked <= 11
    assert fleet.at - written.times["a"] <= EVERY_S


def test_who_is_new_is_written_at_the_next_step_and_who_went_away_keeps_its_time(fleet, written, presence):
    fleet.there = {"a"}
    minutes(fleet, presence, 1.5)
    fleet.there = {"b"}
    before = written.times["a"]
    fleet.look()
    presence.step()
    assert set(written.writes[-1]) == {"b"}
    minutes(fleet, presence, 5)
    assert before <= written.times["a"] <= fleet.at - 300
    assert fleet.at - written.times["b"] <= EVERY_S


def test_what_could_not_be_written_is_written_at_the_next_step(fleet, written, presence):
    fleet.there = {"a"}
    written.fault = DatabaseAwayError("away")
    with pytest.raises(DatabaseAwayError):
        presence.step()
    assert written.times == {}
    presence.step()
    assert written.times == {"a": 1000.0}


def test_at_the_end_the_newest_times_are_written_and_nobody_is_asked(fleet, written, presence):
    fleet.there = {"a"}
    presence.step()
    fleet.at += NEWCOMERS_EVERY_S
    fleet.look()
    asked = fleet.asked
    presence.end()
    assert (written.times, fleet.asked) == ({"a": fleet.at}, asked)


@pytest.mark.parametrize(("fault", "goes_on"), [(DatabaseAwayError, True), (LeadLostError, False)])
def test_the_thread_outlives_a_database_that_is_away_and_ends_with_the_lead(
    fleet, written, presence, monkeypatch, fault, goes_on
):
    monkeypatch.setattr("coordinator.presence.NEWCOMERS_EVERY_S", 0.01)
    fleet.there, written.fault = {"a"}, fault("word")
    with watching_presence(presence):
        until = time.monotonic() + 30
        while (written.times == {}) if goes_on else is_watched():
            assert time.monotonic() < until
            time.sleep(0.01)
        assert is_watched() is goes_on
    assert not is_watched()
    assert written.times == ({"a": 1000.0} if goes_on else {})


def test_an_answer_shows_that_its_client_was_there_and_a_forged_one_does_not(tmp_path):
    site = Site(tmp_path)
    at = [100.0]
    grid = FlowerGrid(
        site.link, site.store, federation=FEDERATION, monotonic=lambda: site.time, now=lambda: at[0]
    )
    site.grid = grid
    try:
        grid.online()
        assert grid.last_online == {"a": 100.0, "b": 100.0}
        for client, key in (("a", site.keys["a"]), ("b", site.keys["a"])):
            at[0] += 7
            order, message_id, carrier = site.send(client)
            site.link.bring(carrier, site.seal(order, b"x", key=key))
            assert site.outcome(message_id) is not None
        assert grid.last_online == {"a": 107.0, "b": 100.0}
        site.store.identities.revoke_name("a", role="client")
        at[0] += 7
        grid.online()
        assert grid.last_online == {"a": 107.0, "b": 121.0}
    finally:
        site.store.close()

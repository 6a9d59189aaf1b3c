"""Two coordinators on one PostgreSQL: one leads, and a leader that was paused commits nothing once another leads."""

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from crash_matrix import Site, new_home
from crashing_coordinator import ENDS
from databases import Place, postgresql_url, schema_in

from coordinator.crashpoints import crash_points
from coordinator.storage.sharing import share
from privacy.ledger.chain import verify_chain
from privacy.ledger.rules import check_entries

__all__ = ["postgresql_url"]
pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("postgresql")]
WITHIN_S = 90.0
AT_ONCE = 8  # federations, with two coordinators each
STARTING = threading.Lock()
FENCED = "leads now; what this one was about to write was not written"


@pytest.fixture
def site(postgresql_url, tmp_path):
    home = new_home(tmp_path)
    with schema_in(postgresql_url) as url:
        yield Site(Place(dialect="postgresql", where=url, ledger=home / "ledger"), home)


def until(is_so, what, site, within_s=WITHIN_S):
    end = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < end, f"no {what} within {WITHIN_S:g} s: {site.tail()}"
        time.sleep(0.02)


def pause_the_leader(site, at, *, lease_s, pause_s=0.0, within_s=WITHIN_S):
    """The leader stops at a place, a second one finishes, the first goes on; its exit code."""
    two = site.home.with_name("two")
    share(two, site.home)
    with STARTING:
        first = site.start(at=at, signal=signal.SIGSTOP, lease_s=lease_s, waits=True)
    second = None
    try:
        until(lambda: site.events("ready"), "leader", site, within_s)
        with STARTING:
            second = site.start(home=two, lease_s=lease_s)
        until(lambda: site.events("dies"), "stop", site, within_s)
        paused = time.monotonic()
        second.join(within_s)
        assert second.exitcode == 0, site.tail()
        assert site.events("standby")[0]["leader"] == str(site.home)
        time.sleep(max(0.0, pause_s - (time.monotonic() - paused)))
        before = site.place.sql("SELECT count(*), max(sequence) FROM ledger_entries")
        os.kill(first.pid, signal.SIGCONT)
        first.join(within_s)
        assert site.place.sql("SELECT count(*), max(sequence) FROM ledger_entries") == before
        return first.exitcode
    finally:
        for process in (first, second):
            if process is not None and process.exitcode is None:
                process.kill()
                process.join(10)


def assert_everything_was_done_once(site, whole):
    store = site.open()
    try:
        assert {r.run_id: r.state for r in store.list_runs()} == ENDS
        assert store.get_run("r-main").adapter_sha256 == whole.adapter_sha256
        closed = [r.round_index for r in store.closed_rounds("r-main")]
        assert closed == [0, 1, 2]
        assert store.count_rows()["privacy_events"] == whole.charges
        assert check_entries(verify_chain(store.ledger.leaves())).findings == []
        assert store.leases.leader().token >= 2
    finally:
        store.close()
    left = {e["reservation"] for e in site.events("order")}
    assert left <= {row[0] for row in site.place.sql("SELECT reservation_id FROM privacy_events")}


@pytest.mark.parametrize(
    ("at", "why"),
    [
        (
            "round.close.before_commit:2",
            (FENCED, "terminating connection due to idle-in-transaction timeout"),
        ),
        pytest.param("contribution.order.after_effect:5", (FENCED,), marks=pytest.mark.slow),
    ],
)
def test_a_leader_that_was_paused_past_its_lease_commits_nothing_and_stands_by(site, whole, at, why):
    """The first place is within a transaction, with the write lock held; the second between two commits.

    Of the first the database has ended the transaction, and the paused one may find that no run is left before it
    tries to write again.
    """
    assert pause_the_leader(site, at, lease_s=4.0) == 0  # it stood by until no run was left
    assert_everything_was_done_once(site, whole)
    assert any(words in site.log.read_text() for words in why), site.tail()


@pytest.mark.slow
@pytest.mark.parametrize("at", ["round.plan.before_commit:3", "contribution.receive.after_commit:4"])
def test_a_leader_that_was_paused_for_sixty_seconds_commits_nothing(site, whole, at):
    assert pause_the_leader(site, at, lease_s=15.0, pause_s=60.0) == 0
    assert_everything_was_done_once(site, whole)


def writes_of_a_round(whole):
    """Every place of a transition of a round or an answer, in the middle of a run."""
    reached = {name: whole.reached.get(name, 0) for name in crash_points()}
    return [
        f"{name}:{(count + 2) // 2}"
        for name, count in reached.items()
        if count and name.startswith(("round.", "contribution."))
    ]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_leader_that_was_paused_for_sixty_seconds_at_any_write_of_a_round_commits_nothing(
    postgresql_url, tmp_path, whole
):
    """Several federations at once, each in a schema of its own, so that their pauses pass together."""
    places = writes_of_a_round(whole)
    assert {p.partition(":")[0] for p in places} >= {
        f"{name}.{when}"
        for name in ("round.plan", "round.close", "round.abort", "contribution.send", "contribution.receive")
        for when in ("before_commit", "after_commit")
    }

    def one(at):
        home = new_home(tmp_path / at.replace(":", "-"))
        with schema_in(postgresql_url) as url:
            site = Site(Place(dialect="postgresql", where=url, ledger=home / "ledger"), home)
            assert pause_the_leader(site, at, lease_s=15.0, pause_s=60.0, within_s=400.0) == 0, at
            assert_everything_was_done_once(site, whole)
        return at

    with ThreadPoolExecutor(AT_ONCE) as threads:
        assert list(threads.map(one, places)) == places


def test_a_standby_that_shares_nothing_is_refused_before_it_could_lead(site, whole):
    assert site.run(at="round.close.after_commit:1") == -signal.SIGKILL
    two = site.home.with_name("two")
    two.mkdir()
    (two / "database.url").write_text(site.place.address + "\n")
    assert site.run(home=two) != 0
    assert "the database has a ledger" in site.tail()
    (two / "ledger").symlink_to(site.home / "ledger")
    assert site.run(home=two) != 0
    assert "artifacts of runs that are under way" in site.tail()
    assert site.run() == 0  # positive control: the first home goes on at once
    assert_state(site)


def assert_state(site):
    store = site.open()
    try:
        assert {r.run_id: r.state for r in store.list_runs()} == ENDS
    finally:
        store.close()

"""One coordinator leads a database: its lease, its token, and what a leader of yesterday can no longer do."""

import threading
import time

import pytest
from sqlalchemy import insert

from coordinator.errors import DatabaseAwayError, LeadLostError
from coordinator.leadership import Leadership
from coordinator.storage.leases import Candidate
from coordinator.storage.models import MetricRow
from motet.recipe import parse_recipe

RECIPE = """
name: led
base_model: {tiny: tiny-bert}
task: {kind: sequence-classification, num_labels: 2}
data: {path: none.jsonl}
adapter: {lora_rank: 2}
method: {name: flora}
cohort: {clients: [a, b], minimum: 1}
"""
HERE = Candidate(place="boot/1/1", host="host-1", home="/srv/one")
THERE = Candidate(place="boot/1/2", host="host-2", home="/srv/two")
LONG_S = 3600.0


@pytest.fixture
def one(place):
    store = place.open()
    yield store
    store.close()


@pytest.fixture
def two(place, one):
    store = place.open()
    yield store
    store.close()


def run_out(store):
    """As if the lease's time had passed."""
    store.leases._database.fence(None)
    with store._transaction() as session:
        from coordinator.storage.models import LeaseRow

        session.query(LeaseRow).update({"lease_until": 0.0})


def test_one_leads_and_the_other_is_told_who_where_and_for_how_long(one, two):
    assert one.leases.leader() is None
    assert one.leases.take(HERE, LONG_S)
    assert not two.leases.take(THERE, LONG_S)
    leader = two.leases.leader()
    assert (leader.token, leader.host, leader.home) == (1, "host-1", "/srv/one")
    assert LONG_S - 60 < leader.left_s <= LONG_S
    assert "/srv/one on host-1 leads" in leader.in_words()


def test_when_the_lease_has_run_out_the_next_leads_and_the_last_one_can_write_nothing(one, two):
    run = one.submit_run(parse_recipe(RECIPE), run_id="r-1")
    assert one.leases.take(HERE, LONG_S)
    one.start_run(run)  # positive control: while it leads it writes
    run_out(two)
    one.wait_reason(run, "late, and nobody else leads")  # the token decides, not the time
    assert two.leases.take(THERE, LONG_S)
    before = two.count_rows()
    for write in (
        lambda: one.plan_round(run, 0, 0, start_sha256="0" * 64, deadline_s=5, ranks={"a": 1}, event=None),
        lambda: one.wait_reason(run, "stale"),
        lambda: one.end_run(run, "FINISHED"),
        lambda: one.submit_run(parse_recipe(RECIPE), run_id="r-2"),
        one.ledger.reconcile,
        one.leases.renew,
        one.leases.give_back,
    ):
        with pytest.raises(LeadLostError, match=r"/srv/two on host-2 leads now.*was not written") as caught:
            write()
    assert caught.value.exit_code == 8
    assert "stands by" in caught.value.hint
    assert two.count_rows() == before
    assert two.get_run(run).state == "RUNNING"
    two.wait_reason(run, "positive control: the new leader writes")


def test_without_its_token_a_leader_of_yesterday_would_commit(one, two):
    """Positive control: it is the fence that refuses, and nothing else."""
    run = one.submit_run(parse_recipe(RECIPE), run_id="r-1")
    one.leases.take(HERE, 0.01)
    time.sleep(0.05)
    assert two.leases.take(THERE, LONG_S)
    one._database.fence(None)
    one.end_run(run, "CANCELLED", "by somebody who does not lead")
    assert two.get_run(run).state == "CANCELLED"


def test_submit_and_cancel_need_no_lead(one, two):
    one.leases.take(HERE, LONG_S)
    run = two.submit_run(parse_recipe(RECIPE))
    two.request_cancel(run)
    assert one.get_run(run).cancel_requested


def test_a_lease_that_is_renewed_does_not_run_out(one, two):
    assert one.leases.take(HERE, 2.0)
    for _ in range(3):
        time.sleep(0.8)
        one.leases.renew()
        assert not two.leases.take(THERE, LONG_S)


def test_a_lease_that_was_given_back_is_taken_at_once(one, two):
    assert one.leases.take(HERE, LONG_S)
    one.leases.give_back()
    assert two.leases.take(THERE, LONG_S)
    assert two.leases.token == 2


def test_a_coordinator_that_is_back_in_the_same_home_does_not_wait_for_its_own_lease(one, two):
    """It holds the lock that the dead one held."""
    assert one.leases.take(HERE, LONG_S)
    assert two.leases.take(HERE, LONG_S)
    with pytest.raises(LeadLostError):
        one.leases.renew()


def test_of_many_that_want_to_lead_one_does(place, one):
    barrier, won = threading.Barrier(4), []

    def want(i):
        store = place.open()
        barrier.wait()
        if store.leases.take(Candidate(place=f"p{i}", host="h", home="x"), LONG_S):
            won.append(i)
        store.close()

    threads = [threading.Thread(target=want, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1


def test_the_database_refuses_a_token_that_was_given_out_before(one, place):
    one.leases.take(HERE, LONG_S)
    for statement in ("UPDATE leases SET token = 0", "DELETE FROM leases"):
        with pytest.raises(Exception, match="only grows"):
            place.sql(statement)


def test_time_is_the_databases_and_not_this_machines(one, two, monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 9e9)
    assert one.leases.take(HERE, LONG_S)
    assert not two.leases.take(THERE, LONG_S)


def test_a_standby_waits_says_for_whom_and_leads_when_the_leader_vanishes(one, two):
    assert one.leases.take(HERE, 0.6)
    told = []
    lead = Leadership(two, THERE, 0.6)
    assert lead.wait(lambda: False, told.append)
    assert [leader.home for leader in told] == ["/srv/one"]
    assert lead.lost is None
    time.sleep(1.0)  # longer than the lease: the thread renews it
    until = time.monotonic() + 30
    while two.leases.leader().left_s <= 0 and time.monotonic() < until:
        time.sleep(0.05)  # on a machine that is held up it may be late once, and the next time is in time
    assert two.leases.leader().left_s > 0
    with pytest.raises(LeadLostError):
        one.leases.renew()
    lead.give_back()
    assert two.leases.leader().left_s == 0


def test_a_leader_notices_by_itself_that_it_was_followed(one, two):
    lead = Leadership(one, HERE, 0.3)
    assert lead.wait(lambda: False)
    until = time.monotonic() + 30
    run_out(two)
    while not two.leases.take(THERE, LONG_S):  # the thread renewed it in between
        assert time.monotonic() < until
        run_out(two)
    while lead.lost is None and time.monotonic() < until:
        time.sleep(0.02)
    assert isinstance(lead.lost, LeadLostError)
    lead.give_back()  # never fails
    assert two.leases.leader().home == "/srv/two"


def test_a_standby_that_is_told_to_end_ends(one, two):
    assert one.leases.take(HERE, LONG_S)
    assert Leadership(two, THERE, LONG_S).wait(lambda: True) is False


@pytest.mark.parametrize("rows", [1, 2])
def test_a_leader_that_is_paused_within_a_transaction_is_let_go_of_by_the_server(one, two, place, rows):
    """Two rows: what a driver sends as a pipeline is not counted as idle time by the server."""
    if place.dialect != "postgresql":
        pytest.skip("a file belongs to one machine; its lock dies with the process")
    run = one.submit_run(parse_recipe(RECIPE))
    assert one.leases.take(HERE, 1.0)
    begun = time.monotonic()

    def pause_within():
        with one._transaction() as session:
            names = [{"run_id": run, "round_index": 0, "name": f"n{i}", "value": 0.0} for i in range(rows)]
            session.execute(insert(MetricRow), names)
            while not two.leases.take(THERE, LONG_S):  # waits for the write lock that the paused one holds
                assert time.monotonic() - begun < 60
                time.sleep(0.1)

    with pytest.raises(DatabaseAwayError):
        pause_within()
    assert two.leases.token == 2

"""kill -9 at random moments: nothing that left was forgotten, and the next start is quick. Figures: benchmarks/."""

import pytest
from databases import place, postgresql_url
from kill_campaign import kill_campaign, mother

__all__ = ["place", "postgresql_url"]
pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Starts and kills one coordinator, forked from a process that has imported everything."""
    with mother(tmp_path_factory.mktemp("mother") / "log") as start:
        yield start


def assert_nothing_was_forgotten(seen, kills):
    assert seen.kills == kills
    assert seen.ended_by_itself == []
    assert seen.uncharged == set()
    assert seen.unsigned == set()
    assert seen.findings == []
    assert seen.charges >= seen.orders > 0
    assert max(*seen.restarts_s, seen.cold_start_cpu_s) < 10


def test_a_coordinator_killed_at_random_moments_never_forgets_a_charge(place, tmp_path, start):
    assert_nothing_was_forgotten(kill_campaign(place, tmp_path, kills=12, seed=1, start=start), 12)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_coordinator_killed_three_hundred_times_never_forgets_a_charge(place, tmp_path):
    assert_nothing_was_forgotten(kill_campaign(place, tmp_path, kills=300, seed=2), 300)


@pytest.mark.parametrize("place", ["sqlite"], indirect=True)  # what is broken here knows no database
def test_the_campaign_finds_orders_that_leave_before_their_charge_is_signed(place, tmp_path, start):
    """Positive control."""
    assert kill_campaign(place, tmp_path, kills=4, seed=3, mode="forgetful", start=start).unsigned

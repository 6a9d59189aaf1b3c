"""When a client asks again: soon after work, then more seldom, by the coordinator's advice, never in step."""

import random

import httpx
import pytest

from client.pace import HEARTBEAT_S, POLL_MIN_S, Pace
from coordinator.engine.pace import WINDOW_S
from coordinator.engine.pace import Pace as GatewayPace
from motet.wire.pace import (
    CALLS_A_SECOND,
    HEADER,
    LONGEST_S,
    SHORTEST_S,
    SOON_CALLS_A_SECOND,
    SOON_HEADER,
    seconds_for,
    seconds_from,
    soon_for,
    soon_from,
)


def middle(low, high):
    return (low + high) / 2


def advise(pace, value, soon=None):
    headers = {} if value is None else {HEADER: value}
    headers |= {} if soon is None else {SOON_HEADER: soon}
    pace.intercept(None, lambda _context: httpx.Response(200, headers=headers))


def settled(pace):
    """The wait of a client that has had no work for long."""
    for _ in range(40):
        wait = pace.next_wait_s()
    return wait


def test_without_advice_a_client_asks_often_after_work_and_every_two_seconds_when_none_comes():
    pace = Pace(middle)
    waits = [pace.next_wait_s() for _ in range(20)]
    assert waits[0] == POLL_MIN_S
    assert waits == sorted(waits)
    assert waits[-1] == SHORTEST_S
    pace.worked()
    assert pace.next_wait_s() == POLL_MIN_S


def test_a_small_fleet_hears_of_a_new_run_within_seconds_and_a_thousand_clients_share_what_the_coordinator_takes():
    for count, most in ((3, 3.0), (50, 3.0), (1000, 60.0)):
        pace = Pace()
        advise(pace, f"{seconds_for(count):.1f}")
        assert settled(pace) <= most
        pace = Pace(middle)
        advise(pace, f"{seconds_for(count):.1f}")
        assert count / settled(pace) <= CALLS_A_SECOND + 1e-9
    assert (
        1000 / SHORTEST_S > 10 * CALLS_A_SECOND
    )  # the control: without advice they would ask ten times too often


def after_work(count, soon):
    """Calls a second of so many clients that all had work a moment ago."""
    pace = Pace(middle)
    advise(pace, f"{seconds_for(count):.1f}", soon)
    pace.worked()
    return count / pace.next_wait_s()


def test_fifty_clients_that_all_had_work_ask_no_more_often_than_the_coordinator_answers():
    assert after_work(50, f"{soon_for(50):.2f}") <= SOON_CALLS_A_SECOND + 1e-9
    assert (
        after_work(50, None) > 10 * SOON_CALLS_A_SECOND
    )  # the control: without the advice, all of them at once
    assert after_work(3, f"{soon_for(3):.2f}") == 3 / POLL_MIN_S  # few clients lose nothing


@pytest.mark.parametrize("soon", ["", "now", "nan", "-5", "0", "inf", "1e9"])
def test_no_advice_for_after_work_makes_a_client_hurry_or_wait_longer_than_one_without_work(soon):
    pace = Pace(middle)
    advise(pace, "4", soon)
    pace.worked()
    assert POLL_MIN_S <= pace.next_wait_s() <= 4.0


@pytest.mark.parametrize("value", [None, "", "soon", "nan", "-5", "0", "inf", "1e9", "0x10"])
def test_no_advice_keeps_a_client_away_for_longer_than_the_bound_or_makes_it_hurry(value):
    pace = Pace(middle)
    advise(pace, value)
    assert SHORTEST_S <= settled(pace) <= LONGEST_S


def test_waits_of_two_clients_are_not_in_step():
    first, second = (Pace(random.Random(seed).uniform) for seed in (1, 2))
    waits = [(settled(first), settled(second)) for _ in range(50)]
    assert all(abs(w - SHORTEST_S) <= 0.25 * SHORTEST_S + 1e-9 for pair in waits for w in pair)
    spread = [w for w, _ in waits]
    assert max(spread) - min(spread) > 0.5
    assert sum(abs(a - b) > 0.1 for a, b in waits) > 25


def test_a_heartbeat_comes_within_what_was_told_last_also_when_the_advice_changes_between():
    pace = Pace(lambda _low, high: high)
    assert pace.told_heartbeat_s() == HEARTBEAT_S
    advise(pace, "40")
    assert pace.next_heartbeat_s() < HEARTBEAT_S  # the SuperLink still expects it then
    assert pace.told_heartbeat_s() == 80.0
    assert HEARTBEAT_S < pace.next_heartbeat_s() < 80.0


def test_the_gateway_counts_each_caller_once_and_forgets_who_left():
    now = [0.0]
    pace = GatewayPace(lambda: now[0])
    for _ in range(3):
        for i in range(1000):
            pace.seen(b"%d" % i)
    assert pace.seconds() == seconds_for(1000) == 40.0
    now[0] += WINDOW_S
    assert pace.seconds() == 40.0  # nobody is forgotten at once
    for i in range(100):
        pace.seen(b"%d" % i)
    assert pace.seconds() == 40.0
    now[0] += WINDOW_S
    assert pace.seconds() == seconds_for(100) == 4.0
    now[0] += 3 * WINDOW_S
    assert pace.seconds() == SHORTEST_S


def test_the_gateway_counts_who_answered_apart_from_who_only_asks():
    now = [0.0]
    pace = GatewayPace(lambda: now[0])
    for i in range(1000):
        pace.seen(b"%d" % i, answers=i < 100)
    assert (pace.seconds(), pace.soon_seconds()) == (40.0, soon_for(100))
    now[0] += 2 * WINDOW_S
    assert pace.soon_seconds() == POLL_MIN_S


def test_advice_that_can_not_be_read_is_none():
    assert [soon_from(text) for text in (None, "x", "nan")] == [None] * 3
    assert [seconds_from(text) for text in (None, "x", "nan")] == [SHORTEST_S] * 3
    assert seconds_from("7.5") == 7.5

"""What a watched run tells: states, time left, figures, and a picture that fits."""

import io
import re
from dataclasses import replace

import pytest
from rich.console import Console

from motet.cli.screen import duration, is_live, printable, size
from motet.cli.watch_lines import Teller
from motet.cli.watch_view import RunsView, RunView, sparkline
from motet.cli.watched_run import WatchedRun, state_of
from motet.wire.control import Budget, Contribution, Metric, Round, Run, RunBudget, RunEvent

RUN = Run(run_id="r-3f9a1c", name="tiny", state="RUNNING", rounds_total=10, rounds_closed=2)


class Clock:
    """Seconds, moved by hand."""

    def __init__(self):
        self.at = 0.0

    def __call__(self):
        return self.at


def closed(index, start, end, attempt=0):
    done = Contribution(client_id="a", state="RECEIVED", bytes_up=1000, bytes_down=500, lora_rank=4)
    return Round(
        run_id="r", round_index=index, attempt=attempt, state="CLOSED", started_at=start, closed_at=end,
        contributions=(done,),
    )  # fmt: skip


def planned(index, start, *contributions):
    return Round(
        run_id="r",
        round_index=index,
        attempt=0,
        state="PLANNED",
        started_at=start,
        contributions=contributions,
    )


def watching(*items, at=1000.0):
    clock = Clock()
    watched = WatchedRun(clock)
    for item in items:
        field = "run" if isinstance(item, Run) else "round"
        watched.take(RunEvent(number=1, at=at, **{field: item}))
    return watched, clock


@pytest.mark.parametrize(
    ("contribution", "state"),
    [
        ({"state": "ORDERED"}, "ordered"),
        ({"state": "ORDERED", "bytes_down": 9}, "training"),
        ({"state": "RECEIVED"}, "received"),
        ({"state": "LATE"}, "late"),
        ({"state": "FAILED", "error_code": "policy_refused"}, "refused"),
        ({"state": "FAILED", "error_code": "deadline"}, "failed"),
    ],
)
def test_each_state_of_a_client_has_its_word(contribution, state):
    assert state_of(Contribution(client_id="a", **contribution)) == state


def test_the_time_left_is_the_median_of_closed_rounds_less_what_has_passed():
    rounds = [closed(0, 900, 910), closed(1, 911, 930), closed(2, 931, 960)]  # 10, 20, 30 seconds
    watched, clock = watching(replace(RUN, rounds_closed=3), *rounds, planned(3, 961), at=965.0)
    assert watched.seconds_left() == pytest.approx(6 * 20 + 15)
    clock.at += 10
    assert watched.seconds_left() == pytest.approx(6 * 20 + 5)
    clock.at += 100  # a round that takes longer than the others leaves the rest to come
    assert watched.seconds_left() == pytest.approx(6 * 20)


def test_no_time_left_is_told_before_a_round_was_measured_or_while_the_run_waits():
    assert watching(replace(RUN, rounds_closed=0), planned(0, 990))[0].seconds_left() is None
    assert watching(replace(RUN, state="QUEUED"), closed(0, 900, 910))[0].seconds_left() is None
    assert watching(RUN, closed(0, 900, 910))[0].seconds_left() is not None


WAITS, DONE = Contribution(client_id="a", state="ORDERED"), Contribution(client_id="a", state="RECEIVED")


def tell(watched, at, item, number=1):
    watched.take(RunEvent(number=number, at=at, **{"run" if isinstance(item, Run) else "round": item}))


def adds_up(watched, index, answered, end):
    """One round that is seen to be answered, and to close."""
    tell(watched, answered - 5, planned(index, answered - 10, WAITS))
    tell(watched, answered, planned(index, answered - 10, DONE))
    tell(watched, end + 0.3, closed(index, answered - 10, end))


def test_how_long_adding_up_will_be_is_the_median_of_the_rounds_before():
    watched, clock = watching(replace(RUN, rounds_closed=3))
    for index, took in enumerate((4, 20, 8)):
        adds_up(watched, index, 900.0 + 50 * index, 900.0 + 50 * index + took)
    tell(watched, 1100.0, planned(3, 1050, WAITS))
    assert watched.adding_up() is None
    tell(watched, 1110.0, planned(3, 1050, DONE))
    clock.at += 3
    assert watched.adding_up() == pytest.approx((3, 5))
    assert "adding up for 5 s more" in drawn(RunView(watched), 100)
    clock.at += 30  # it takes longer than those before
    assert watched.adding_up() == (pytest.approx(33), None)
    assert "adding up for 33 s" in drawn(RunView(watched), 100)
    tell(watched, 1150.0, closed(3, 1050, 1149))
    assert watched.adding_up() is None


def test_without_an_earlier_round_adding_up_says_how_long_it_has_been():
    watched, clock = watching(
        replace(RUN, rounds_closed=3), closed(2, 900, 950)
    )  # as it was found: not timed
    tell(watched, 1000.0, planned(3, 990, DONE))
    clock.at += 12
    assert watched.adding_up() == (pytest.approx(12), None)
    assert "adding up for 12 s" in drawn(RunView(watched), 100)
    tell(watched, 1020.0, closed(3, 990, 1019))  # nor is one that was found while it added up
    tell(watched, 1030.0, planned(4, 1020, WAITS))
    tell(watched, 1031.0, planned(4, 1020, DONE))
    assert watched.adding_up() == (pytest.approx(0), None)


def test_an_attempt_that_was_given_up_times_no_adding_up():
    watched, _ = watching(RUN)
    tell(watched, 1000.0, planned(3, 990, WAITS))
    tell(watched, 1001.0, planned(3, 990, replace(DONE, state="FAILED")))
    tell(watched, 1002.0, replace(closed(3, 990, 1002), state="ABORTED"))
    again = replace(planned(3, 1003, WAITS), attempt=1)
    tell(watched, 1003.0, again)
    tell(watched, 1004.0, replace(again, contributions=(DONE,)))
    assert watched.adding_up() == (pytest.approx(0), None)


def test_an_event_that_is_told_again_after_a_restart_is_no_news():
    watched, _ = watching(RUN)
    assert not watched.take(RunEvent(number=7, at=1001.0, run=RUN))
    assert watched.take(RunEvent(number=8, at=1002.0, run=replace(RUN, rounds_closed=3)))


def test_lines_name_each_client_once_and_count_them_where_they_are_many():
    watched, _ = watching(RUN)
    teller = Teller(watched)
    ask = [Contribution(client_id=f"c{i:02}", state="ORDERED") for i in range(20)]
    say = lambda *rows: teller.lines(RunEvent(number=1, at=1.0, round=planned(2, 1, *rows)))  # noqa: E731
    assert say(*ask) == ["round 2: 20 clients are asked"]
    one = replace(ask[0], state="RECEIVED", bytes_up=1400)
    assert say(one, *ask[1:]) == ["round 2: c00 received, 1.4 kB"]
    assert say(one, *ask[1:]) == []
    many = [replace(c, state="RECEIVED") for c in ask[1:]]
    assert say(one, *many) == ["round 2: 20 received"]


LONG = "a-name-of-sixty-three-letters-which-is-the-most-that-may-be-used"


def everything(count=30):
    rows = [
        Contribution(client_id=f"{LONG[:58]}-{i:03}", state="ORDERED", lora_rank=16, bytes_down=123456789)
        for i in range(count)
    ]
    rows[0] = replace(rows[0], state="FAILED", error_code="policy_refused", error_message="clause " * 40)
    rows[1] = replace(
        rows[1], state="RECEIVED", bytes_up=987654321, change_norm=123456.789, outcome="clipped"
    )
    run = replace(RUN, run_id=LONG, name=LONG, reason="waits for " + LONG * 3)
    watched, _ = watching(run, closed(0, 900, 910), closed(1, 911, 930), planned(2, 931, *rows))
    watched.take_figures(
        [Metric(round_index=i, name=n, value=i + 1.0) for i in range(9) for n in ("seconds", "clipped")]
    )
    own = (RunBudget(run_id=LONG, epsilon=1.25, charges=2),)
    watched.take_budgets(
        [
            Budget(
                client_id=row.client_id, unit="example", target_delta=1e-5, spent=1.0, reserved=1.5, total=2.5,
                limit=8.0, remaining=5.5, runs=own,
            )
            for row in rows
        ]
    )  # fmt: skip
    return run, watched


def drawn(picture, width, height=24, encoding="utf-8"):
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="replace")
    console = Console(file=file, width=width, height=height, force_terminal=True, no_color=True)
    console.print(picture, height=height)
    file.flush()
    return re.sub(r"\x1b\[[0-9;]*m", "", file.buffer.getvalue().decode(encoding))


@pytest.mark.parametrize("width", [40, 80, 132])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_the_picture_fits_a_terminal_of_any_width(width, encoding):
    run, watched = everything()
    for picture in (RunView(watched), RunsView(lambda: [(run, watched)] * 40)):
        lines = drawn(picture, width, encoding=encoding).splitlines()
        assert max(map(len, lines)) <= width
        assert len(lines) <= 24 or width == 40


def test_the_picture_tells_round_time_clients_bytes_and_budget():
    _, watched = everything(count=4)
    text = drawn(RunView(watched), 110)
    for word in (
        "round 3 of 10",
        " left",
        "refused",
        "received",
        "training",
        "987.7 MB",
        "2.50 of 8",
        "1.25 in this",
    ):
        assert word in text, word
    watched.lose(70)
    assert "does not answer (for 1 min 10 s)" in drawn(RunView(watched), 110)


def test_what_other_machines_say_can_not_steer_the_terminal():
    assert printable("a\x1b[2Jb\x07\u202ec\nd") == "a?[2Jb??c d"
    row = Contribution(client_id="a", state="FAILED", error_message="\x1b]0;owned\x07")
    watched, _ = watching(replace(RUN, reason="\x1b[31mred"), planned(0, 1, row))
    out = io.StringIO()
    Console(file=out, width=100, force_terminal=True, no_color=True, color_system=None).print(
        RunView(watched)
    )
    assert "\x1b]0;" not in out.getvalue()
    assert "\x1b[31m" not in out.getvalue()


def test_sizes_times_and_sparklines_in_words():
    assert [duration(s) for s in (0.4, 59, 110, 7500, 100000)] == [
        "0 s", "59 s", "1 min 50 s", "2 h 05 min", "1 d 3 h",
    ]  # fmt: skip
    assert [size(n) for n in (0, 999, 1400, 2.5e6, 3e12)] == ["0 B", "999 B", "1.4 kB", "2.5 MB", "3.0 TB"]
    assert sparkline([1.0]) == ""
    assert sparkline([1, 2, 3]) == "▁▄█" or sparkline([1, 2, 3]) == "▁▅█"
    assert sparkline([2.0, 2.0, float("nan")]) == "▁▁"


class Tty(io.StringIO):
    def isatty(self):
        return True


def test_only_a_terminal_that_is_not_dumb_is_redrawn(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert is_live(Tty())
    assert not is_live(io.StringIO())
    monkeypatch.setenv("TERM", "dumb")
    assert not is_live(Tty())

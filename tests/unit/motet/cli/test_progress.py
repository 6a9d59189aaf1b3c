"""Bars on a terminal; in a file a line now and then, with time left."""

import io

import pytest
from rich.console import Console

from motet.cli import progress as module
from motet.cli.progress import StepProgress
from motet.cli.training_bars import training_bars
from motet.materials.watching import size_of, watched_size


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_in_a_file_work_tells_a_line_now_and_then_with_what_is_left(clock):
    out = io.StringIO()
    with StepProgress(Console(file=out), unit="bytes", every_s=10) as shown:
        for second in range(31):
            clock[0] = float(second)
            shown.on_step("model", second * 1_000_000, 60_000_000)
    lines = out.getvalue().splitlines()
    assert lines[0] == "model: 10.0 MB of 60.0 MB, about 50 s left"
    assert len(lines) == 3
    assert "\x1b" not in out.getvalue()


def test_quick_work_says_nothing_in_a_file(clock):
    out = io.StringIO()
    with StepProgress(Console(file=out)) as shown:
        for step in range(100):
            shown.on_step("epsilons", step, 100)
    assert out.getvalue() == ""


def test_on_a_terminal_there_is_a_bar_with_numbers_and_time():
    out = io.StringIO()
    with StepProgress(Console(file=out, force_terminal=True, width=80)) as shown:
        shown.on_step("epsilons", 3, 7)
    assert "3/7" in out.getvalue()
    assert "left" in out.getvalue()


def test_a_dumb_terminal_gets_lines(clock, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    out = io.StringIO()
    with StepProgress(Console(file=out, force_terminal=True)) as shown:
        shown.on_step("epsilons", 0, 7)
        clock[0] = 20.0
        shown.on_step("epsilons", 5, 7)
    assert out.getvalue() == "epsilons: 5 of 7, about 8 s left\n"


def test_a_client_shows_its_steps_to_somebody_who_looks_and_to_no_log(monkeypatch):
    assert training_bars(is_wanted=False) is None
    monkeypatch.setattr("motet.cli.training_bars.is_live", lambda _stream: False)
    assert training_bars(is_wanted=True) is None
    monkeypatch.setattr("motet.cli.training_bars.is_live", lambda _stream: True)
    assert callable(training_bars(is_wanted=True))


def test_the_size_of_a_download_is_told_while_it_grows(tmp_path, monkeypatch):
    monkeypatch.setattr("motet.materials.watching.LOOK_S", 0.01)
    told = []
    with watched_size(tmp_path, told.append):
        (tmp_path / "below").mkdir()
        (tmp_path / "below/part").write_bytes(b"x" * 1000)
        while 1000 not in told:
            pass
    assert size_of(tmp_path) == 1000
    with watched_size(tmp_path, None):
        pass

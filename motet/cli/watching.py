"""A run, or all of them, watched to the end: as a picture, as lines, or as objects."""

from __future__ import annotations

import json
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from motet.cli.following import Away, followed
from motet.cli.reach import reached
from motet.cli.run_words import next_step, progress
from motet.cli.screen import console, is_live
from motet.cli.watch_lines import Teller, as_object
from motet.cli.watched_run import WatchedRun
from motet.connection.errors import NotAllowedError, UnreachableError
from motet.connection.runs import AWAY_S
from motet.errors import MotetError
from motet.wire.control import Round, RunEvent

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import RenderableType

    from motet.cli.following import Heard, Place
    from motet.connection.connection import Connection
    from motet.wire.control import Run

FRAMES_A_SECOND = 4
LOOK_S = 1.0  # between looks at all runs
LEAST_BUDGETS_S = 5.0  # between looks at budgets, which cost the coordinator an accountant's work
_GOING = ("RUNNING", "QUEUED", "PROPOSED", "HELD")


def watch_one(place: Place, run_id: str, *, timeout_s: float, as_json: bool, where: str) -> str:
    """Follow one run to its end.

    Args:
      place: where its coordinator is.
      run_id: the run.
      timeout_s: stop looking after so many seconds; 0 looks on.
      as_json: objects, not pictures or lines.
      where: ``place`` in words, for the command that comes next.

    Returns:
      its state in the end.

    Raises:
      RunNotFoundError: there is none of that id.
      UnreachableError: the coordinator stayed away.
    """
    watched = WatchedRun()
    heard = followed(place, run_id, timeout_s=timeout_s)
    if as_json:
        _tell_objects(heard, watched)
    elif is_live():
        from motet.cli.watch_view import RunView

        with _live(RunView(watched)):
            _learn(heard, watched)
        console().print(RunView(watched, is_whole=True))
    else:
        _tell_lines(heard, watched)
    run = watched.run
    if run is None:
        return ""
    if not run.has_ended and not as_json:
        print(f"it goes on; come back with: motet watch {run_id} {where}", file=sys.stderr)
    if run.state == "FINISHED" and not as_json:
        _tell_last(place, run)
        print(f"adapter {run.adapter_sha256}")
    if not as_json:
        print(next_step(run_id, run.state, where), end="", flush=True)
    return run.state


def _tell_last(place: Place, run: Run) -> None:
    """What clients told of the last adapter."""
    from motet.cli.held_out import held_out_of, held_out_words

    try:
        with reached(place.home, place.coordinator, place.identity) as connection:
            metrics, scores = connection.metrics.list(run.run_id), connection.metrics.scores(run.run_id)
    except MotetError:
        return  # it has just gone; motet run show tells it later
    for row in held_out_of(metrics, scores):
        if row["rounds_done"] == run.rounds_total:
            print(f"the last adapter: {held_out_words(row)}")


@contextmanager
def _live(picture: RenderableType) -> Iterator[None]:
    """The picture on a screen of its own, which is drawn whole each time: a terminal may change its size."""
    from rich.live import Live

    with Live(
        picture, console=console(), screen=True, refresh_per_second=FRAMES_A_SECOND, redirect_stderr=False
    ):
        yield


def _learn(events: Iterator[Heard | Away], watched: WatchedRun) -> None:
    """Take what comes; look for figures and budgets when a round has ended."""
    budgets = _Budgets(watched)
    ended = -1
    for heard in events:
        if isinstance(heard, Away):
            watched.lose(heard.since_s)
            continue
        watched.take(heard.event)
        closed = sum(r.state != "PLANNED" for r in watched.rounds.values())
        is_over = watched.run is not None and watched.run.has_ended
        if (closed != ended or is_over) and watched.run is not None:
            ended = closed
            _take_figures(heard.connection, watched)
        budgets.look(heard.connection, ended)


def _take_figures(connection: Connection, watched: WatchedRun) -> None:
    try:
        watched.take_figures(connection.metrics.list(watched.run.run_id if watched.run else ""))
    except MotetError:
        return  # whoever may not see them, or a coordinator that has just gone: the watch itself says so


class _Budgets:
    """Looks at what clients have spent, in a thread, never two at a time, and only for runs that charge."""

    def __init__(self, watched: WatchedRun) -> None:
        self._watched = watched
        self._thread: threading.Thread | None = None
        self._is_private: bool | None = None
        self._seen, self._not_before = -2, 0.0

    def look(self, connection: Connection, ended: int) -> None:
        """Once for each round that has ended; later where a look takes long."""
        run, is_busy = self._watched.run, self._thread is not None and self._thread.is_alive()
        if run is None or is_busy or ended == self._seen or time.monotonic() < self._not_before:
            return
        if self._is_private is None:
            self._is_private = _is_private(connection, run.recipe_sha256)
        if not self._is_private:
            return
        self._seen = ended
        self._thread = threading.Thread(target=self._read, args=(connection,), daemon=True)
        self._thread.start()

    def _read(self, connection: Connection) -> None:
        began = time.monotonic()
        try:
            self._watched.take_budgets(connection.budgets.list())
        except NotAllowedError:
            self._is_private = False
        except (MotetError, ValueError):  # the connection has ended: by the next one
            self._seen = -2
        took = time.monotonic() - began
        self._not_before = time.monotonic() + max(LEAST_BUDGETS_S, 10 * took)


def _is_private(connection: Connection, recipe_sha256: str) -> bool:
    try:
        return json.loads(connection.recipes.get(recipe_sha256).recipe_json).get("privacy") is not None
    except (MotetError, ValueError):
        return False


def _tell_lines(events: Iterator[Heard | Away], watched: WatchedRun) -> None:
    teller, is_away = Teller(watched), False
    for heard in events:
        if isinstance(heard, Away):
            if not is_away:
                print("the coordinator does not answer; waiting for it", flush=True)
            is_away = True
            continue
        is_away = False
        watched.take(heard.event)
        for line in teller.lines(heard.event):
            print(line, flush=True)


def _tell_objects(events: Iterator[Heard | Away], watched: WatchedRun) -> None:
    for heard in events:
        if isinstance(heard, Away):
            told = {"event": "away", "since_s": round(heard.since_s, 1)}
        elif not watched.take(heard.event):
            continue
        else:
            told = as_object(heard.event) or {}
        print(json.dumps(told), flush=True)


# -- all runs ------------------------------------------------------------------------------------------------------


def watch_all(place: Place, *, timeout_s: float, as_json: bool) -> list[str]:
    """States in the end of all runs that were seen to wait or run; returns when none does any more."""
    looks = _Looks()
    until = time.monotonic() + timeout_s if timeout_s else None
    is_drawn = is_live() and not as_json
    teller = _RunsTeller(as_json=as_json)
    with reached(place.home, place.coordinator, place.identity) as connection:
        looks.look(connection)
    if not looks.rows():
        if not as_json:
            print("no run waits or runs; submit one: motet run submit RECIPE")
        return []

    def go_on() -> None:
        for _ in _followed_looks(place, looks):
            if not is_drawn:
                teller.tell(looks.rows())
            if looks.is_over or (until is not None and time.monotonic() >= until):
                return

    if is_drawn:
        from motet.cli.watch_view import RunsView

        with _live(RunsView(looks.rows)):
            go_on()
        console().print(RunsView(looks.rows, is_whole=True))
    else:
        go_on()
    return [run.state for run, _ in looks.rows()]


def _followed_looks(place: Place, looks: _Looks) -> Iterator[None]:
    """A look every second, over restarts of the coordinator.

    Raises:
      UnreachableError: it stayed away.
    """
    heard = time.monotonic()
    while True:
        try:
            with reached(place.home, place.coordinator, place.identity) as connection:
                while True:
                    looks.look(connection)
                    heard = time.monotonic()
                    yield
                    time.sleep(LOOK_S)
        except UnreachableError:
            if time.monotonic() - heard > AWAY_S:
                raise
        time.sleep(0.5)


class _Looks:
    """Every run that was seen to wait or run, with what is known of it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, tuple[Run, WatchedRun]] = {}

    def look(self, connection: Connection) -> None:
        """Read all that wait or run, and how those ended that do not any more."""
        found = {run.run_id: run for state in _GOING for run in connection.runs.list(state=state)}
        for run_id, (run, _) in self._known.items():
            if run_id not in found:
                found[run_id] = run if run.has_ended else connection.runs.get(run_id)
        for run_id, run in found.items():
            before, watched = self._known.get(run_id, (None, WatchedRun()))
            _learn_look(watched, run)
            if run.state == "RUNNING" and (before is None or before.rounds_closed != run.rounds_closed):
                for attempt in connection.rounds.list(run_id):
                    _learn_look(watched, attempt)
            with self._lock:
                self._known[run_id] = (run, watched)

    @property
    def is_over(self) -> bool:
        """Whether none waits or runs."""
        return all(run.has_ended for run, _ in self.rows())

    def rows(self) -> Sequence[tuple[Run, WatchedRun]]:
        """Those that run first, then those that wait, then those that have ended."""
        with self._lock:
            known = list(self._known.values())
        order = {state: place for place, state in enumerate(_GOING)}
        return sorted(known, key=lambda row: (order.get(row[0].state, len(order)), row[0].created_at))


def _learn_look(watched: WatchedRun, item: object) -> None:
    field = "round" if isinstance(item, Round) else "run"
    watched.take(RunEvent(number=0, at=time.time(), **{field: item}))  # type: ignore[arg-type]


class _RunsTeller:
    """One line, or one object, for each change of a run."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._said: dict[str, tuple[object, ...]] = {}

    def tell(self, rows: Sequence[tuple[Run, WatchedRun]]) -> None:
        """Print what is new."""
        from motet.cli.run import summary

        for run, _ in rows:
            now = (run.state, run.rounds_closed, run.reason)
            if self._said.get(run.run_id) == now:
                continue
            self._said[run.run_id] = now
            line = f"{run.run_id} {progress(run)}"
            print(json.dumps({"event": "run"} | summary(run)) if self._as_json else line, flush=True)

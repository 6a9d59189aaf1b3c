"""A watched run as a picture of a terminal's size: drawn anew each time, so that a resize does no harm."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from motet.cli.screen import duration, printable, size
from motet.cli.watched_run import state_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.console import Console, ConsoleOptions, OverflowMethod, RenderableType, RenderResult

    from motet.cli.watched_run import WatchedRun
    from motet.wire.control import Budget, Contribution, Run

BARS = "▁▂▃▄▅▆▇█"
STYLES = {
    "RUNNING": "bold cyan",
    "FINISHED": "bold green",
    "FAILED": "bold red",
    "CANCELLED": "yellow",
    "received": "green",
    "training": "cyan",
    "refused": "red",
    "failed": "bold red",
    "late": "yellow",
}
_TOLD = (
    ("held_out_accuracy", "accuracy", "{:.1%}"),
    ("held_out_loss", "loss", "{:.3g}"),
    ("relative_error", "error", "{:.1e}"),
    ("seconds", "seconds", "{:.1f}"),
)
_COUNTED = ("clipped", "rejected", "late_replies", "refused_replies", "duplicate_replies", "equivocations")
_LEAST_ROWS = 3
_RUN, _NAME = 20, 22  # columns of a picture's names
_CUT = "whole names: --json"


def sparkline(values: Sequence[float], width: int = 12) -> str:
    """The last values as blocks between their lowest and highest; empty for fewer than two."""
    last = [v for v in values[-width:] if v == v and abs(v) != float("inf")]
    if len(last) < 2:
        return ""
    low, high = min(last), max(last)
    if high == low:
        return BARS[0] * len(last)
    return "".join(BARS[round((v - low) / (high - low) * (len(BARS) - 1))] for v in last)


class RunView:
    """One run: its head, its bar, why it waits, figures, and this round's clients, cut to the terminal's height."""

    def __init__(self, watched: WatchedRun, *, is_whole: bool = False) -> None:
        self._watched, self._is_whole = watched, is_whole

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Everything that there is to tell now."""
        run = self._watched.run
        if run is None:
            yield Text("waiting for the coordinator", style="dim")
            return
        lines = [self._head(run), self._bar(run, options.max_width)]
        lines += [Text(line, overflow="fold") for line in _waits(run, self._watched.away_s)]
        lines += [Text(line, no_wrap=True, overflow="ellipsis") for line in self._figures(options.ascii_only)]
        height = 0
        for line in lines:
            height += len(console.render_lines(line, options.update(height=None), pad=False))
            yield line
        clients = self._watched.clients()
        if not clients:
            return
        if self._is_whole:
            shown = len(clients)
        else:
            room = (
                (options.height or console.height) - height - 4
            )  # head of the table, summary, and the last line
            shown = min(len(clients), max(_LEAST_ROWS, room))
        yield Text()
        yield clients_table(clients[:shown], self._watched.budgets, is_whole=self._is_whole)
        if self._is_whole:
            yield from (
                Text(f"{printable(c.client_id)}: {_why(c)}", overflow="fold") for c in clients if _why(c)
            )
        counts = ", ".join(f"{n} {state}" for state, n in self._watched.states().items())
        more = f"; {len(clients) - shown} more" if shown < len(clients) else ""
        if not self._is_whole and any(len(c.client_id) > _NAME for c in clients[:shown]):
            more += f"; {_CUT}"
        noun = "client" if len(clients) == 1 else "clients"
        yield Text(f"{len(clients)} {noun}: {counts}{more}", style="dim", no_wrap=True, overflow="ellipsis")

    def _head(self, run: Run) -> RenderableType:
        grid = Table.grid(expand=True)
        grid.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
        grid.add_column(justify="right", no_wrap=True)
        left = Text.assemble((printable(run.run_id), "bold"), " ", printable(run.name))
        grid.add_row(left, Text(run.state, style=STYLES.get(run.state, "")))
        return grid

    def _bar(self, run: Run, width: int) -> RenderableType:
        newest, left = self._watched.newest(), self._watched.seconds_left()
        label = f"{run.rounds_closed} of {run.rounds_total} rounds"
        told = []
        if newest is not None and newest.state == "PLANNED":
            attempt = f", attempt {newest.attempt + 1}" if newest.attempt else ""
            label = f"round {newest.round_index + 1} of {run.rounds_total}{attempt}"
            told.append(f"{duration(self._watched.now() - newest.started_at)} in it")
            adding = self._watched.adding_up()
            if adding is not None:
                passed, more = adding
                told.append(f"adding up for {duration(passed) if more is None else f'{duration(more)} more'}")
        if left is not None:
            told.append(f"{duration(left)} left")
        elif run.state == "RUNNING" and not run.rounds_closed:
            told.append("time left after a round")
        words = Text(", ".join(told), no_wrap=True, overflow="ellipsis")
        grid = Table.grid(padding=(0, 1))
        room = width - len(label) - len(words) - 2
        bar = ProgressBar(
            total=max(1, run.rounds_total),
            completed=run.rounds_closed,
            width=max(6, min(28, room if room >= 8 else width - len(label) - 1)),
        )
        if room >= 8:
            grid.add_row(Text(label, no_wrap=True), bar, words)
            return grid
        grid.add_row(Text(label, no_wrap=True), bar)
        return Group(grid, words)

    def _figures(self, is_ascii: bool) -> list[str]:
        """Bytes; epsilon; the coordinator's own figures."""
        watched = self._watched
        up, down = watched.bytes_so_far()
        lines = [f"sent {size(up)}, received {size(down)}, by all clients so far"] if up or down else []
        budget = watched.most_spent()
        if budget is not None and watched.run is not None:
            lines.append(_spent(budget, watched.run.run_id))
        parts = []
        for name, label, form in _TOLD:
            values = watched.figures.get(name)
            if values:
                line = "" if is_ascii else sparkline(values)
                parts.append(f"{label} {line} {form.format(values[-1])}".replace("  ", " "))
        sums = [(name, sum(watched.figures.get(name, ()))) for name in _COUNTED]
        parts += [f"{name.replace('_', ' ')} {total:.0f}" for name, total in sums if total]
        return [*lines, " · ".join(parts) if not is_ascii else ", ".join(parts)] if parts else lines


def clients_table(
    rows: Sequence[Contribution], budgets: dict[str, Budget], *, is_whole: bool = False
) -> Table:
    """This round's clients; epsilon only where something was charged. ``is_whole``: cut no name, leave reasons out."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    overflow: OverflowMethod = "fold" if is_whole else "ellipsis"
    table.add_column("client", overflow=overflow, max_width=_NAME)
    table.add_column("state", no_wrap=True)
    for name in ("rank", "received", "sent", "change"):
        table.add_column(name, justify="right", no_wrap=True)
    columns: list[Callable[[Contribution], str]] = []
    if any(row.held_out_examples for row in rows):
        table.add_column("held-out", justify="right", no_wrap=True)
        columns.append(_held_out)
    if any(row.client_id in budgets for row in rows):
        table.add_column("epsilon", justify="right", no_wrap=True)
        columns.append(lambda row: _epsilon(budgets.get(row.client_id)))
    if not is_whole and any(_why(row) for row in rows):
        table.add_column("why", overflow="ellipsis")  # the one that gives way
        columns.append(_why)
    for row in rows:
        state = state_of(row)
        table.add_row(
            Text(printable(row.client_id), no_wrap=not is_whole, overflow=overflow),
            Text(state, style=STYLES.get(state, "")),
            str(row.lora_rank or ""),
            size(row.bytes_down) if row.bytes_down else "",
            size(row.bytes_up) if row.bytes_up else "",
            "" if row.change_norm is None else f"{row.change_norm:.3g}",
            *(Text(column(row), no_wrap=True, overflow="ellipsis") for column in columns),
        )
    return table


def _why(row: Contribution) -> str:
    """Why a client's update was not counted, or not in full; whole it has a line of its own, as wide as there is."""
    return printable(row.error_message or row.outcome)


def _held_out(row: Contribution) -> str:
    """How the adapter that the round starts from does at a client: accuracy, or loss where there is none."""
    if row.held_out_accuracy is not None:
        return f"{row.held_out_accuracy:.1%}"
    return "" if row.held_out_loss is None else f"{row.held_out_loss:.3g}"


def _epsilon(budget: Budget | None) -> str:
    if budget is None:
        return ""
    return f"{budget.total:.2f}" + ("" if budget.limit is None else f" of {budget.limit:g}")


def _spent(budget: Budget, run_id: str) -> str:
    own = next((r.epsilon for r in budget.runs if r.run_id == run_id), None)
    limit = "no limit" if budget.limit is None else f"of {budget.limit:g}"
    this = "" if own is None else f", {own:.2f} in this run"
    return (
        f"epsilon {budget.total:.2f} {limit}{this}: {printable(budget.client_id)}, who has spent most of it"
    )


def _waits(run: Run, away_s: float | None) -> list[str]:
    lines = [] if away_s is None else [f"the coordinator does not answer (for {duration(away_s)}); waiting"]
    if run.reason:
        lines.append(("waits: " if not run.has_ended else "") + printable(run.reason))
    return lines


class RunsView:
    """All runs that wait, run, or ended while they were watched. ``is_whole``: every one, and no name cut."""

    def __init__(
        self, runs: Callable[[], Sequence[tuple[Run, WatchedRun]]], *, is_whole: bool = False
    ) -> None:
        self._runs, self._is_whole = runs, is_whole

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """One row a run, cut to the terminal's height."""
        rows = self._runs()
        room = len(rows) if self._is_whole else max(_LEAST_ROWS, (options.height or console.height) - 3)
        table = Table(box=None, pad_edge=False, header_style="dim")
        overflow: OverflowMethod = "fold" if self._is_whole else "ellipsis"
        table.add_column("run", no_wrap=not self._is_whole, overflow=overflow, max_width=_RUN)
        table.add_column("state", no_wrap=True)
        table.add_column("rounds", no_wrap=True, justify="right")
        table.add_column("", no_wrap=True)
        table.add_column("left", no_wrap=True)
        # Its texts do not wrap, the column may: so rich takes what is lacking from it and not from the run's name.
        table.add_column("name, why it waits", overflow=overflow)
        for run, watched in rows[:room]:
            left = watched.seconds_left()
            table.add_row(
                Text(printable(run.run_id)),
                Text(run.state, style=STYLES.get(run.state, "")),
                f"{run.rounds_closed}/{run.rounds_total}",
                ProgressBar(total=max(1, run.rounds_total), completed=run.rounds_closed, width=10),
                "" if left is None else duration(left),
                Text(
                    printable(run.name + (f": {run.reason}" if run.reason else "")),
                    no_wrap=not self._is_whole,
                    overflow=overflow,
                ),
            )
        yield table
        words = [f"{len(rows) - room} more: motet run list"] if len(rows) > room else []
        if not self._is_whole and any(len(run.run_id) > _RUN for run, _ in rows[:room]):
            words.append(_CUT)
        if words:
            yield Text("; ".join(words), style="dim", no_wrap=True, overflow="ellipsis")

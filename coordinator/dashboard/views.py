"""The charts of each page, from its record."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING

from coordinator.dashboard.charts.bars import Bar, lying_bars, stacked_bars
from coordinator.dashboard.charts.lines import Axes, Series, line_chart
from coordinator.dashboard.charts.scale import number, percent, seconds, size
from coordinator.dashboard.charts.timeline import timeline

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from coordinator.dashboard.budgets import Curve
    from coordinator.dashboard.charts.svg import Chart
    from coordinator.dashboard.pages.figures import Figure
    from coordinator.dashboard.pages.privacy import PrivacyPage
    from coordinator.dashboard.pages.run import RunPage
    from coordinator.dashboard.pages.runs import RunsPage
    from motet.wire.control import Score

SHOWN: dict[str, Callable[[float], str]] = {
    "seconds": seconds,
    "accuracy": percent,
    "held_out_accuracy": percent,
    "macro_f1": percent,
}
COUNTS = ("clipped", "rejected", "late_replies", "duplicate_replies", "refused_replies", "equivocations")
HOUR_S = 3600.0
MOST_CLIENTS = 24  # with charts of their own; the downloads have all
LAYERS = ("To the coordinator", "To the clients")


def charts_of_runs(page: RunsPage) -> list[Chart]:
    """Bytes of a round, by method; nothing while there is but one method to compare."""
    if len(page.methods) < 2:
        return []
    bars = [
        Bar(
            label=m.method,
            parts=(m.up_a_round, m.down_a_round),
            note=f"{m.rounds} rounds of {m.runs} run{'s' if m.runs > 1 else ''}",
        )
        for m in page.methods
    ]
    note = "mean over closed rounds of the runs on this page, all clients together"
    made = lying_bars(
        "bytes-by-method", "Bytes a round, by method", LAYERS, bars, of="Method", show=size, note=note
    )
    return [made] if made else []


def learning_charts(page: RunPage) -> list[Chart]:
    """A curve for each figure that says how well the model learns, and each client's own score."""
    made = [_curve(f) for f in page.figures if f.is_learning]
    made += _of_clients(page.scores)
    scores = page.client_figures
    if scores:
        show = SHOWN.get(scores[0].name, number)
        bars = [
            Bar(label=s.client_id, parts=(s.value,), tone="s1" if s.is_federated else "quiet") for s in scores
        ]
        made.append(
            lying_bars(
                "by-client",
                "Each client alone, and together",
                [scores[0].name.capitalize()],
                bars,
                of="Trained by",
                show=show,
                note="held-out examples, scored where the run was simulated",
            )
        )
    return [chart for chart in made if chart]


def _of_clients(scores: Sequence[Score]) -> list[Chart | None]:
    """How adapters do on the held-out examples of each client that tells: over the rounds, and the newest one."""
    has_accuracy = any(s.accuracy is not None for s in scores)
    name, show, sign = ("accuracy", percent, 1.0) if has_accuracy else ("loss", number, -1.0)
    points: dict[str, list[tuple[int, float]]] = {}
    for score in scores:
        value = score.accuracy if has_accuracy else score.loss
        if value is not None:
            points.setdefault(score.client_id, []).append((score.rounds_done, value))
    worst_first = sorted(points, key=lambda client: (sign * points[client][-1][1], client))
    shown = sorted(worst_first[:MOST_CLIENTS])
    note = "the clients' own held-out examples, by their own word; round 0 is before training"
    if len(shown) < len(points):
        note += f"; the {len(shown)} of {len(points)} clients that the model does worst at"
    title, heads = f"{name.capitalize()} at each client", [name.capitalize()]
    series = [Series(label=client, points=points[client]) for client in shown]
    lines = line_chart(f"{name}-by-client", title, series, Axes(show=show), note=note)
    newest = max((s.rounds_done for s in scores), default=0)
    last = {client: points[client][-1] for client in shown}
    bars = [Bar(label=client, parts=(value,)) for client, (done, value) in last.items() if done == newest]
    after = f"{title}, after round {newest}"
    return [lines, lying_bars(f"newest-{name}", after, heads, bars, of="Client", show=show, note=note)]


def round_charts(page: RunPage) -> list[Chart]:
    """Error of aggregation, bytes, and what was counted besides."""
    made = [_curve(f) for f in page.figures if f.name in {"relative_error", "truncation_error"}]
    bars = [Bar(label=str(a.round_index + 1), parts=(a.bytes_up, a.bytes_down)) for a in page.closed]
    made.append(stacked_bars("bytes", f"Bytes a round, {page.method}", LAYERS, bars, show=size))
    told = [f for f in page.figures if f.name in COUNTS and any(v for _, v in f.points)]
    counted = [Series(label=f.title, points=f.points) for f in told]
    made.append(
        line_chart("counts", "Updates that were not taken as they came", counted, Axes(from_zero=True))
    )
    return [chart for chart in made if chart]


def timeline_chart(page: RunPage) -> Chart | None:
    """What each client did in each attempt."""
    return timeline(page.attempts)


def privacy_charts(page: PrivacyPage) -> list[Chart]:
    """Epsilon over time, of those who have spent most; budgets that were charged alike share a line."""
    alike: dict[tuple[tuple[float, float], ...], list[str]] = {}
    for curve in page.curves:
        alike.setdefault(tuple(curve.points), []).append(_account(curve))
    series = [Series(label=_together(names), points=points) for points, names in alike.items()]
    times = [at for points in alike for at, _ in points]
    axes = Axes(x_name="Charged", show=number, from_zero=True, show_x=_clock(times))
    told = []
    if len(page.gauges or ()) > len(page.curves):
        told.append(f"the {len(page.curves)} budgets of which most is spent")
    if len(series) < len(page.curves):
        told.append("budgets that were charged alike share a line")
    note = "; ".join(told)
    made = line_chart("epsilon", "Epsilon over time, in UTC", series, axes, note=note, is_wide=True)
    return [made] if made else []


def _account(curve: Curve) -> str:
    return curve.client_id if curve.unit == "example" else f"{curve.client_id}, one {curve.unit}"


def _together(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) < 4 else f"{', '.join(names[:2])} and {len(names) - 2} more"


def _clock(times: Sequence[float]) -> Callable[[float], str]:
    """A moment as words, as fine as the span of all of them needs."""
    span = max(times) - min(times) if times else 0.0
    form = "%H:%M:%S" if span < HOUR_S else "%d %b %H:%M" if span < 3 * 24 * HOUR_S else "%d %b %Y"
    return lambda at: datetime.datetime.fromtimestamp(at, datetime.UTC).strftime(form)


def _curve(figure: Figure) -> Chart | None:
    axes = Axes(show=SHOWN.get(figure.name, number), from_zero=figure.name == "seconds")
    name = "".join(c if c.isalnum() else "-" for c in figure.name.lower())
    return line_chart(
        name, figure.title, [Series(label=figure.title, points=figure.points)], axes, note=figure.note
    )

"""Lines over rounds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from coordinator.dashboard.charts.scale import NONE, number, thinned, ticks
from coordinator.dashboard.charts.svg import FRAMES, WHOLE, Chart, Frame, el, path, picture

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from markupsafe import Markup

MOST_SERIES = 6
_DOTS_UP_TO = 40
_LETTER, _APART = 7.0, 18.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One line. ``points``: (round, value), by round; values that are not finite are left out."""

    label: str
    points: Sequence[tuple[float, float]]

    @property
    def finite(self) -> list[tuple[float, float]]:
        """The points that can be drawn."""
        return [(x, y) for x, y in self.points if math.isfinite(y)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Axes:
    """How the two directions are read.

    Attributes:
      x_name: what x counts, such as ``Round``.
      show: a value as words.
      from_zero: the vertical axis begins at zero.
      show_x: x as words; by default a whole number.
    """

    x_name: str = "Round"
    show: Callable[[float], str] = number
    from_zero: bool = False
    show_x: Callable[[float], str] = lambda x: f"{x:g}"


def line_chart(
    name: str,
    title: str,
    series: Sequence[Series],
    axes: Axes | None = None,
    *,
    note: str = "",
    is_wide: bool = False,
) -> Chart | None:
    """A chart of up to ``MOST_SERIES`` lines; None where nothing can be drawn.

    Args:
      name: of the chart in addresses.
      title: for people.
      series: those beyond the first six stand in the table alone.
      axes: how values are read.
      note: where the figures are from.
      is_wide: it has the page's width to itself.
    """
    axes = axes or Axes()
    drawn = [s for s in series if s.finite]
    if not drawn:
        return None
    summary = _summary(title, drawn, axes)
    shown = drawn[:MOST_SERIES]
    pictures = [
        picture(name, size, frame, title, summary, _parts(shown, frame, axes))
        for size, frame in (WHOLE if is_wide else FRAMES).items()
    ]
    legend = [(f"s{i}", s.label) for i, s in enumerate(shown, 1)] if len(drawn) > 1 else []
    places = sorted({x for s in drawn for x, _ in s.points})
    values = [dict(s.points) for s in drawn]
    rows = [
        [axes.show_x(x), *(axes.show(v[x]) if x in v and math.isfinite(v[x]) else NONE for v in values)]
        for x in places
    ]
    return Chart(
        name=name,
        title=title,
        summary=summary,
        pictures=pictures,
        legend=legend,
        columns=[axes.x_name, *(s.label for s in drawn)],
        rows=rows,
        note=note,
    )


def _summary(title: str, series: Sequence[Series], axes: Axes) -> str:
    parts = []
    for one in series[:MOST_SERIES]:
        (x0, first), (x1, last) = one.finite[0], one.finite[-1]
        where = f"{axes.x_name.lower()} {axes.show_x(x1)}"
        begin = f"from {axes.show(first)} at {axes.show_x(x0)} to " if x0 != x1 else ""
        parts.append(f"{one.label}: {begin}{axes.show(last)} at {where}")
    return f"{title}. " + "; ".join(parts) + "."


def _parts(series: Sequence[Series], frame: Frame, axes: Axes) -> list[Markup]:
    xs = sorted({x for s in series for x, _ in s.finite})
    ys = [y for s in series for _, y in s.finite]
    marks = ticks(min([0.0, *ys]) if axes.from_zero else min(ys), max(ys))
    left, right = xs[0], xs[-1]
    bottom, top = marks[0], marks[-1]

    def at(x: float, y: float) -> tuple[float, float]:
        across = (x - left) / (right - left) if right > left else 0.5
        return frame.x(across), frame.y((y - bottom) / (top - bottom))

    parts = grid(frame, [(axes.show(m), (m - bottom) / (top - bottom)) for m in marks])
    parts += _rounds(frame, xs, axes, lambda x: at(x, bottom)[0])
    for i, one in enumerate(series, 1):
        points = [at(x, y) for x, y in one.finite]
        parts.append(el("path", d=path(points), class_=f"line s{i}"))
        if len(points) <= _DOTS_UP_TO:
            parts += [
                el("circle", cx=x, cy=y, r=2.5 if len(points) > 1 else 4, class_=f"dot s{i}")
                for x, y in points
            ]
    return [*parts, *_hits(series, frame, axes, xs, lambda x: at(x, bottom)[0])]


def grid(frame: Frame, marks: Sequence[tuple[str, float]]) -> list[Markup]:
    """Horizontal lines with their numbers."""
    parts = []
    for words, part in marks:
        y = frame.y(part)
        parts.append(el("line", x1=frame.left, x2=frame.width - frame.right, y1=y, y2=y, class_="grid"))
        parts.append(el("text", words, x=frame.left - 8, y=y + 4, class_="tick end"))
    return parts


def _rounds(frame: Frame, xs: Sequence[float], axes: Axes, at: Callable[[float], float]) -> list[Markup]:
    """As many words below the axis as do not touch each other."""
    longest = max(len(axes.show_x(x)) for x in xs)
    width = _LETTER * longest + _APART
    y = frame.height - frame.bottom + 18
    parts, free = [], 0.0
    for i in thinned(range(len(xs)), min(9, int(frame.plot_width / width))):
        words = axes.show_x(xs[i])
        half = _LETTER * len(words) / 2
        middle = min(at(xs[i]), frame.width - half)
        if middle - half >= free:  # places of times are not evenly apart
            parts.append(el("text", words, x=middle, y=y, class_="tick mid"))
            free = middle + half + _APART
    return parts


def _hits(
    series: Sequence[Series], frame: Frame, axes: Axes, xs: Sequence[float], at: Callable[[float], float]
) -> list[Markup]:
    """Invisible columns, one a round, that tell their values."""
    places = [at(x) for x in xs]
    values = [dict(s.finite) for s in series]
    parts = []
    for i, x in enumerate(xs):
        left = frame.left if i == 0 else (places[i - 1] + places[i]) / 2
        right = frame.width - frame.right if i == len(xs) - 1 else (places[i] + places[i + 1]) / 2
        told = [f"{axes.x_name} {axes.show_x(x)}"]
        told += [f"{s.label}: {axes.show(v[x])}" for s, v in zip(series, values, strict=True) if x in v]
        parts.append(
            el(
                "rect",
                x=left,
                y=frame.top,
                width=max(1.0, right - left),
                height=frame.plot_height,
                class_="hit",
                data_x=places[i],
                data_tip="\n".join(told),
            )
        )
    return parts

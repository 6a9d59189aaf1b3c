"""Bars: stacked over rounds, and lying beside names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from coordinator.dashboard.charts.lines import grid
from coordinator.dashboard.charts.scale import number, thinned, ticks
from coordinator.dashboard.charts.svg import FRAMES, NARROW, WIDE, Chart, Frame, el, picture

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from markupsafe import Markup

_LIMIT_OF_LABELS = 5, 9
_ROW = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One bar. ``parts``: a value for each layer. ``tone``: class of its colour where it is not the layer's."""

    label: str
    parts: Sequence[float]
    tone: str = ""
    note: str = ""


def stacked_bars(
    name: str,
    title: str,
    layers: Sequence[str],
    bars: Sequence[Bar],
    *,
    x_name: str = "Round",
    show: Callable[[float], str] = number,
) -> Chart | None:
    """Upright bars, layers on each other from the bottom; None where there is nothing to show."""
    if not bars or not any(sum(b.parts) for b in bars):
        return None
    sums = [sum(b.parts[i] for b in bars) for i in range(len(layers))]
    told = ", ".join(f"{layer.lower()} {show(total)}" for layer, total in zip(layers, sums, strict=True))
    summary = f"{title}, {len(bars)} {x_name.lower()}s. In all {told}."
    return Chart(
        name=name,
        title=title,
        summary=summary,
        pictures=[
            picture(name, size, frame, title, summary, _upright(layers, bars, frame, show, x_name, size))
            for size, frame in FRAMES.items()
        ],
        legend=[(f"s{i}", layer) for i, layer in enumerate(layers, 1)],
        columns=[x_name, *layers],
        rows=[[b.label, *(show(p) for p in b.parts)] for b in bars],
    )


def _upright(
    layers: Sequence[str],
    bars: Sequence[Bar],
    frame: Frame,
    show: Callable[[float], str],
    x_name: str,
    size: str,
) -> list[Markup]:
    marks = ticks(0.0, max(sum(b.parts) for b in bars))
    top = marks[-1]
    parts = grid(frame, [(show(m), m / top) for m in marks])
    slot = frame.plot_width / len(bars)
    width = min(34.0, slot * 0.66)
    labelled = set(thinned(range(len(bars)), _LIMIT_OF_LABELS[size == WIDE]))
    for i, bar in enumerate(bars):
        middle, base = frame.left + (i + 0.5) * slot, 0.0
        for layer, value in enumerate(bar.parts, 1):
            height = value / top * frame.plot_height
            y = frame.y((base + value) / top)
            parts.append(
                el("rect", x=middle - width / 2, y=y, width=width, height=height, class_=f"bar s{layer}")
            )
            base += value
        if i in labelled:
            parts.append(
                el("text", bar.label, x=middle, y=frame.height - frame.bottom + 18, class_="tick mid")
            )
        told = [f"{x_name} {bar.label}"] + [
            f"{layer}: {show(v)}" for layer, v in zip(layers, bar.parts, strict=True)
        ]
        parts.append(
            el(
                "rect",
                x=frame.left + i * slot,
                y=frame.top,
                width=slot,
                height=frame.plot_height,
                class_="hit",
                data_x=middle,
                data_tip="\n".join(told),
            )
        )
    return parts


def lying_bars(
    name: str,
    title: str,
    layers: Sequence[str],
    bars: Sequence[Bar],
    *,
    of: str,
    show: Callable[[float], str] = number,
    note: str = "",
) -> Chart | None:
    """Bars beside names, the value at their end; None where there are none.

    Args:
      name: of the chart in addresses.
      title: for people.
      layers: what the parts of a bar are.
      bars: from the top.
      of: what the names are, such as ``Method``.
      show: a value as words.
      note: where the figures are from.
    """
    if not bars:
        return None
    whole = max(max(sum(b.parts) for b in bars), 1e-12)
    told = "; ".join(f"{b.label} {show(sum(b.parts))}" for b in bars)
    summary = f"{title}. {told}."
    pictures = []
    for size, base in FRAMES.items():
        frame = Frame(width=base.width, height=_ROW * len(bars) + 14, left=4, right=86, top=4, bottom=4)
        parts = _lying(bars, layers, frame, whole, show, 92.0 if size == NARROW else 150.0)
        pictures.append(picture(name, size, frame, title, summary, parts))
    return Chart(
        name=name,
        title=title,
        summary=summary,
        pictures=pictures,
        legend=[(f"s{i}", layer) for i, layer in enumerate(layers, 1)] if len(layers) > 1 else [],
        columns=[of, *layers],
        rows=[[b.label, *(show(p) for p in b.parts)] for b in bars],
        note=note,
    )


def _lying(
    bars: Sequence[Bar],
    layers: Sequence[str],
    frame: Frame,
    whole: float,
    show: Callable[[float], str],
    names: float,
) -> list[Markup]:
    parts: list[Markup] = []
    room = frame.width - frame.right - names
    for i, bar in enumerate(bars):
        y, x = frame.top + i * _ROW + 5, names
        label = bar.label if len(bar.label) * 7.2 < names else bar.label[: int(names / 7.2) - 1] + "…"
        parts.append(el("text", label, x=0, y=y + 15, class_="name"))
        for layer, value in enumerate(bar.parts, 1):
            width = value / whole * room
            tone = bar.tone or f"s{layer}"
            parts.append(el("rect", x=x, y=y, width=max(width, 0.5), height=20, rx=2, class_=f"bar {tone}"))
            x += width
        parts.append(el("text", show(sum(bar.parts)), x=x + 8, y=y + 15, class_="value"))
        told = [bar.label] + [f"{layer}: {show(v)}" for layer, v in zip(layers, bar.parts, strict=True)]
        parts.append(
            el(
                "rect",
                x=0,
                y=y - 3,
                width=frame.width,
                height=26,
                class_="hit",
                data_tip="\n".join([*told, *([bar.note] if bar.note else [])]),
            )
        )
    return parts

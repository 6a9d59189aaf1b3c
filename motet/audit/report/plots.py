"""Plots as inline SVG: no script, no image file, colours from the page's own variables."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_WIDTH, _HEIGHT = 640, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 16, 16, 44
_TICKS = 5
_SERIES = 8  # colours of the page


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of a plot; a None in ``y`` breaks it."""

    label: str
    x: Sequence[float]
    y: Sequence[float | None]


def line_plot(
    title: str,
    x_label: str,
    y_label: str,
    lines: Sequence[Line],
    *,
    diagonal: bool = False,
    limit: float | None = None,
) -> str:
    """A figure with axes, one line each, and a legend below it.

    Args:
      title: read out by screen readers.
      x_label: of the axis, with its unit.
      y_label: of the axis, with its unit.
      lines: to draw.
      diagonal: also the line y = x.
      limit: also a level line at this y.

    Returns:
      HTML of a ``figure``.
    """
    points = [(x, y) for line in lines for x, y in zip(line.x, line.y, strict=True) if y is not None]
    x_step, x_high = _scale(max((x for x, _ in points), default=1.0))
    y_step, y_high = _scale(max([y for _, y in points] + ([limit] if limit is not None else []), default=1.0))

    def at(x: float, y: float) -> str:
        across = _LEFT + (_WIDTH - _LEFT - _RIGHT) * x / x_high
        down = _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * y / y_high
        return f"{across:.1f},{down:.1f}"

    parts = [
        f'<figure><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>"
    ]
    for y in _ticks(y_step, y_high):
        parts.append(f'<path class="grid" d="M{at(0, y)}L{at(x_high, y)}"/>')
        parts.append(_text(at(0, y), f"{y:.4g}", dx=-8, dy=4, anchor="end"))
    parts += [_text(at(x, 0), f"{x:.4g}", dy=18, anchor="middle") for x in _ticks(x_step, x_high)]
    parts.append(_text(f"{_WIDTH / 2},{_HEIGHT - 6}", x_label, anchor="middle"))
    parts.append(
        f'<text transform="translate(14 {_HEIGHT / 2}) rotate(-90)" text-anchor="middle">{escape(y_label)}</text>'
    )
    if diagonal:
        parts.append(f'<path class="guide" d="M{at(0, 0)}L{at(x_high, x_high)}"/>')
    if limit is not None:
        parts.append(f'<path class="guide" d="M{at(0, limit)}L{at(x_high, limit)}"/>')
    for number, line in enumerate(lines):
        drawn = [at(x, y) for x, y in zip(line.x, line.y, strict=True) if y is not None]
        if drawn:
            parts.append(f'<path class="line s{number % _SERIES}" d="M{"L".join(drawn)}"/>')
    parts.append("</svg><figcaption>")
    for number, line in enumerate(lines):
        parts.append(f'<span class="key s{number % _SERIES}">{escape(line.label)}</span> ')
    if limit is not None:
        parts.append('<span class="key guide">limit</span>')
    if diagonal:
        parts.append('<span class="key guide">guessing</span>')
    parts.append("</figcaption></figure>")
    return "".join(parts)


def _scale(largest: float) -> tuple[float, float]:
    """Distance of ticks (1, 2 or 5 times a power of ten) and the end of an axis that holds ``largest``."""
    raw = (largest or 1.0) / _TICKS
    power = 10 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * (1 - 1e-9))
    return step, step * math.ceil(largest / step - 1e-9) if largest else step


def _ticks(step: float, high: float) -> list[float]:
    return [step * i for i in range(round(high / step) + 1)]


def _text(where: str, text: str, *, dx: int = 0, dy: int = 0, anchor: str = "start") -> str:
    x, y = where.split(",")
    return f'<text x="{x}" y="{y}" dx="{dx}" dy="{dy}" text-anchor="{anchor}">{escape(text)}</text>'

"""Elements of SVG as escaped markup, and what every chart is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup, escape

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

WIDE, NARROW = "wide", "narrow"
"""A chart is drawn twice: for a desktop's card and for a phone's width, so that its words are as large on both."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A chart, its words, and the same as a table.

    Attributes:
      name: in addresses of files; letters, digits and dashes.
      title: for people.
      summary: one sentence that says what is to be seen; read to who does not see it.
      pictures: the SVG, by size.
      legend: (class of the colour, words); empty where one series needs none.
      columns: heads of the table.
      rows: its cells, as words.
      note: where the figures are from, if that is not plain.
    """

    name: str
    title: str
    summary: str
    pictures: Sequence[Markup]
    legend: Sequence[tuple[str, str]] = ()
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """The size of a picture and of the margins around its plot, in units that are pixels on a desktop."""

    width: float
    height: float
    left: float = 52.0
    right: float = 14.0
    top: float = 12.0
    bottom: float = 30.0

    @property
    def plot_width(self) -> float:
        """Between the margins."""
        return self.width - self.left - self.right

    @property
    def plot_height(self) -> float:
        """Between the margins."""
        return self.height - self.top - self.bottom

    def x(self, part: float) -> float:
        """Of a part of the width, 0 to 1."""
        return self.left + part * self.plot_width

    def y(self, part: float) -> float:
        """Of a part of the height, 0 at the bottom."""
        return self.height - self.bottom - part * self.plot_height


FRAMES = {WIDE: Frame(width=560, height=232), NARROW: Frame(width=340, height=220, left=46, right=10)}
WHOLE = FRAMES | {WIDE: Frame(width=1140, height=260)}
"""Of a chart that has the page's width to itself."""


def el(tag: str, /, *children: object, **attributes: object) -> Markup:
    """One element; children that are no markup are escaped, and so are values.

    ``class_`` is ``class``; underscores in other names are dashes; a value of None leaves the attribute out; floats
    are rounded to a hundredth.
    """
    told = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escape(_plain(value))}"'
        for name, value in attributes.items()
        if value is not None
    )
    inside = "".join(escape(child) for child in children)
    return Markup(f"<{tag}{told}>{inside}</{tag}>")  # noqa: S704 - words of ours, and what was escaped above


def picture(name: str, size: str, frame: Frame, title: str, summary: str, parts: Iterable[object]) -> Markup:
    """The whole SVG, named by its title and described by its summary."""
    head, said = f"{name}-{size}-t", f"{name}-{size}-d"
    return el(
        "svg",
        el("title", title, id=head),
        el("desc", summary, id=said),
        *parts,
        class_=f"chart {size}",
        viewBox=f"0 0 {frame.width:g} {frame.height:g}",
        role="img",
        aria_labelledby=f"{head} {said}",
        data_name=name,
    )


def path(points: Sequence[tuple[float, float]]) -> str:
    """Straight lines through points."""
    return "M" + "L".join(f"{x:.2f} {y:.2f}" for x, y in points)


def _plain(value: object) -> str:
    return f"{round(value, 2):g}" if isinstance(value, float) else str(value)

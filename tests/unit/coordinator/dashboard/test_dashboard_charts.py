"""Charts: what is drawn is what the table says, whatever the figures are."""

import math
import re
import xml.etree.ElementTree as ElementTree

import pytest

from coordinator.dashboard.budgets import Curve
from coordinator.dashboard.charts.bars import Bar, lying_bars, stacked_bars
from coordinator.dashboard.charts.lines import Series, line_chart
from coordinator.dashboard.charts.scale import number, seconds, size, ticks
from coordinator.dashboard.charts.svg import el
from coordinator.dashboard.charts.timeline import MOST_CLIENTS, timeline
from coordinator.dashboard.pages.privacy import PrivacyPage
from coordinator.dashboard.pages.run import Attempt
from coordinator.dashboard.views import privacy_charts

HOSTILE = '"><script>alert(1)</script>'


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (0, 0), (-3, 7), (1e-9, 2e-9), (5, 5), (0, 1e12), (0.1, 0.1000001), (-2, -1)]
)
def test_ticks_are_few_rising_and_around_the_values(low, high):
    marks = ticks(low, high)
    assert 2 <= len(marks) <= 12
    assert marks == sorted(set(marks))
    assert marks[0] <= low + 1e-12
    assert marks[-1] >= high - 1e-12


@pytest.mark.parametrize("end", [math.inf, math.nan])
def test_an_axis_without_an_end_is_refused(end):
    with pytest.raises(ValueError, match="finite"):
        ticks(0, end)


def test_numbers_sizes_and_spans_as_people_read_them():
    assert [number(v) for v in (0, 0.12345, 12.3, 1234.5, 2.5e-8, math.inf, math.nan, None)] == [
        "0", "0.123", "12.3", "1,234", "2.5e-8", "\N{INFINITY}", "\N{EN DASH}", "\N{EN DASH}",
    ]  # fmt: skip
    assert [size(v) for v in (0, 999, 1000, 999_600, 2_500_000)] == [
        "0 B",
        "999 B",
        "1 kB",
        "1 MB",
        "2.5 MB",
    ]
    assert [seconds(v) for v in (0.5, 12, 90, 3600, 90_000, 200_000)] == [
        "500 ms", "12 s", "1 min 30 s", "1 h", "1 d 1 h", "2 d 7 h",
    ]  # fmt: skip


def pictures_of(chart):
    """Both pictures as trees: each is well-formed XML."""
    return [ElementTree.fromstring(str(p)) for p in chart.pictures]


def test_a_point_for_each_finite_value_and_a_dash_for_the_others():
    points = [(1, 0.5), (2, math.nan), (3, math.inf), (4, 0.25)]
    chart = line_chart("c", "Loss", [Series(label="loss", points=points)])
    for tree in pictures_of(chart):
        assert len(tree.findall("circle")) == 2
        assert len([r for r in tree.iter("rect") if r.get("class") == "hit"]) == 2
    assert [row[1] for row in chart.rows] == ["0.5", "\N{EN DASH}", "\N{EN DASH}", "0.25"]
    assert "from 0.5 at 1 to 0.25 at round 4" in chart.summary


@pytest.mark.parametrize("points", [[], [(1, math.nan)]])
def test_nothing_to_draw_is_no_chart(points):
    assert line_chart("c", "Loss", [Series(label="loss", points=points)]) is None
    assert stacked_bars("c", "Bytes", ["up"], []) is None
    assert lying_bars("c", "Bytes", ["up"], [], of="Method") is None
    assert timeline([]) is None


def test_one_value_and_equal_values_are_drawn_within_the_frame():
    for points in ([(1, 0.3)], [(1, 7.0), (2, 7.0)], [(1, -5.0), (2, 1e9)]):
        for tree in pictures_of(line_chart("c", "t", [Series(label="x", points=points)])):
            _, _, width, height = map(float, tree.get("viewBox").split())
            assert len(tree.findall("circle")) == len(points)
            for dot in tree.findall("circle"):
                assert 0 <= float(dot.get("cx")) <= width
                assert 0 <= float(dot.get("cy")) <= height


def test_words_of_others_are_escaped_in_elements_and_attributes():
    charts = [
        line_chart("c", HOSTILE, [Series(label=HOSTILE, points=[(1, 1.0)])]),
        lying_bars("c", HOSTILE, [HOSTILE], [Bar(label=HOSTILE, parts=(1.0,), note=HOSTILE)], of="x"),
        timeline([attempt(0, {HOSTILE: "failed"}, reason=HOSTILE)]),
    ]
    for chart in charts:
        for drawn in chart.pictures:
            assert "<script" not in drawn
            ElementTree.fromstring(str(drawn))
    assert str(el("text", "<b>", title='"')) == '<text title="&#34;">&lt;b&gt;</text>'


def attempt(index, outcomes, *, state="CLOSED", reason=""):
    return Attempt(
        round_index=index,
        attempt=0,
        state=state,
        reason=reason,
        started_at=0.0,
        closed_at=2.0,
        relative_error=None,
        bytes_up=1,
        bytes_down=1,
        outcomes=outcomes,
    )


def test_every_outcome_is_a_cell_with_a_sign_and_a_word():
    outcomes = {"a": "answered", "b": "late", "c": "failed", "d": "asked", "e": "not drawn", "f": "rejected"}
    chart = timeline([attempt(0, outcomes), attempt(1, {"a": "answered"}, state="ABORTED", reason="too few")])
    for tree in pictures_of(chart):
        cells = [p for p in tree.findall("path") if p.get("class", "").startswith("cell")]
        assert sum(p.get("d").count("M") for p in cells) == 7
        assert len([t for t in tree.iter("text") if t.get("class") == "sign"]) == 5
    assert {words.split()[-1] for _, words in chart.legend} == {
        "answered", "late", "failed", "asked", "drawn", "rejected",
    }  # fmt: skip
    assert chart.rows[1][2:] == ["aborted", "2 s", "\N{EN DASH}", "\N{EN DASH}", "too few"]


def test_of_many_clients_those_with_trouble_are_drawn():
    many = {f"c{i:03}": "answered" for i in range(100)} | {"zz": "failed"}
    chart = timeline([attempt(0, many)])
    names = [t.text for t in pictures_of(chart)[0].iter("text") if t.get("class") == "name"]
    assert len(names) == MOST_CLIENTS
    assert "zz" in names
    assert re.search(r"77 clients", chart.note)


def test_budgets_that_were_charged_alike_share_a_line():
    same = [(0.0, 1.0), (60.0, 2.0)]
    curves = [Curve(client_id=c, unit="example", points=same) for c in "abcde"]
    curves.append(Curve(client_id="f", unit="example", points=[(60.0, 3.0)]))
    page = PrivacyPage(gauges=[], curves=curves, is_stale=False, head=None, trouble="")
    (chart,) = privacy_charts(page)
    assert [words for _, words in chart.legend] == ["a, b and 3 more", "f"]
    assert "alike" in chart.note

"""Words below the axis of a chart: never over each other, never outside of the picture."""

import re
from itertools import pairwise

import pytest

from coordinator.dashboard.charts.lines import Axes, Series, line_chart

WORDS = re.compile(r'<text x="([\d.]+)" y="[\d.]+" class="tick mid">([^<]*)</text>')


@pytest.mark.parametrize(
    "places",
    [range(1, 4), range(1, 201), [0, 58, 60], [0, 1, 2, 3, 4, 5000], [0, 4999, 5000], [7]],
    ids=["few", "many", "late pair", "early crowd", "late crowd", "one"],
)
@pytest.mark.parametrize("show_x", [lambda x: f"{x:g}", lambda x: f"21 Nov 21:{int(x) % 60:02d}"])
@pytest.mark.parametrize("is_wide", [False, True])
def test_words_below_the_axis_do_not_touch_and_stay_in_the_picture(places, show_x, is_wide):
    series = [Series(label="a", points=[(float(x), 1.0) for x in places])]
    chart = line_chart("n", "N", series, Axes(show_x=show_x), is_wide=is_wide)
    for picture in chart.pictures:
        width = float(re.search(r'viewBox="0 0 ([\d.]+)', str(picture))[1])
        words = [(float(x), 7 * len(text)) for x, text in WORDS.findall(str(picture))]
        assert words
        assert all(x + size / 2 <= width + 0.01 for x, size in words)
        for (x, size), (next_x, next_size) in pairwise(words):
            assert next_x - next_size / 2 >= x + size / 2 + 6

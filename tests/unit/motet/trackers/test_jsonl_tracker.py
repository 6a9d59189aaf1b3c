"""Lines of a file: each round once, whole or not at all."""

import json

import pytest

from motet.trackers.figures import RoundFigures, figures_from_json
from motet.trackers.to_jsonl import FILE, JsonlTracker


def figures(index, **given):
    return RoundFigures(run_id="r-1", round_index=index, figures={"relative_error": 0.5}, **given)


def test_a_line_is_a_round_and_reads_back():
    told = figures(2, at=5.0, clients={"a": {"share": 0.25}})
    assert figures_from_json(told.to_json()) == told
    assert told.flat() == {"relative_error": 0.5, "client/a/share": 0.25}
    with pytest.raises(ValueError, match="figures"):
        figures_from_json("{}")


def test_a_torn_line_is_cut_off_and_its_round_is_written_again(tmp_path):
    first = JsonlTracker(tmp_path)
    assert first.last_round() == -1
    first.record(figures(0))
    first.record(figures(1))
    path = tmp_path / FILE
    whole = path.read_bytes()
    path.write_bytes(whole + figures(2).to_json().encode()[:20])
    again = JsonlTracker(tmp_path)
    assert again.last_round() == 1
    assert path.read_bytes() == whole
    again.record(figures(2))
    assert [json.loads(line)["round"] for line in path.read_text().splitlines()] == [0, 1, 2]

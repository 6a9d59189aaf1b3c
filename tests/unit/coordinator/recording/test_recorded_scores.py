"""Held-out figures in a tracker's file: of what each round starts from, and of the last adapter at the end."""

import json

import pytest
from judged_run import MEAN_ACCURACY, judged_run

from coordinator.recording.recorder import DONE, Recorder
from coordinator.storage.store import Store
from motet.trackers.to_jsonl import FILE


def test_a_trackers_file_has_the_whole_curve_once_also_when_it_is_caught_up(tmp_path):
    store = Store.open(tmp_path / "motet.db")
    run, folder = judged_run(store, more="trackers: [jsonl]\n"), tmp_path / "trackers"
    recorder = Recorder(store, folder, look_s=0.01)
    recorder.around(lambda _run: None)(run)

    def lines():
        return [json.loads(line) for line in (folder / run / FILE).read_text().splitlines()]

    told = lines()
    assert [line["round"] for line in told] == [0, 1, 2, 3]
    assert [line["figures"]["held_out_accuracy"] for line in told] == pytest.approx(
        list(MEAN_ACCURACY.values())
    )
    assert [sorted(c for c, own in line["clients"].items() if "held_out_loss" in own) for line in told] == [
        ["a"],
        ["a", "b"],
        ["a", "b"],
        ["a", "b"],
    ]
    assert set(told[-1]["figures"]) == {"held_out_accuracy", "held_out_loss", "held_out_examples"}
    (folder / run / DONE).unlink()
    recorder.catch_up().join(60)
    assert lines() == told
    store.close()

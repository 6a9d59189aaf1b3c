"""Held-out figures on the page of a run, and in what is downloaded of it."""

import csv
import io
import json

import pytest
from dashboard_home import play, site, submit
from judged_run import FIGURES, MEAN_ACCURACY, judged_run

from coordinator.dashboard.charts.scale import NONE
from coordinator.dashboard.pages.run import run_page
from coordinator.dashboard.views import MOST_CLIENTS, learning_charts
from coordinator.storage.scores import Score


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    with site(tmp_path_factory.mktemp("home")) as made:
        judged_run(made.store)
        submit(made.store, "r-plain", private=False)
        play(made.store, "r-plain", private=False)
        yield made


def charts(made, run_id):
    return {chart.name: chart for chart in learning_charts(run_page(made.records, run_id))}


def test_the_mean_over_clients_is_a_curve_from_before_training_to_the_last_adapter(judged):
    rows = charts(judged, "r-judged")["held-out-accuracy"].rows
    assert [(int(x), value) for x, value in rows] == [
        (x, f"{100 * v:.0f} %") for x, v in MEAN_ACCURACY.items()
    ]
    assert [x for x, _ in charts(judged, "r-judged")["held-out-loss"].rows] == ["0", "1", "2", "3"]


def test_each_client_that_tells_has_a_line_and_a_bar_and_who_tells_nothing_has_none(judged):
    found = charts(judged, "r-judged")
    assert found["accuracy-by-client"].columns == ["Round", "a", "b"]
    assert [row[2] for row in found["accuracy-by-client"].rows] == [NONE, "20 %", "30 %", "50 %"]
    assert found["newest-accuracy"].rows == [["a", "90 %"], ["b", "50 %"]]


def test_a_run_that_asks_for_no_figures_shows_none(judged):
    assert not set(charts(judged, "r-plain")) & {"held-out-accuracy", "accuracy-by-client", "newest-accuracy"}
    client = judged.sign_in()
    assert "Held-out CSV" not in client.get("/runs/r-plain").text
    assert "Held-out CSV" in client.get("/runs/r-judged").text


def test_every_figure_is_downloaded(judged):
    client = judged.sign_in("researcher")
    answer = client.get("/runs/r-judged/held-out.csv")
    assert answer.headers["content-disposition"] == 'attachment; filename="r-judged-held-out.csv"'
    rows = [*csv.DictReader(io.StringIO(answer.text))]
    assert {(int(r["rounds_done"]), r["client"]): (float(r["loss"]), float(r["accuracy"])) for r in rows} == {
        (done, client): figures[:2] for done, of in FIGURES.items() for client, figures in of.items()
    }
    page = json.loads(client.get("/runs/r-judged/run.json").text)
    assert [s["num_examples"] for s in page["scores"] if s["client_id"] == "b"] == [10, 10, 10]
    curve = next(f for f in page["figures"] if f["name"] == "held_out_accuracy")
    assert curve["points"] == [[x, pytest.approx(v)] for x, v in MEAN_ACCURACY.items()]
    rounds = [*csv.DictReader(io.StringIO(client.get("/runs/r-judged/rounds.csv").text))]
    assert [float(r["held_out_accuracy"]) for r in rounds] == pytest.approx([0.5, 0.6, 0.8]), (
        "of what a round made"
    )


def test_who_may_not_see_scores_sees_no_page_of_them(judged):
    assert judged.sign_in("client").get("/runs/r-judged/held-out.csv").status_code == 403
    assert judged.stranger.get("/runs/r-judged/held-out.csv").status_code == 401


def test_of_many_clients_those_have_charts_that_the_model_does_worst_at(tmp_path):
    with site(tmp_path) as made:
        run = judged_run(made.store)
        many = {f"n{i:02}": Score(loss=1.0, accuracy=i / 100, num_examples=5) for i in range(60)}
        made.store.scores.note(run, 3, many)
        chart = charts(made, run)["newest-accuracy"]
        assert [row[0] for row in chart.rows] == [f"n{i:02}" for i in range(MOST_CLIENTS)]
        assert f"{MOST_CLIENTS} of 62" in chart.note
        assert made.sign_in().get(f"/runs/{run}/held-out.csv").text.count("\n") == 1 + 5 + 2 + 60


def test_loss_is_charted_where_the_task_has_no_accuracy(tmp_path):
    with site(tmp_path) as made:
        run = submit(made.store, "r-words", private=False)
        play(made.store, "r-words", private=False)
        made.store.scores.note(run, 0, {"a": Score(loss=4.5, accuracy=None, num_examples=9)})
        made.store.scores.note(run, 1, {"a": Score(loss=3.5, accuracy=None, num_examples=9)})
        found = charts(made, run)
        assert "held-out-accuracy" not in found
        assert [row[1] for row in found["loss-by-client"].rows] == ["4.5", "3.5"]

"""Held-out figures over the control API, in ``motet run show`` and in ``motet watch``."""

import contextlib
import json

import pytest
from control_house import house
from judged_run import FIGURES, MEAN_ACCURACY, judged_run

from motet.cli.main import main
from motet.connection.errors import NotAllowedError


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with house(tmp_path_factory.mktemp("house")) as made:
        judged_run(made.store)
        yield made


def motet(served, capsys, *arguments):
    with contextlib.suppress(SystemExit):  # what it printed is looked at
        main([*arguments, "--coordinator", served.address, "--identity", str(served.identity("operator"))])
    return capsys.readouterr().out


def test_the_api_gives_the_mean_of_each_adapter_and_what_each_client_told(served):
    people = served.connect("auditor")
    told = people.metrics.list("r-judged", name="held_out_accuracy")
    assert {m.round_index: pytest.approx(m.value) for m in told} == MEAN_ACCURACY
    scores = people.metrics.scores("r-judged")
    assert {(s.rounds_done, s.client_id): (s.loss, s.accuracy, s.num_examples) for s in scores} == {
        (done, client): figures for done, of in FIGURES.items() for client, figures in of.items()
    }
    rounds = people.rounds.list("r-judged")
    first = {c.client_id: (c.held_out_accuracy, c.held_out_examples) for c in rounds[0].contributions}
    assert first == {"a": (0.5, 30), "b": (None, 0), "c": (None, 0)}


def test_no_client_sees_what_another_told(served):
    with pytest.raises(NotAllowedError):
        served.connect("client", "a").metrics.scores("r-judged")


def test_show_prints_the_curve_and_every_figure_as_json(served, capsys):
    shown = motet(served, capsys, "run", "show", "r-judged")
    assert "held-out accuracy" in shown
    assert "80.0%" in shown
    row = json.loads(motet(served, capsys, "run", "show", "r-judged", "--json"))
    assert [h["accuracy"] for h in row["held_out"]] == pytest.approx(list(MEAN_ACCURACY.values()))
    last = row["held_out"][-1]
    assert (last["rounds_done"], last["num_examples"]) == (3, 40)
    assert [c["client_id"] for c in last["clients"]] == ["a", "b"]
    of_b = [c for c in row["rounds"][1]["clients"] if c["client_id"] == "b"]
    assert (of_b[0]["held_out_accuracy"], of_b[0]["held_out_examples"]) == (0.2, 10)


def test_watch_tells_each_clients_figures_and_those_of_the_last_adapter(served, capsys):
    told = motet(served, capsys, "watch", "r-judged")
    assert "round 1: b received, 700 B, before it accuracy 20.0%, loss 1.2 held out" in told
    assert "the last adapter: accuracy 80.0%, loss 0.5 on 40 held-out examples of 2 clients" in told

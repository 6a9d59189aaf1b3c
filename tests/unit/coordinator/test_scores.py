"""Held-out figures at the coordinator: from whom they are taken, what is refused, and those of the last adapter."""

import dataclasses
import math

import pytest
from small_federation import PRIVATE, RECIPE, honest_reply

from aggregation.errors import MalformedUpdateError
from client.protect import refuse
from coordinator.engine.admission import check_score
from coordinator.engine.grid import GridFailure
from coordinator.engine.scoring import LAST_SCORE_S
from coordinator.storage.models import ScoreRow
from coordinator.storage.scores import means
from motet.recipe import parse_recipe
from motet.wire.messages import TrainReply

JUDGED = RECIPE + "evaluation: {held_out: 0.2, max_examples: 50}\n"
TOLD = {"held_out_examples": 20, "held_out_loss": 0.75, "held_out_accuracy": 0.5}


def judging(order, **told):
    """An honest client that tells these figures, of a round's start or of the last adapter."""
    plain = honest_reply(order)
    if order.asks_score:
        plain = dataclasses.replace(plain, payload=b"", payload_sha256="", num_steps=0, num_examples=0)
    return dataclasses.replace(plain, **(TOLD | told))


def rows(federation, run):
    return {
        (r.rounds_done, r.client_id): (r.loss, r.accuracy, r.num_examples)
        for r in federation.store.scores.of(run)
    }


@pytest.fixture
def run(federation):
    return federation.store.submit_run(parse_recipe(JUDGED))


def test_figures_of_each_rounds_start_and_of_the_last_adapter_are_recorded_from_those_who_tell_them(
    federation, run
):
    federation.grid.handlers |= {"a": judging, "b": lambda o: judging(o, held_out_accuracy=0.25)}
    result = federation.engine().run(run)
    assert result.state == "FINISHED"
    found = rows(federation, run)
    assert set(found) == {(done, client) for done in range(4) for client in "ab"}
    assert (found[0, "a"], found[3, "b"]) == ((0.75, 0.5, 20), (0.75, 0.25, 20))
    questions = [o for o in federation.grid.sent if o.asks_score]
    assert {(o.client_id, o.round_index, o.lora_rank, o.reservation_id) for o in questions} == {
        ("a", 3, 1, ""),
        ("b", 3, 2, ""),
    }
    assert all(o.payload for o in questions)


def test_a_run_whose_clients_tell_nothing_asks_nothing_and_a_recipe_without_evaluation_neither(
    federation, run
):
    federation.engine().run(run)
    plain = federation.store.submit_run(parse_recipe(RECIPE), run_id="r-plain")
    federation.engine().run(plain)
    assert not [o for o in federation.grid.sent if o.asks_score]
    assert not rows(federation, run)


@pytest.mark.parametrize(
    "answer",
    [
        lambda order: refuse(order, "policy_refused", "clause share_accuracy: no"),
        lambda order: GridFailure(code="client_unreachable", message="gone"),
        lambda order: judging(order, held_out_accuracy=7.0),
        lambda order: dataclasses.replace(judging(order), client_id="b"),
        None,
    ],
    ids=["refuses", "is gone", "lies", "answers for another", "is silent"],
)
def test_who_does_not_answer_the_last_question_is_passed_over_and_the_run_ends_well(federation, run, answer):
    def of_a(order):
        return answer(order) if order.asks_score else judging(order)

    federation.grid.handlers |= {"a": of_a, "b": judging}
    if answer is None:
        silent = {"a": None}
        federation.grid.on_send = lambda o: federation.grid.handlers.update(silent if o.asks_score else {})
    began = federation.clock.time
    assert federation.engine().run(run).state == "FINISHED"
    assert federation.clock.time - began < LAST_SCORE_S + 5
    found = rows(federation, run)
    assert (3, "b") in found
    assert (3, "a") not in found
    taken_back = [("a", f"{run}/3/0")] if answer is None else []
    assert federation.grid.cancelled == taken_back, "a question that nobody waits for is taken back"
    assert federation.store.get_run(run).reason == ""


def test_after_a_restart_only_those_are_asked_who_have_not_told(federation, run):
    federation.grid.handlers |= {"a": judging, "b": judging}
    told = federation.store.scores.note

    def dies(*given):
        told(*given)
        raise KeyboardInterrupt

    federation.store.scores.note = dies
    with pytest.raises(KeyboardInterrupt):
        federation.engine().run(run)
    first = [o.client_id for o in federation.grid.sent if o.asks_score]
    federation.store.scores.note = told
    before = rows(federation, run)
    assert federation.engine().run(run).state == "FINISHED"
    again = [o.client_id for o in federation.grid.sent if o.asks_score][len(first) :]
    assert set(again) == {"a", "b"} - {client for done, client in before if done == 3}
    assert {client for done, client in rows(federation, run) if done == 3} == {"a", "b"}


IMPOSSIBLE = [
    {"held_out_accuracy": 1.01},
    {"held_out_accuracy": -0.01},
    {"held_out_accuracy": math.nan},
    {"held_out_loss": -1.0},
    {"held_out_loss": math.inf},
    {"held_out_loss": math.nan},
    {"held_out_loss": 1e30},
    {"held_out_examples": 51},
    {"held_out_examples": -1},
    {"held_out_examples": 0},
    {"withholds_metrics": True},
]


def reply_with(**told):
    return TrainReply(run_id="r", round_index=0, attempt=0, client_id="a", **(TOLD | told))


@pytest.mark.parametrize("told", IMPOSSIBLE, ids=str)
def test_figures_that_can_not_be_are_refused(told):
    recipe = parse_recipe(JUDGED)
    check_score(reply_with(), recipe)
    with pytest.raises(MalformedUpdateError):
        check_score(reply_with(**told), recipe)


def test_figures_that_nobody_asked_for_are_refused_and_so_is_an_accuracy_without_classes():
    private = parse_recipe(PRIVATE).model_copy(update={"evaluation": parse_recipe(JUDGED).evaluation})
    for recipe in (parse_recipe(RECIPE), private):
        with pytest.raises(MalformedUpdateError, match="none may be"):
            check_score(reply_with(), recipe)
    task = parse_recipe(JUDGED).task.model_copy(update={"kind": "causal-lm", "num_labels": None})
    words = parse_recipe(JUDGED).model_copy(update={"task": task})
    check_score(reply_with(held_out_accuracy=0.0), words)
    with pytest.raises(MalformedUpdateError, match="the task has none"):
        check_score(reply_with(), words)


def test_a_client_that_lies_about_its_figures_is_refused_for_it_and_no_figure_of_it_is_kept(federation, run):
    federation.grid.handlers |= {
        "a": lambda o: judging(o, held_out_loss=math.nan),
        "b": judging,
        "c": judging,
    }
    assert federation.engine().run(run).state == "FINISHED"
    refused = [c.error_code for c in federation.store.contributions(run) if c.client_id == "a"]
    assert set(refused) == {"bad_score"}
    assert {client for _, client in rows(federation, run)} == {"b", "c"}


def test_the_mean_weighs_each_client_by_its_examples_and_survives_any_sizes():
    def row(client, loss, accuracy, count, done=1):
        return ScoreRow(
            run_id="r", rounds_done=done, client_id=client, loss=loss, accuracy=accuracy, num_examples=count
        )

    told = means([row("a", 1.0, 1.0, 30), row("b", 3.0, 0.0, 10), row("a", 2.0, None, 5, done=2)])
    assert told[1] == {"held_out_loss": 1.5, "held_out_accuracy": 0.75, "held_out_examples": 40.0}
    assert told[2] == {"held_out_loss": 2.0, "held_out_examples": 5.0}
    large = means([row("a", 1e18, 1.0, 2**31), row("b", 1e18, 1.0, 2**31)])
    assert large[1]["held_out_loss"] == pytest.approx(1e18)


def test_while_a_run_waits_for_the_last_figures_it_says_for_whose(federation, run):
    federation.grid.handlers |= {"a": judging, "b": judging}
    silent, said = {"a": None, "b": None}, set()
    federation.grid.on_send = lambda o: federation.grid.handlers.update(silent if o.asks_score else {})
    federation.clock.on_sleep = lambda: said.add(federation.store.get_run(run).reason)
    assert federation.engine(poll_s=0.5).run(run).state == "FINISHED"
    assert "waits for figures of the last adapter on held-out examples: a, b" in said

"""Whom the grid over Flower asks after orders: a few a second of a crowd, in turn, nobody for a round that is past."""

import pytest
from enrolling import public_pem
from fake_superlink import Site

import coordinator.engine.flower_grid as flower_grid
from coordinator.engine.allowance import Allowance
from coordinator.engine.flower_link import NotTakenError
from coordinator.engine.grid import GridFailure

SILENT = 50
LOOK_S, FOR_S = 0.15, 30.0


@pytest.fixture
def site(tmp_path):
    made = Site(tmp_path)
    yield made
    made.store.close()


def crowd(site):
    """Clients of one key: none of them answers anything here."""
    names = [f"c{i:02d}" for i in range(SILENT)]
    for name in names:
        site.store.register_client(name, public_pem(site.keys["a"]))
    site.grid.online()
    return [site.send(name)[1] for name in names]


def questions(site):
    return [(node, what) for q, (node, what) in site.link.pushed.items() if q.startswith("q")]


def look_on(site, message_ids, seconds=FOR_S):
    until = site.time + seconds
    while site.time < until:
        site.time += LOOK_S
        site.grid.collect(message_ids)


def most_questions(seconds):
    return flower_grid.QUESTIONS_AT_ONCE + flower_grid.QUESTIONS_A_SECOND * seconds + 1


def test_a_few_silent_clients_are_asked_as_soon_as_they_are_late(site):
    sent = [site.send(name)[1] for name in ("a", "b")]
    look_on(site, sent, flower_grid.ASK_AFTER_S + 2 * LOOK_S)
    assert len(questions(site)) == 2


def test_of_a_crowd_of_silent_clients_a_few_are_asked_a_second_and_each_has_its_turn(site):
    sent = crowd(site)
    look_on(site, sent)
    asked = questions(site)
    assert len(asked) <= most_questions(FOR_S - flower_grid.ASK_AFTER_S)
    assert {what for _, what in asked[:SILENT]} == {c for c in site.link.pushed if c.startswith("c")}


def test_without_the_allowance_a_crowd_is_asked_all_at_once(site, monkeypatch):
    monkeypatch.setattr(Allowance, "take", lambda _self: True)  # the control
    sent = crowd(site)
    look_on(site, sent)
    assert len(questions(site)) > most_questions(FOR_S - flower_grid.ASK_AFTER_S)


def test_nobody_is_asked_after_an_order_of_a_round_that_is_past_and_its_answer_is_still_taken(site):
    order, late, carrier = site.send("a")
    site.send("b", round_index=order.round_index + 1)
    look_on(site, [late])
    assert questions(site) == []
    assert site.grid.is_known(late)
    site.link.bring(carrier, site.seal(order, b"late"))
    assert site.outcome(late).payload == b"late"


def test_the_adapter_of_an_order_is_let_go_once_its_round_is_past(site):
    order, late, _ = site.send("a", payload=b"adapter")
    assert site.grid._sent[late].order.payload == b"adapter"  # it may have to be sent again
    site.send("b", round_index=order.round_index + 1)
    assert site.grid._sent[late].order.payload == b""


def test_the_order_of_another_run_makes_no_order_past(site):
    _, waiting, carrier = site.send("a")
    site.send("b", run_id="r-2", round_index=7)
    look_on(site, [waiting])
    assert questions(site)[0][1] == carrier


def test_an_order_that_never_left_ends_with_its_round(site, monkeypatch):
    def not_taken(*_given, **_named):
        raise NotTakenError("not signed on")

    monkeypatch.setattr(site.link, "push", not_taken)
    monkeypatch.setattr(site.link, "online_nodes", set)
    order, never_left, _ = site.send("a")
    look_on(site, [never_left], 5.0)
    assert site.grid.is_known(never_left)  # it is offered until somebody takes it
    site.send("b", round_index=order.round_index + 1)
    outcome = site.outcome(never_left)
    assert isinstance(outcome, GridFailure)
    assert outcome.code == "client_unreachable"
    assert not site.grid.is_known(never_left)


def test_an_allowance_fills_again_up_to_what_it_holds():
    now = [0.0]
    allowance = Allowance(2.0, 3, lambda: now[0])
    assert [allowance.take() for _ in range(4)] == [True, True, True, False]
    now[0] = 0.5
    assert [allowance.take() for _ in range(2)] == [True, False]
    now[0] = 100.0
    assert [allowance.take() for _ in range(4)] == [True, True, True, False]

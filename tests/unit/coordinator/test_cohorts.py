"""Who is asked in a round: draws, over-selection, clients that join, vanish and return."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.rounds.cohort import asked, coin
from motet.asking import most_asked
from motet.recipe import RecipeError, parse_recipe

OPEN = """
name: open
base_model: {tiny: tiny-bert}
task: {kind: sequence-classification, num_labels: 2}
data: {path: none.jsonl}
adapter: {lora_rank: 2}
method: {name: flora}
cohort: {minimum: 2, deadline_s: 50 MORE}
training: {rounds: 4, local_steps: 2}
"""
PRIVACY = "privacy: {noise_multiplier: 1.0, sampling_rate: 0.1}\n"
FIVE = ["a", "b", "c", "d", "e"]


def text(more="", privacy=""):
    return OPEN.replace(" MORE", f", {more}" if more else "") + privacy


def draw(able, **given_):
    options = {
        "seed": 0,
        "round_index": 0,
        "attempt": 0,
        "draw_rate": 1.0,
        "minimum": 1,
        "over_select": None,
        **given_,
    }
    return asked(able, **options)


def asked_in(federation, run):
    """Round -> clients that were sent an order."""
    found = {}
    for order in federation.grid.sent:
        if order.run_id == run:
            found.setdefault(order.round_index, set()).add(order.client_id)
    return found


def states(federation, run, round_index):
    return {c.client_id: (c.state, c.error_code) for c in federation.store.contributions(run, round_index)}


# -- the draw --------------------------------------------------------------------------------------------------------


@given(
    able=st.sets(st.text("abcdefgh", min_size=1, max_size=4), min_size=1, max_size=12),
    seed=st.integers(0, 2**31),
    rate=st.floats(0.01, 1.0),
    minimum=st.integers(1, 5),
    over=st.none() | st.floats(1.0, 3.0),
)
def test_a_draw_asks_of_those_who_can_at_least_the_minimum_and_no_more_than_over_selection(
    able, seed, rate, minimum, over
):
    found = draw(able, seed=seed, draw_rate=rate, minimum=minimum, over_select=over)
    assert set(found) <= able
    assert len(found) >= min(minimum, len(able))
    most = most_asked(minimum, over)
    assert most is None or len(found) <= most
    assert found == draw(
        sorted(able, reverse=True), seed=seed, draw_rate=rate, minimum=minimum, over_select=over
    )


def test_without_options_everybody_is_asked():
    assert draw(FIVE) == tuple(FIVE)


@pytest.mark.parametrize(
    ("minimum", "over", "most"), [(10, 1.3, 13), (3, 1.3, 4), (4, 1.0, 4), (10, 1.1, 11)]
)
def test_over_selection_rounds_up_and_not_past_a_whole_number(minimum, over, most):
    assert most_asked(minimum, over) == most


def test_a_poisson_draw_takes_each_client_at_its_rate_and_independently_of_who_else_is_there():
    rounds, rate = 2000, 0.3
    alone = [draw(["a"], round_index=i, draw_rate=rate, minimum=0) for i in range(rounds)]
    crowd = [draw(FIVE, round_index=i, draw_rate=rate, minimum=0) for i in range(rounds)]
    assert ["a" in d for d in alone] == ["a" in d for d in crowd]
    for client in FIVE:
        hits = sum(client in d for d in crowd)
        assert abs(hits - rounds * rate) < 5 * (rounds * rate * (1 - rate)) ** 0.5
    pairs = sum("a" in d and "b" in d for d in crowd)
    assert abs(pairs - rounds * rate**2) < 5 * (rounds * rate**2 * (1 - rate**2)) ** 0.5
    assert len({len(d) for d in crowd}) > 3  # positive control: a fixed size would not do


def test_another_seed_round_or_attempt_draws_others():
    base = coin(0, 0, 0, "a")
    assert base not in {coin(1, 0, 0, "a"), coin(0, 1, 0, "a"), coin(0, 0, 1, "a"), coin(0, 0, 0, "b")}


def test_who_is_still_at_work_is_asked_last():
    free = draw(FIVE, minimum=2, over_select=1.5)
    assert len(free) == 3
    again = draw(FIVE, minimum=2, over_select=1.5, busy=set(free[:1]))
    assert free[0] not in again
    assert len(draw(FIVE, minimum=5, over_select=1.0, busy=set(FIVE))) == 5


# -- over-selection --------------------------------------------------------------------------------------------------


def test_a_round_closes_at_its_minimum_and_the_others_are_late(federation, honest):
    federation.grid.clients = FIVE
    run = federation.submit(text("over_select: 1.5"))
    held = {}

    def slow(order):
        if order.round_index == 0 and not held:
            held["client"] = order.client_id
        return None if order.client_id == held.get("client") and order.round_index == 0 else honest(order)

    original = federation.grid.collect

    def collect(ids):
        found = []
        for message_id in ids:
            order = federation.grid.pending.get(message_id)
            is_over = federation.store.closed_rounds(run)
            if order is not None and order.round_index == 0 and not is_over and slow(order) is None:
                continue
            found += original([message_id])
        return found

    federation.grid.collect = collect
    begun = federation.clock.time
    result = federation.engine().run(run)
    assert result.state == "FINISHED"
    assert federation.clock.time - begun < 50  # nobody waited for a deadline
    assert {len(c) for c in asked_in(federation, run).values()} == {3}
    kinds = sorted(states(federation, run, 0).values())
    assert kinds == [("LATE", "overtaken"), ("RECEIVED", ""), ("RECEIVED", "")]
    late = [m for m in federation.store.metrics(run) if m.name == "late_replies"]
    assert sum(m.value for m in late) >= 1


def test_a_private_run_charges_all_who_are_asked_also_those_whose_answer_was_not_needed(federation):
    federation.grid.clients = FIVE
    federation.grid.handlers = dict.fromkeys(FIVE, None)
    run = federation.submit(text("over_select: 1.5", PRIVACY))
    quick = []

    def on_sleep():
        for client in sorted(asked_in(federation, run).get(len(federation.store.closed_rounds(run)), ())):
            if len(quick) < 2:
                quick.append(client)
                del federation.grid.handlers[client]

    federation.clock.on_sleep = on_sleep
    original = federation.store.close_round

    def close(*args, **kwargs):
        original(*args, **kwargs)
        federation.store.request_cancel(run)

    federation.store.close_round = close
    from coordinator.errors import RunFailedError

    with pytest.raises(RunFailedError, match="cancelled"):
        federation.engine().run(run)
    asked_ = asked_in(federation, run)[0]
    assert len(asked_) == 3
    assert {c for c in FIVE if federation.store.spent_events(c)} >= asked_
    assert sorted(states(federation, run, 0).values()) == [
        ("FAILED", "overtaken"),
        ("RECEIVED", ""),
        ("RECEIVED", ""),
    ]
    (overtaken,) = asked_ - set(quick)
    told = [c for c, key in federation.grid.cancelled if key == f"{run}/0/0"]
    assert told == [overtaken]  # it is told to stop; nobody else is


def test_who_misses_a_deadline_is_not_told_to_stop(federation):
    federation.grid.clients = FIVE
    federation.grid.handlers = {"a": None}
    run = federation.submit(text())
    assert federation.engine().run(run).state == "FINISHED"
    assert ("FAILED", "deadline") in states(federation, run, 0).values()
    assert federation.grid.cancelled == []


def test_an_answer_that_an_order_was_abandoned_is_not_counted_as_late(federation, honest):
    from client.protect import refuse

    federation.grid.clients = FIVE
    run = federation.submit(text("over_select: 1.5"))
    told = {"n": 0}

    def unless_overtaken(order):
        if (order.client_id, f"{run}/{order.round_index}/{order.attempt}") in federation.grid.cancelled:
            told["n"] += 1
            return refuse(order, "cancelled", "the order was taken back")
        return honest(order)

    federation.grid.handlers = dict.fromkeys(FIVE, unless_overtaken)
    original = federation.grid.collect

    def one_at_a_time(ids):
        found = []
        for message_id in ids:
            order = federation.grid.pending.get(message_id)
            if order is None:
                continue
            is_told = (
                order.client_id,
                f"{run}/{order.round_index}/{order.attempt}",
            ) in federation.grid.cancelled
            if is_told or not found:
                found += original([message_id])
        return found

    federation.grid.collect = one_at_a_time
    assert federation.engine().run(run).state == "FINISHED"
    assert told["n"] >= 1
    assert ("FAILED", "overtaken") in states(federation, run, 0).values()
    assert not [m for m in federation.store.metrics(run) if m.name == "late_replies"]


def test_after_a_restart_a_round_that_has_its_minimum_asks_nobody_again(federation, monkeypatch):
    federation.grid.clients = FIVE
    run = federation.submit(text("over_select: 1.5"))

    class KilledError(BaseException):
        pass

    def die(*_args, **_kwargs):
        raise KilledError

    first = sorted(draw(FIVE, seed=parse_recipe(text("over_select: 1.5")).seed, minimum=2, over_select=1.5))
    federation.grid.handlers = {first[-1]: None}
    with monkeypatch.context() as patch:
        patch.setattr(federation.store, "close_round", die)
        with pytest.raises(KilledError):
            federation.engine().run(run)
    federation.grid.pending.clear()
    before = len(federation.grid.sent)
    federation.grid.on_send = lambda order: order.round_index or pytest.fail("round 0 was asked again")
    assert federation.engine().run(run).state == "FINISHED"
    assert len(federation.grid.sent) > before  # positive control: the later rounds were asked


def test_client_level_privacy_has_its_own_draw(federation):
    base = text(
        privacy="privacy: {unit: client, noise_multiplier: 1.0, sampling_rate: 0.5, expected_cohort: 2}\n"
    )
    base = base.replace("flora", "fedit").replace("minimum: 2, ", "")
    parse_recipe(base)  # positive control
    for option in ("draw_rate: 0.5", "over_select: 1.3"):
        with pytest.raises(RecipeError, match="a draw of its own"):
            parse_recipe(base.replace("deadline_s: 50", f"deadline_s: 50, {option}"))


def test_a_poisson_draw_of_rounds_asks_some_and_charges_only_them(federation):
    federation.grid.clients = FIVE
    run = federation.submit(text("draw_rate: 0.5", PRIVACY))
    result = federation.engine().run(run)
    assert result.state == "FINISHED"
    sizes = [len(c) for c in asked_in(federation, run).values()]
    assert all(2 <= n <= 5 for n in sizes)
    assert min(sizes) < 5
    for client in FIVE:
        rounds = sum(client in c for c in asked_in(federation, run).values())
        assert len(federation.store.spent_events(client, run)) == rounds


# -- clients that come and go ----------------------------------------------------------------------------------------


def test_clients_that_join_mid_run_take_part_from_the_next_round(federation, honest):
    federation.grid.clients = ["a", "b"]

    def answer(order):
        federation.grid.clients = ["a", "b", "c"]  # c joins while round 0 is open
        return honest(order)

    federation.grid.handlers = {"a": answer}
    run = federation.submit(text())
    federation.engine().run(run)
    found = asked_in(federation, run)
    assert found[0] == {"a", "b"}
    assert [found[i] for i in (1, 2, 3)] == [{"a", "b", "c"}] * 3


def test_a_client_that_vanishes_is_not_asked_and_one_that_returns_is_asked_again(federation, honest):
    federation.grid.clients = ["a", "b", "c"]
    there = {0: ["a", "b"], 1: ["a", "b"], 2: ["a", "b", "c"]}

    def answer(order):
        federation.grid.clients = there.get(order.round_index, ["a", "b", "c"])
        return honest(order)

    federation.grid.handlers = {"a": answer}
    run = federation.submit(text())
    assert federation.engine().run(run).state == "FINISHED"
    found = asked_in(federation, run)
    assert ["c" in found[i] for i in range(4)] == [True, False, False, True]


def test_a_client_that_vanishes_with_its_order_is_left_behind_at_the_deadline(federation):
    federation.grid.clients = ["a", "b", "c"]
    federation.grid.handlers = {"c": None}
    run = federation.submit(text())
    begun = federation.clock.time
    federation.engine().run(run)
    assert states(federation, run, 0)["c"] == ("FAILED", "deadline")
    assert federation.clock.time - begun >= 4 * 30  # positive control: each round waited for it


def test_answers_that_come_twice_from_all_count_once(federation, honest):
    run = federation.submit(text())
    original = federation.grid.collect
    federation.grid.clients = ["a", "b", "c"]
    federation.grid.collect = lambda ids: [pair for pair in original(ids) for _ in range(3)]
    federation.engine().run(run)
    doubles = [m.value for m in federation.store.metrics(run) if m.name == "duplicate_replies"]
    assert sum(doubles) == 4 * 3 * 2

"""Every effect follows its committed record and is due until that says done; see docs/adr/0012."""

import pytest
from small_federation import PRIVATE, SHAPE, honest_reply

from coordinator.engine.grid import GridClient
from coordinator.engine.round_engine import RoundEngine
from coordinator.errors import RunFailedError
from coordinator.rounds.effects import EFFECTS, orders_to_send
from coordinator.rounds.table import TRANSITIONS
from coordinator.storage.artifacts import ArtifactStore
from coordinator.storage.telling import Received, Sent
from motet.clock import SystemClock
from motet.recipe import parse_recipe


class Killed(BaseException):
    """Stands for kill -9: nothing catches it."""


class LookingGrid:
    """Answers one order a look; whenever an order leaves, a second process looks at the database."""

    def __init__(self, look):
        self._look, self._pending, self.sent = look, {}, []

    def online(self):
        return {c: GridClient(client_id=c) for c in "abc"}

    def send(self, order, *, deadline_s):
        self._look(order)
        self.sent.append((order.round_index, order.attempt, order.client_id))
        self._pending[f"m{len(self.sent)}"] = order
        return f"m{len(self.sent)}"

    def collect(self, message_ids):
        ready = [m for m in message_ids if m in self._pending]
        return [(m, honest_reply(self._pending.pop(m))) for m in ready[:1]]

    def is_known(self, message_id):
        return message_id in self._pending

    def cancel(self, client_id, key):
        pass

    def close(self):
        pass


@pytest.fixture
def store(place):
    store = place.open()
    yield store
    store.close()


@pytest.fixture
def other(place, store):
    """A second process's view of the same database."""
    store = place.open()
    yield store
    store.close()


def engine(store, grid, tmp_path):
    return RoundEngine(
        grid, store, ArtifactStore(tmp_path / "artifacts"), SystemClock(), shape=SHAPE, poll_s=0.001
    )


def due(store, run_id):
    """Orders that the database says are to be sent."""
    return {(c.round_index, c.attempt, c.client_id) for c in orders_to_send(store.contributions(run_id))}


def test_every_effect_of_the_table_has_a_record_that_says_when_it_is_due():
    of_table = {t.effect: set() for t in TRANSITIONS if t.effect}
    for transition in TRANSITIONS:
        if transition.effect:
            of_table[transition.effect].add(transition.name)
    assert {e.name: set(e.after) for e in EFFECTS} == of_table
    assert all(e.pending and e.done and e.repeated for e in EFFECTS)


def test_an_order_leaves_after_its_record_is_committed_and_its_charge_is_signed(
    store, other, place, tmp_path
):
    run = store.submit_run(parse_recipe(PRIVATE))
    seen = []

    def look(order):
        place_of = (order.round_index, order.attempt, order.client_id)
        seen.append((place_of in due(other, run), other.ledger.unpublished()))

    grid = LookingGrid(look)
    assert engine(store, grid, tmp_path).run(run).state == "FINISHED"
    assert len(seen) == 9
    assert all(is_due for is_due, _ in seen)
    assert [missing for _, missing in seen[::3]] == [
        0,
        0,
        0,
    ]  # before the first of each round; orders add entries
    assert due(other, run) == set()
    assert other.ledger.unpublished() == 0


@pytest.mark.parametrize(("dies_at", "which"), [(Sent, 1), (Received, 2)])
def test_an_order_is_due_until_its_answer_is_taken_and_a_start_sends_what_is_due(
    store, other, tmp_path, monkeypatch, dies_at, which
):
    run = store.submit_run(parse_recipe(PRIVATE))
    original, calls = store.tell, []

    def die_before(run_id, round_index, attempt, told):
        calls.extend(t for t in told if isinstance(t, dies_at))
        if len(calls) >= which:
            raise Killed
        original(run_id, round_index, attempt, told)

    with monkeypatch.context() as patch:
        patch.setattr(store, "tell", die_before)
        with pytest.raises(Killed):
            engine(store, LookingGrid(lambda _order: None), tmp_path).run(run)
    left = due(other, run)
    assert len(left) == (3 if dies_at is Sent else 2)
    again = LookingGrid(lambda _order: None)
    assert engine(store, again, tmp_path).run(run).state == "FINISHED"
    assert {o for o in again.sent if o[0] == 0} == left
    assert due(other, run) == set()


def test_what_is_committed_and_not_yet_published_is_published_by_the_next_start(
    store, other, tmp_path, monkeypatch
):
    run = store.submit_run(parse_recipe(PRIVATE))
    with monkeypatch.context() as patch:
        patch.setattr(type(store.ledger), "publish", lambda self: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            engine(store, LookingGrid(lambda _order: None), tmp_path).run(run)
    assert (
        other.ledger.unpublished() >= 3
    )  # positive control: the charges of the round are committed, and not signed
    other.ledger.reconcile()
    assert other.ledger.unpublished() == 0


def test_a_cancel_that_was_asked_for_is_due_until_the_run_has_ended(store, other, tmp_path, monkeypatch):
    run = store.submit_run(parse_recipe(PRIVATE))
    store.request_cancel(run)
    with monkeypatch.context() as patch:
        patch.setattr(store, "end_run", lambda *_args, **_kwargs: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            engine(store, LookingGrid(lambda _order: None), tmp_path).run(run)
    row = other.get_run(run)
    assert (row.cancel_requested, row.state) == (True, "RUNNING")
    with pytest.raises(RunFailedError, match="cancelled"):
        engine(store, LookingGrid(lambda _order: None), tmp_path).run(run)
    assert other.get_run(run).state == "CANCELLED"

"""The engine and the ledger: a charge is signed and on disk before its order leaves, whatever crashes."""

import pytest

from motet.audit.errors import JournalError, LedgerConflictError
from motet.audit.ledger import CoordinatorLedger
from privacy.ledger.entries import CancelRefused, Order, Reserve, RunDeclared, Settle
from privacy.ledger.rules import check_entries


class Killed(BaseException):
    """Stands for kill -9: nothing catches it."""


@pytest.fixture
def signed(federation, tmp_path):
    """What a stranger reads in the signed file at this moment."""
    return lambda: [e.body for e in CoordinatorLedger(tmp_path / "ledger").entries()]


def kinds(bodies):
    return [body.kind for body in bodies]


def watch_orders(federation, signed):
    """Whether the charge of each order that leaves is in the signed file at that moment."""
    seen = []

    def on_send(order):
        charged = {b.reservation_id for b in signed() if isinstance(b, Reserve)}
        seen.append(order.reservation_id in charged)

    federation.grid.on_send = on_send
    return seen


def test_no_order_leaves_before_its_charge_is_signed_and_on_disk(federation, recipes, signed):
    seen = watch_orders(federation, signed)
    federation.engine().run(federation.submit(recipes["private"]))
    assert seen == [True] * 9


def test_without_publishing_orders_would_leave_before_their_charge(federation, recipes, signed, monkeypatch):
    """Positive control."""
    seen = watch_orders(federation, signed)
    monkeypatch.setattr(federation.store.ledger, "publish", lambda: None)
    federation.engine().run(federation.submit(recipes["private"]))
    assert seen == [False] * 9


def test_each_charge_order_and_outcome_is_in_the_ledger_in_the_order_of_events(
    federation, recipes, signed, failure, honest
):
    federation.grid.handlers["c"] = lambda order: failure if order.round_index == 1 else honest(order)
    federation.engine().run(federation.submit(recipes["private"]))
    bodies = signed()
    assert kinds(bodies)[:2] == ["genesis", "run"]
    assert kinds(bodies)[2:11] == ["reserve"] * 3 + ["order"] * 3 + ["settle"] * 3
    assert [len([b for b in bodies if isinstance(b, k)]) for k in (RunDeclared, Reserve, Order)] == [1, 9, 9]
    assert len([b for b in bodies if isinstance(b, Settle)]) == 8
    assert [b.reason for b in bodies if isinstance(b, CancelRefused)] == [failure.code]
    assert check_entries(federation.store.ledger.file.entries()).findings == []
    assert {e.recorded_by for e in federation.store.ledger.file.entries()} == {"engine"}


def test_an_attempt_that_was_given_up_leaves_its_charges_and_says_so(
    federation, recipes, signed, failure, honest
):
    broken = lambda order: failure if order.attempt == 0 else honest(order)  # noqa: E731
    federation.grid.handlers = dict.fromkeys("abc", broken)
    federation.engine().run(federation.submit(recipes["private"]))
    bodies = signed()
    assert len([b for b in bodies if isinstance(b, Reserve)]) == 18
    assert len([b for b in bodies if isinstance(b, CancelRefused)]) == 9
    assert check_entries(federation.store.ledger.file.entries()).findings == []


@pytest.mark.parametrize("crash", ["after the commit", "half a line", "before the checkpoint"])
def test_a_crash_between_database_and_file_is_mended_before_any_order_leaves(
    federation, recipes, signed, tmp_path, monkeypatch, crash
):
    run = federation.submit(recipes["private"])
    with monkeypatch.context() as patch:
        where = {
            "after the commit": (CoordinatorLedger, "follow"),
            "half a line": (CoordinatorLedger, "_write"),
            "before the checkpoint": (CoordinatorLedger, "_sign"),
        }[crash]

        def deadly(*_):
            raise Killed

        patch.setattr(*where, deadly)
        with pytest.raises(Killed):
            federation.engine().run(run)
    if crash == "half a line":
        with (tmp_path / "ledger" / "entries.jsonl").open("ab") as file:
            file.write(b'{"at_ms":1')
    assert federation.grid.sent == []
    seen = watch_orders(federation, signed)
    federation.store.ledger._is_reconciled = False  # a new process
    federation.engine().run(run)
    assert seen == [True] * 9
    assert len(federation.store.ledger.file.checkpoints()) >= 3
    assert check_entries(federation.store.ledger.file.entries()).findings == []


def test_a_file_that_can_not_be_written_stops_the_order(federation, recipes, monkeypatch):
    def full(*_):
        raise JournalError("disk full")

    monkeypatch.setattr(CoordinatorLedger, "_write", full)
    with pytest.raises(JournalError):
        federation.engine().run(federation.submit(recipes["private"]))
    assert federation.grid.sent == []


def test_a_database_that_lacks_a_signed_charge_stops_the_run(federation, recipes, tmp_path):
    from coordinator.storage.store import Store
    from motet.recipe import parse_recipe

    federation.engine().run(federation.submit(recipes["private"]))
    older = Store.open(tmp_path / "older.db", clock=federation.clock, ledger=tmp_path / "ledger")
    older.submit_run(parse_recipe(recipes["private"]), run_id="r-again")
    federation.store.close()
    federation.store = older
    with pytest.raises(
        LedgerConflictError, match=r"lacks 9 charges .* run r-1, round 0, attempt 0, client a"
    ):
        federation.engine().run("r-again")
    assert len(federation.grid.sent) == 9


def test_reconciling_twice_writes_nothing_twice(federation, recipes):
    federation.engine().run(federation.submit(recipes["private"]))
    before = federation.store.ledger.leaves(), federation.store.ledger.file.checkpoints()
    federation.store.ledger.reconcile()
    federation.store.ledger.reconcile()
    assert (federation.store.ledger.leaves(), federation.store.ledger.file.checkpoints()) == before

"""The table of transitions: complete, free of contradictions, and obeyed by the store."""

import subprocess
import sys
from pathlib import Path

import pytest
from one_by_one import reply_received

from coordinator.crashpoints import crash_at, crash_points, crashpoint, watch
from coordinator.errors import IllegalTransitionError
from coordinator.rounds import table
from coordinator.rounds.table import ABSENT, STATES, TRANSITIONS, moves

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def reached():
    names = []
    watch(names.append)
    yield names
    watch(None)


def test_every_transition_has_one_name_and_leads_from_states_to_a_state():
    assert len({t.name for t in TRANSITIONS}) == len(TRANSITIONS)
    for t in TRANSITIONS:
        if not t.is_note:
            assert {*t.before, *t.unmoved} <= {ABSENT, *STATES[t.subject]}
            assert t.after in STATES[t.subject]
            assert not set(t.before) & set(t.unmoved)
        assert t.within in {"", *(other.name for other in TRANSITIONS)}


def test_every_state_is_reached_from_nothing():
    for subject, states in STATES.items():
        known = {ABSENT}
        for _ in states:
            known |= {t.after for t in TRANSITIONS if t.subject == subject and known & set(t.before)}
        assert known == {ABSENT, *states}


def test_what_has_ended_is_left_by_no_transition_but_a_failed_run_that_is_resumed():
    for t in TRANSITIONS:
        if t.subject == "run":
            assert set(t.before) & set(table.ENDED) == ({"FAILED"} if t is table.RESUME else set())
        if t.subject == "round":
            assert not set(t.before) & {"CLOSED", "ABORTED"}


def test_a_transition_happens_once_and_its_repetition_changes_nothing():
    for t in TRANSITIONS:
        if t.is_note or t.name == "contribution.send":  # an order may be sent again while it is awaited
            continue
        assert all(moves(t, state, what="it") for state in t.before)
        if t.within == "":
            assert moves(t, t.after, what="it") is False, t.name


@pytest.mark.parametrize(
    ("transition", "state", "words"),
    [
        (table.CLOSE, "ABORTED", "round 3 is not open: it is ABORTED"),
        (table.CLOSE, ABSENT, "round 3 is not open: it is not there"),
        (table.ABORT, "CLOSED", "round 3 is not open: it is CLOSED"),
        (table.RECEIVE, "SKIPPED", "round 3 is not ORDERED: it is SKIPPED"),
        (table.BE_LATE, "ORDERED", "round 3 is not FAILED: it is ORDERED"),
        (table.FINISH, "QUEUED", "round 3 is not RUNNING: it is QUEUED"),
    ],
)
def test_a_transition_that_the_table_does_not_have_is_refused_in_words(transition, state, words):
    with pytest.raises(IllegalTransitionError, match=words):
        moves(transition, state, what="round 3")


def test_the_store_refuses_what_the_table_refuses_and_writes_nothing(federation, recipes):
    run = federation.submit(recipes["plain"])
    store = federation.store
    store.plan_round(
        run, 0, 0, start_sha256="0" * 64, deadline_s=5, ranks={"a": 1}, others={"b": 1}, event=None
    )
    store.abort_round(run, 0, 0, "too few")
    before = store.count_rows()
    update = {"payload_sha256": "1" * 64, "bytes_up": 1, "weight": 1.0, "num_examples": 0}
    for illegal in (
        lambda: store.close_round(run, 0, 0, adapter_sha256="a" * 64, num_bytes=1, relative_error=0.0),
        lambda: reply_received(store, run, 0, 0, "b", **update),
        lambda: reply_received(store, run, 0, 0, "nobody", **update),
        lambda: store.reply_late(run, 0, 0, "a", bytes_up=1),
        lambda: store.end_run(run, "FINISHED", adapter_sha256="a" * 64),
        lambda: store.abort_round(run, 7, 0, "never planned"),
    ):
        with pytest.raises(IllegalTransitionError):
            illegal()
    assert store.count_rows() == before
    assert [c.state for c in store.contributions(run)] == ["ORDERED", "SKIPPED"]
    assert store.get_run(run).state == "QUEUED"


def test_every_write_of_the_store_names_its_transition():
    """A transaction that is not in the table would have no crash points."""
    import inspect

    from coordinator.storage import telling
    from coordinator.storage.store import Store

    source = inspect.getsource(Store) + inspect.getsource(telling)  # whose transaction is ``Store.tell``'s
    assert source.count("self._transaction()") == 1  # in ``_making``
    named = {t.name for t in TRANSITIONS if f"table.{_constant(t)}" in source}
    own = {t.name for t in TRANSITIONS if not t.within and t.subject != "lease"}
    assert own - named == {"run.finish", "run.fail", "run.cancel"}
    assert "table.END[" in source  # those three


def _constant(transition):
    return next(name for name, value in vars(table).items() if value is transition)


def test_a_crash_point_is_before_and_after_each_commit_and_after_each_effect():
    assert len(set(crash_points())) == len(crash_points())
    assert {"round.plan.before_commit", "round.plan.after_commit", "round.plan.after_effect"} < set(
        crash_points()
    )
    assert "contribution.order.before_commit" not in crash_points()  # within round.plan
    assert "contribution.order.after_effect" in crash_points()
    with pytest.raises(ValueError, match="no crash point"):
        crash_at("round.plan.sometime")


def test_a_crash_point_that_nobody_named_does_nothing(reached):
    crashpoint("round.plan.before_commit")
    assert reached == ["round.plan.before_commit"]  # positive control: it is heard where somebody listens
    watch(None)
    crashpoint("round.plan.before_commit")
    assert reached == ["round.plan.before_commit"]


def test_the_page_of_rounds_is_current():
    done = subprocess.run([sys.executable, ROOT / "scripts/gen_rounds.py", "--check"], capture_output=True)
    assert done.returncode == 0, done.stderr

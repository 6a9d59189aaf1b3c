"""A failed run that is let go on: after its last closed round, with new attempts, charged as any."""

import pytest

from coordinator.errors import RunFailedError, RunNotFoundError, WrongStateError


def failing_from(round_index, failure, honest):
    return lambda order: failure if order.round_index >= round_index else honest(order)


def test_a_failed_run_goes_on_after_its_last_closed_round_and_every_attempt_is_charged(
    federation, recipes, failure, honest
):
    run = federation.submit(recipes["private"])
    federation.grid.handlers = dict.fromkeys("abc", failing_from(1, failure, honest))
    with pytest.raises(RunFailedError):
        federation.engine().run(run)
    before = {c: len(federation.store.spent_events(c)) for c in "abc"}
    adapter = federation.store.closed_rounds(run)[0].adapter_sha256
    federation.grid.handlers = {}
    with pytest.raises(RunFailedError):  # positive control: without the word it does not go on
        federation.engine().run(run)
    federation.store.request_cancel(run)  # said to a run that had ended: it was nothing, and is forgotten
    federation.clock.time += 1
    federation.store.resume_run(run)
    assert federation.store.get_run(run).state == "QUEUED"
    result = federation.engine().run(run)
    assert result.state == "FINISHED"
    attempts = [(r.round_index, r.attempt, r.state) for r in federation.store.rounds(run)]
    assert attempts == [
        (0, 0, "CLOSED"),
        *[(1, n, "ABORTED") for n in range(3)],
        (1, 3, "CLOSED"),
        (2, 0, "CLOSED"),
    ]
    assert federation.store.closed_rounds(run)[0].adapter_sha256 == adapter
    assert {c: len(federation.store.spent_events(c)) for c in "abc"} == {c: n + 2 for c, n in before.items()}


def test_a_resumed_run_has_as_many_attempts_as_a_new_one_and_then_fails_again(federation, recipes, failure):
    run = federation.submit(recipes["plain"])
    federation.grid.handlers = {c: lambda _order: failure for c in "abc"}
    for times in (1, 2):
        with pytest.raises(RunFailedError):
            federation.engine().run(run)
        assert len(federation.store.rounds(run)) == 3 * times
        federation.clock.time += 1
        federation.store.resume_run(run)
    assert federation.store.next_run().run_id == run


@pytest.mark.parametrize("state", ["FINISHED", "CANCELLED"])
def test_a_run_that_finished_or_was_cancelled_is_not_resumed(federation, state):
    run = federation.submit()
    federation.store.start_run(run)
    federation.store.end_run(run, state, adapter_sha256="0" * 64)
    with pytest.raises(WrongStateError, match=state):
        federation.store.resume_run(run)
    assert federation.store.get_run(run).state == state


def test_to_resume_what_waits_or_runs_changes_nothing_and_a_stranger_is_not_found(federation):
    run = federation.submit()
    federation.store.resume_run(run)
    federation.store.start_run(run)
    federation.store.resume_run(run)
    assert federation.store.get_run(run).state == "RUNNING"
    assert federation.store.get_run(run).resumed_at is None
    with pytest.raises(RunNotFoundError):
        federation.store.resume_run("r-none")

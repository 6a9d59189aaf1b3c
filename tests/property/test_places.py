"""Clients and runs in any order: nobody works for more runs than its owner allows, and nobody waits for ever."""

from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.engine.places import ClientPlaces

CLIENTS = "abcd"
RUNS = ("r-1", "r-2", "r-3", "r-4")
wants = st.fixed_dictionaries({run: st.sets(st.sampled_from(CLIENTS), min_size=1) for run in RUNS})
limits = st.fixed_dictionaries({client: st.integers(1, 3) for client in CLIENTS})
priorities = st.fixed_dictionaries({run: st.integers(-1, 1) for run in RUNS})
steps = st.lists(st.tuples(st.sampled_from(RUNS), st.booleans(), st.booleans()), max_size=60)


def take(places, run, wanted, limits, priorities, *, must_have_all=True):
    return places.take(
        run,
        {c: limits[c] for c in wanted[run]},
        minimum=len(wanted[run]) if must_have_all else 1,
        priority=priorities[run],
        must_have_all=must_have_all,
    )


@settings(max_examples=150, deadline=None)
@given(wanted=wants, limits=limits, priorities=priorities, steps=steps)
def test_a_client_never_works_for_more_runs_than_its_owner_allows(wanted, limits, priorities, steps):
    places, held = ClientPlaces(), {run: set() for run in RUNS}
    for run, must_have_all, ends in steps:
        if held[run]:
            if ends:
                places.leave(run)
                held[run] = set()
            continue
        taken = take(places, run, wanted, limits, priorities, must_have_all=must_have_all)
        held[run] = set(taken.clients)
        assert held[run] <= wanted[run]
        assert not (must_have_all and held[run]) or held[run] == wanted[run]
        assert held[run] or taken.busy  # who gets none is told before whom it stands
        for client in CLIENTS:
            at_work = [r for r in RUNS if client in held[r]]
            assert len(at_work) <= limits[client]
            assert sorted(places.holders(client)) == at_work


@settings(max_examples=100, deadline=None)
@given(wanted=wants, limits=limits, rounds=st.integers(1, 3))
def test_runs_of_one_priority_all_come_to_their_rounds(wanted, limits, rounds):
    places, left, at_work = ClientPlaces(), dict.fromkeys(RUNS, rounds), {}
    equal = dict.fromkeys(RUNS, 0)
    for _ in range(200):
        for run in RUNS:
            if run not in at_work and left[run]:
                got = take(places, run, wanted, limits, equal).clients
                if got:
                    at_work[run] = got
        if not at_work:
            break
        run = next(iter(at_work))
        del at_work[run]
        left[run] -= 1
        places.leave(run)
    assert set(left.values()) == {0}

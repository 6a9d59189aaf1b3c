"""Which clients work for which run."""

from coordinator.engine.places import ClientPlaces


def take(places, run, clients, **options):
    limits = clients if isinstance(clients, dict) else dict.fromkeys(clients, 1)
    return places.take(run, limits, **{"minimum": len(limits), **options})


def test_a_client_works_for_one_run_at_a_time():
    places = ClientPlaces()
    assert take(places, "r-1", "ab").clients == ("a", "b")
    second = take(places, "r-2", "bc")
    assert (second.clients, second.busy) == ((), {"b": "r-1"})
    assert places.holders("c") == []  # who waits holds nothing
    places.leave("r-1")
    assert take(places, "r-2", "bc").clients == ("b", "c")


def test_an_owner_may_allow_more():
    places = ClientPlaces()
    take(places, "r-1", {"a": 2})
    assert take(places, "r-2", {"a": 2}).clients == ("a",)
    assert take(places, "r-3", {"a": 2}).busy == {"a": "r-1, r-2"}


def test_a_round_goes_on_with_the_free_ones_if_they_are_enough():
    places = ClientPlaces()
    take(places, "r-1", "a")
    got = take(places, "r-2", "abc", minimum=2)
    assert (got.clients, got.busy) == (("b", "c"), {"a": "r-1"})
    places.leave("r-2")
    assert take(places, "r-2", "abc", minimum=2, must_have_all=True).clients == ()


def test_two_runs_that_want_the_same_clients_take_turns():
    places, order = ClientPlaces(), []
    take(places, "r-1", "ab")
    for _ in range(4):
        assert take(places, "r-2", "ab").clients == ()
    for _ in range(3):
        for ends, begins in (("r-1", "r-2"), ("r-2", "r-1")):
            places.leave(ends)
            assert take(places, ends, "ab").clients == ()  # the other has waited longer
            assert take(places, begins, "ab").clients == ("a", "b")
            order.append(begins)
    assert order == ["r-2", "r-1"] * 3


def test_the_higher_priority_goes_first_however_long_the_other_has_waited():
    places = ClientPlaces()
    take(places, "r-1", "a")
    take(places, "r-low", "a")
    take(places, "r-high", "a", priority=5)
    places.leave("r-1")
    assert take(places, "r-low", "a").busy == {"a": "r-high"}
    assert take(places, "r-high", "a", priority=5).clients == ("a",)


def test_a_run_that_waits_goes_by_its_newest_priority():
    places = ClientPlaces()
    take(places, "r-1", "a")
    take(places, "r-old", "a")
    take(places, "r-new", "a")
    assert take(places, "r-new", "a", priority=5).clients == ()
    places.leave("r-1")
    assert take(places, "r-old", "a").busy == {"a": "r-new"}
    assert take(places, "r-new", "a", priority=5).clients == ("a",)


def test_a_run_that_waits_for_two_is_not_starved_by_runs_that_want_one():
    places = ClientPlaces()
    take(places, "r-1", "a")
    take(places, "r-2", "b")
    take(places, "r-both", "ab")
    places.leave("r-1")
    assert take(places, "r-3", "a").busy == {"a": "r-both"}
    places.leave("r-2")
    assert take(places, "r-both", "ab").clients == ("a", "b")


def test_a_client_that_has_answered_is_free_for_another_run():
    places = ClientPlaces()
    take(places, "r-1", "ab")
    places.release("r-1", "a")
    assert take(places, "r-2", "a").clients == ("a",)
    assert places.holders("b") == ["r-1"]


def test_a_run_that_gives_up_waiting_stands_in_nobodys_way():
    places = ClientPlaces()
    take(places, "r-1", "a")
    take(places, "r-2", "a")
    places.leave("r-2")
    places.leave("r-1")
    assert take(places, "r-3", "a").clients == ("a",)


def test_after_a_restart_an_open_round_has_its_clients_back():
    places = ClientPlaces()
    places.resume("r-1", ["a"])
    assert take(places, "r-2", "a").busy == {"a": "r-1"}
    places.keep_only("r-1", [])
    assert take(places, "r-2", "a").clients == ("a",)

"""A coordinator killed before a commit, after it, and after its effect: nothing acknowledged is lost or forgotten.

The whole table, with figures: ``benchmarks/crash_matrix.py``.
"""

import contextlib

import pytest
from crash_matrix import Site, die_and_return, new_home, places_to_die
from databases import Place, postgresql_url, schema_in

from coordinator.crashpoints import crash_points

__all__ = ["postgresql_url"]
pytestmark = pytest.mark.integration
BOTH = ["sqlite", pytest.param("postgresql", marks=pytest.mark.xdist_group("postgresql"))]
SOME = ["round.plan.after_commit:2", "contribution.receive.after_commit:5"]


@contextlib.contextmanager
def new_site(dialect, request, folder):
    """A home and an empty database."""
    home = new_home(folder)
    if dialect == "sqlite":
        yield Site(Place(dialect=dialect, where=home / "motet.db", ledger=home / "ledger"), home)
        return
    with schema_in(request.getfixturevalue("postgresql_url")) as url:
        yield Site(Place(dialect=dialect, where=url, ledger=home / "ledger"), home)


def test_a_run_reaches_every_crash_point(whole):
    assert [name for name in crash_points() if name not in whole.reached] == []


@pytest.mark.parametrize("dialect", BOTH)
@pytest.mark.parametrize("at", SOME)
def test_a_coordinator_that_dies_and_returns_ends_with_the_same_adapter_and_every_charge(
    dialect, at, whole, request, tmp_path
):
    with new_site(dialect, request, tmp_path) as site:
        case = die_and_return(site, at, whole)
        assert case.faults == []
        assert case.acknowledged > 0


def test_the_matrix_finds_orders_that_leave_before_their_charge_is_signed(whole, request, tmp_path):
    """Positive control."""
    with new_site("sqlite", request, tmp_path) as site:
        case = die_and_return(site, "contribution.order.after_effect:1", whole, mode="forgetful")
        assert any("without a charge in the signed file" in fault for fault in case.faults)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("dialect", BOTH)
def test_at_every_crash_point_of_the_table(dialect, whole, request, tmp_path):
    faults = {}
    for at in places_to_die(whole):
        with new_site(dialect, request, tmp_path) as site:
            case = die_and_return(site, at, whole)
            if case.faults:
                faults[at] = case.faults
    assert faults == {}

"""PostgreSQL is stopped as by a power cut and started again in the middle of a run: the run and the lead go on."""

import os
import signal
import threading
import time

import pytest
from crash_matrix import Site, new_home
from crashing_coordinator import ENDS
from databases import Place, restartable_server

from privacy.ledger.chain import verify_chain
from privacy.ledger.rules import check_entries

pytestmark = [
    pytest.mark.integration,
    pytest.mark.xdist_group("postgresql"),
    pytest.mark.skipif("MOTET_TEST_POSTGRES" in os.environ, reason="that server is not ours to stop"),
]
WITHIN_S = 90.0


def wait_for(is_so, what):
    end = time.monotonic() + WITHIN_S
    while not is_so():
        assert time.monotonic() < end, f"no {what} within {WITHIN_S:g} s"
        time.sleep(0.02)


@pytest.mark.parametrize(
    "at",
    [
        "round.plan.before_commit:3",
        pytest.param("contribution.receive.after_commit:5", marks=pytest.mark.slow),
    ],
)
def test_a_run_goes_on_when_its_database_was_restarted_within_a_transaction_or_between_two(
    at, whole, tmp_path
):
    home = new_home(tmp_path)
    with restartable_server() as (url, restart):
        site = Site(Place(dialect="postgresql", where=url, ledger=home / "ledger"), home)
        process = site.start(at=at, signal=signal.SIGSTOP, lease_s=60.0)
        try:
            wait_for(lambda: site.events("dies"), "stop")
            restart()
            os.kill(process.pid, signal.SIGCONT)
            process.join(WITHIN_S)
            assert process.exitcode == 0, site.tail()
        finally:
            if process.exitcode is None:
                process.kill()
                process.join(10)
        if at.split(":")[0].endswith(
            "before_commit"
        ):  # between two transactions the pool connects again unheard
            assert "trying again" in site.tail()  # positive control: it did lose the database
        store = site.open()
        try:
            assert {r.run_id: r.state for r in store.list_runs()} == ENDS
            assert store.get_run("r-main").adapter_sha256 == whole.adapter_sha256
            assert store.count_rows()["privacy_events"] == whole.charges
            assert check_entries(verify_chain(store.ledger.leaves())).findings == []
            assert store.leases.leader().token == 1
        finally:
            store.close()


@pytest.mark.slow
def test_a_deployed_run_goes_on_when_its_database_was_away_for_longer_than_the_lease(
    deploy, recipe_file, embedded
):
    with restartable_server() as (url, restart):
        address = url.set(drivername="postgresql").render_as_string(hide_password=False)
        federation = deploy("a", "b", "c", database=address)
        federation.options = ["--lease", "3"]
        federation.start()
        run_id = federation.submit(recipe_file(minimum=3))
        federation.wait_for_order(run_id, 1)
        away = threading.Thread(target=restart, args=(6.0,))
        away.start()
        away.join(WITHIN_S)
        row = federation.wait_for_end(run_id)
        assert (row.state, row.adapter_sha256) == ("FINISHED", embedded(recipe_file(minimum=3))), (
            federation.tails()
        )
        assert federation.store.leases.leader().token == 1
        federation.store.close()

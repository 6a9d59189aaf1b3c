"""Two deployed coordinators on one PostgreSQL, with real clients at an address that follows the leader."""

import json
import signal

import psutil
import pytest
from databases import postgresql_url, schema_in
from moved_address import MovedAddress

from motet.ports import free_port

__all__ = ["postgresql_url"]
pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.xdist_group("postgresql")]


def signal_all(process, number):
    """To a process and all that it started, as to a machine that is paused."""
    for one in [process, *process.children(recursive=True)]:
        one.send_signal(number)


def test_a_deployed_standby_finishes_the_run_of_a_leader_that_was_paused_and_the_leader_stands_by(
    deploy, recipe_file, embedded, postgresql_url, tmp_path
):
    with schema_in(postgresql_url) as url:
        database = url.set(drivername="postgresql").render_as_string(hide_password=False)
        federation = deploy("a", "b", "c", database=database)
        federation.options = ["--lease", "4"]
        federation.start_coordinator()
        moved = MovedAddress(federation.address)
        join = json.loads(federation.join.read_text()) | {"address": moved.address}
        (tmp_path / "join.json").write_text(json.dumps(join))
        federation.start_clients("a", "b", "c", join=tmp_path / "join.json")
        address = f"127.0.0.1:{free_port()}"
        home = federation.home / "second"
        start = ("--listen", address, "--lease", "4", "--verbose", "--shares", federation.place)
        federation.spawn("second", "coordinator", "start", "--home", home, *start)
        federation.wait(lambda: "standing by" in federation.log("second"), "standby", 60, needs=("second",))
        run_id = federation.submit(recipe_file(minimum=3))
        federation.wait_for_order(run_id, 1)
        leader = psutil.Process(federation.running["coordinator"].pid)
        try:
            signal_all(leader, signal.SIGSTOP)
            federation.wait(
                lambda: "coordinator ready" in federation.log("second"), "new leader", 120, needs=("second",)
            )
            moved.point(address)
            row = federation.wait_for_end(run_id, 240)
            assert (row.state, row.adapter_sha256) == ("FINISHED", embedded(recipe_file(minimum=3))), (
                federation.tails()
            )
        finally:
            signal_all(leader, signal.SIGCONT)
        federation.wait(
            lambda: "standing by" in federation.log("coordinator"), "standby of the old leader", 60
        )
        assert "leads now" in federation.log("coordinator")
        assert [r.round_index for r in federation.store.closed_rounds(run_id)] == [0, 1, 2]
        assert federation.store.leases.leader().home == str(home)
        assert federation.terminate("coordinator", "second") == [0, 0]
        moved.close()
        federation.close()
        federation.store.close()

"""What ``motet run show --json`` tells of a run, from its store."""

from coordinator.rpc.records import rounds_of, run_record
from motet.cli.run import described


def describe(store, run_id):
    """As plain values."""
    return described(run_record(store, store.get_run(run_id)), rounds_of(store, run_id))

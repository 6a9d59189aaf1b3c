"""A home with a full page of runs, and one run of many rounds and clients: what a page weighs, how long it takes."""

from dashboard_home import EVENT, recipe

from coordinator.storage.telling import Received, Refused, Sent

RUNS, ROUNDS, CLIENTS = 50, 60, 30


def _answers(client, i, n):
    yield Sent(client_id=client, message_id=f"{n}-{i}", bytes_down=1000)
    if (i + n) % 7:
        sha = f"{n:02}{i:02}".ljust(64, "a")
        yield Received(client_id=client, payload_sha256=sha, bytes_up=10, weight=1.0, num_examples=0)
    else:
        yield Refused(client_id=client, code="deadline", message="no answer in time")


def fill_large_home(store, clock):
    """``RUNS`` runs that wait, and ``r-large``: its first round is private. ``clock`` is the store's; it may sleep."""
    for i in range(RUNS):
        store.submit_run(recipe(f"run-{i}", private=False), run_id=f"r-{i}")
    store.submit_run(recipe("large"), run_id="r-large")
    store.start_run("r-large")
    ranks = {f"client-of-an-owner-{i}": 8 for i in range(CLIENTS)}
    for n in range(ROUNDS):
        keys = ("r-large", n, 0)
        event = EVENT if n == 0 else None
        store.plan_round(*keys, start_sha256="0" * 64, deadline_s=5, ranks=ranks, event=event)
        store.tell(*keys, [told for i, c in enumerate(ranks) for told in _answers(c, i, n)])
        clock.sleep(0.01)
        store.close_round(*keys, adapter_sha256=f"{n:02}" * 32, num_bytes=5, relative_error=1e-8 * n)

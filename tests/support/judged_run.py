"""A finished run in a store whose clients told held-out figures: two owners of three share, one from round 2 on."""

from coordinator.storage.scores import Score
from coordinator.storage.telling import Received, Sent
from motet.recipe import parse_recipe

RECIPE = """
name: judged
base_model: {tiny: tiny-bert}
task: {kind: sequence-classification, num_labels: 2}
data: {path: none.jsonl}
adapter: {lora_rank: 2}
method: {name: flora}
training: {rounds: 3, local_steps: 1}
evaluation: {held_out: 0.2}
cohort: {clients: [a, b, c], minimum: 1}
"""
FIGURES = {
    0: {"a": (0.9, 0.5, 30)},
    1: {"a": (0.8, 0.6, 30), "b": (1.2, 0.2, 10)},
    2: {"a": (0.6, 0.7, 30), "b": (1.0, 0.3, 10)},
    3: {"a": (0.4, 0.9, 30), "b": (0.8, 0.5, 10)},
}
"""Rounds done -> client -> loss, accuracy, number of examples."""
MEAN_ACCURACY = {0: 0.5, 1: 0.5, 2: 0.6, 3: 0.8}


def score(rounds_done, client):
    loss, accuracy, count = FIGURES[rounds_done][client]
    return Score(loss=loss, accuracy=accuracy, num_examples=count)


def judged_run(store, run_id="r-judged", more=""):
    """Play it to its end; returns its id. ``more``: further lines of its recipe."""
    store.submit_run(parse_recipe(RECIPE + more), run_id=run_id)
    store.start_run(run_id)
    for number in range(3):
        keys = (run_id, number, 0)
        ranks = dict.fromkeys("abc", 2)
        store.plan_round(*keys, start_sha256="0" * 64, deadline_s=50, ranks=ranks, event=None)
        sent = [Sent(client_id=c, message_id=f"m-{run_id}-{number}-{c}", bytes_down=900) for c in "abc"]
        store.tell(*keys, sent)
        received = [
            Received(
                client_id=c,
                payload_sha256="1" * 64,
                bytes_up=700,
                weight=1.0,
                num_examples=40,
                score=score(number, c) if c in FIGURES[number] else None,
            )
            for c in "abc"
        ]
        store.tell(*keys, received)
        store.close_round(*keys, adapter_sha256=f"{number + 2}" * 64, num_bytes=5, relative_error=0.25)
    store.scores.note(run_id, 3, {c: score(3, c) for c in FIGURES[3]})
    store.end_run(run_id, "FINISHED", adapter_sha256="4" * 64)
    return run_id

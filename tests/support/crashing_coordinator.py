"""A coordinator that dies, or stops, at a named place; the product's service with clients that answer from a script.

``serve_until_done`` runs in a process of its own. Service loop, lead, engine, store, ledger and artifacts are the
product's; SuperLink and gateway are left out, and the script decides what each client answers, whatever process asks:
so a run that was interrupted anywhere ends with the adapter of one that was not.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import time
from pathlib import Path

import torch
from small_federation import SHAPE, honest_reply

import coordinator.engine.round_engine as round_engine
from coordinator import crashpoints, service
from coordinator.engine.grid import GridClient, GridFailure
from coordinator.storage.ledger import StoredLedger
from motet.clock import SystemClock
from motet.recipe import parse_recipe
from motet.wire.leave import Leave, leave_to_json
from motet.wire.messages import TrainReply

MAIN = """
name: main
base_model: {tiny: tiny-bert}
task: {kind: sequence-classification, num_labels: 2}
data: {path: none.jsonl}
adapter: {lora_rank: {a: 1, b: 2, c: 3}, lora_rank_schedule: [{from_round: 2, lora_rank: 2}]}
method: {name: zero-pad}
cohort: {clients: [a, b, c], minimum: 2, deadline_s: 0.3}
training: {rounds: 3, local_steps: 2}
privacy: {noise_multiplier: 1.0, sampling_rate: 0.1, epsilon_limit: 50}
"""
POOR = MAIN.replace("name: main", "name: poor").replace("epsilon_limit: 50", "epsilon_limit: 0.01")
AWAITED = MAIN.replace("name: main", "name: awaited").replace("[a, b, c]", "[a, z]")
RUNS = {"r-poor": POOR, "r-awaited": AWAITED, "r-main": MAIN}
"""One finishes, one is refused for its budget twice, one waits for a client that never comes and is cancelled."""
ARRIVES = {"r-poor": "PROPOSED", "r-awaited": "HELD"}
ENDS = {"r-poor": "FAILED", "r-awaited": "CANCELLED", "r-main": "FINISHED"}


class ImpatientClock(SystemClock):
    """Waits are short; time is the machine's."""

    def sleep(self, seconds):
        time.sleep(min(seconds, 0.02))


class ScriptedGrid:
    """Round 0 fails once; in round 1 b answers twice, and c after the deadline."""

    def __init__(self, store, tell):
        self._store, self._tell = store, tell
        self._pending = {}
        self._sent = 0
        self._newest = {}

    def online(self):
        run = self._store.get_run("r-awaited")
        if run.state == "RUNNING" and run.reason and not run.cancel_requested:
            self._store.request_cancel("r-awaited")
        return {c: GridClient(client_id=c) for c in "abc"}

    def send(self, order, *, deadline_s):
        if order.asks_leave:
            self._sent += 1
            self._pending[f"leave-{self._sent}"] = order
            return f"leave-{self._sent}"
        poor = self._store.get_run("r-poor")
        if poor.state == "FAILED" and poor.resumed_at is None:
            self._store.resume_run("r-poor")  # to be refused once more
        place = f"{order.run_id}/{order.round_index}/{order.attempt}/{order.client_id}"
        self._tell("order", place=place, reservation=order.reservation_id)
        self._sent += 1
        message_id = f"{os.getpid()}-{self._sent}"
        self._pending[message_id] = order
        self._newest[order.run_id] = max(order.round_index, self._newest.get(order.run_id, 0))
        return message_id

    def collect(self, message_ids):
        found = []
        for message_id in message_ids:
            order = self._pending.get(message_id)
            if order is not None and order.asks_leave:
                found.append((message_id, _leave(self._pending.pop(message_id))))
                continue
            if order is None or (self._is_slow(order) and self._newest[order.run_id] == 1):
                continue
            del self._pending[message_id]
            if (order.round_index, order.attempt) == (0, 0) and order.client_id != "a":
                reply = GridFailure(code="client_crashed", message="as the script says")
            else:
                reply = honest_reply(order)
            found += [(message_id, reply)] * (2 if self._place(order) == (1, "b") else 1)
        return found

    def _is_slow(self, order):
        return self._place(order) == (1, "c")

    def _place(self, order):
        return order.round_index, order.client_id

    def is_known(self, message_id):
        return message_id in self._pending

    def cancel(self, client_id, key):
        self._tell("told to stop", client=client_id, key=str(key))

    def close(self):
        pass


def _leave(order):
    return TrainReply(
        run_id=order.run_id,
        round_index=order.round_index,
        attempt=order.attempt,
        client_id=order.client_id,
        payload=b"",
        payload_sha256=order.payload_sha256,
        leave_json=leave_to_json(Leave(answer="approved")),
    )


def serve_until_done(job):
    """One coordinator, until no run is left or until it dies.

    Args:
      job: ``home``; ``witness``, a file of JSON lines; ``log``; ``begun``, the monotonic time of the order to start;
        ``at`` (``name:nth`` of a crash point) with ``signal``; ``lease_s``; ``counts``: tell every point that is
        reached; ``waits``: go on from the first start of a run once another stands by; ``mode``: ``forgetful`` for a
        positive control.
    """
    out = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(out, 1)
    os.dup2(out, 2)
    torch.set_num_threads(1)
    faulthandler.register(signal.SIGUSR1)
    witness = os.open(job["witness"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def tell(event, **words):
        line = {"event": event, "s": round(time.monotonic() - job["begun"], 4), "pid": os.getpid(), **words}
        os.write(witness, json.dumps(line).encode() + b"\n")
        os.fsync(witness)

    def lead(config, store, lead, stopping, on_ready, *_others, until_idle):
        store.ledger.reconcile()
        for run_id, text in RUNS.items():
            store.submit_run(parse_recipe(text), run_id=run_id, state=ARRIVES.get(run_id, "QUEUED"))
        store.approve_run("r-poor")
        store.release_run("r-awaited")
        if store.get_run("r-poor").state == "QUEUED":
            store.set_priority("r-poor", 1)
        grid = ScriptedGrid(store, tell)
        on_ready(None)
        service._work(config, grid, store, stopping, [], until_idle=until_idle, lead=lead)

    service._lead, service.model_shape, service.POLL_S = lead, lambda _recipe: SHAPE, 0.002
    service.SystemClock = ImpatientClock
    if (
        job.get("mode") == "forgetful"
    ):  # a mistake that the matrix must find: orders leave before they are signed
        StoredLedger.publish = lambda self: None
    service.DATABASE_PAUSE_S, round_engine.CANCEL_CHECK_S = 0.1, 0.01
    _die_at(job, tell)
    config = service.ServiceConfig(
        home=Path(job["home"]), listen="127.0.0.1:0", lease_s=job.get("lease_s", 0.9)
    )
    service.serve(
        config,
        on_ready=lambda _control: tell("ready"),
        on_standby=lambda leader: tell("standby", leader=leader.home),
        until_idle=True,
    )
    tell("done")


def _die_at(job, tell):
    name, _, nth = job.get("at", "").partition(":")
    if job.get("counts"):
        crashpoints.watch(lambda reached: tell("reached", name=reached))
    if not name:
        return
    left = int(nth or 1)

    def die(reached):
        nonlocal left
        while job.get("waits") and reached == "run.start.after_commit" and not _is_awaited(job):
            time.sleep(0.02)
        left -= reached == name
        if reached == name and left == 0:
            tell("dies")
            os.kill(os.getpid(), job.get("signal", signal.SIGKILL))
            # another thread may have taken a SIGSTOP: this one does not go on before it holds
            time.sleep(0.3)

    crashpoints.watch(die)


def _is_awaited(job):
    return '"standby"' in Path(job["witness"]).read_text()

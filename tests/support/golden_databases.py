"""Databases as Motet made them at each revision, with data in them, as SQL text: what an upgrade has to keep.

A revision gets its file when it is added, made by the code of that time and never again:

    python tests/support/golden_databases.py
"""

import datetime
import hashlib
import sqlite3
import sys
import tempfile
from pathlib import Path

from one_by_one import order_sent, reply_received

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "tests/golden/databases"
REVISIONS = ROOT / "coordinator/storage/migrations/versions"
SHA = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("start", "update", "first", "second")}
RECIPE = """
name: golden
base_model: {tiny: tiny-bert}
task: {kind: sequence-classification, num_labels: 2}
data: {path: none.jsonl}
adapter: {lora_rank: 2}
method: {name: flora}
training: {rounds: 3, local_steps: 10}
cohort: {clients: [a, b], minimum: 1}
"""
PRIVACY = "privacy: {noise_multiplier: 1.0, sampling_rate: 0.1}\n"


class SteadyClock:
    """A second passes with each look."""

    def __init__(self):
        self._now = datetime.datetime(2026, 11, 21, tzinfo=datetime.UTC).timestamp()

    def now(self):
        self._now += 1.0
        return self._now

    monotonic = now

    def sleep(self, seconds):
        self._now += seconds


def revisions():
    """Numbers of all revisions in the tree."""
    return sorted(path.name[:4] for path in REVISIONS.glob("[0-9]*.py"))


def write_key(folder):
    """The key that signs every golden ledger: known to all, so that no key has to be kept in the tree."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"golden databases").digest())
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ledger.key").write_bytes(pem)


def fill(store, runs=("r-whole", "r-open", "r-plain", "r-queued")):
    """Runs in every state, rounds that closed, were given up and are under way, answers of every kind."""
    from coordinator.storage.scores import Score
    from motet.recipe import parse_recipe
    from privacy.events import PoissonGaussianEvent

    event = PoissonGaussianEvent(noise_multiplier=1.0, sampling_rate=0.1, num_steps=10)
    private, plain = parse_recipe(RECIPE + PRIVACY), parse_recipe(RECIPE)
    whole, under_way, without, queued = runs
    for client in "ab":
        store.register_client(client, f"public key of {client}\n".encode(), node_id=f"{ord(client)}")

    def order(run, round_index, attempt, charge):
        store.plan_round(
            run,
            round_index,
            attempt,
            start_sha256=SHA["start"],
            deadline_s=5,
            ranks={"a": 2, "b": 4},
            event=charge,
        )
        for client in "ab":
            name = f"m-{run}-{round_index}-{attempt}-{client}"
            order_sent(store, run, round_index, attempt, client, message_id=name, bytes_down=1000)

    def answer(run, round_index, attempt, client):
        reply_received(
            store,
            run,
            round_index,
            attempt,
            client,
            payload_sha256=SHA["update"],
            bytes_up=900,
            weight=0.5,
            num_examples=40,
        )

    def close(run, round_index, attempt, name):
        store.close_round(
            run, round_index, attempt, adapter_sha256=SHA[name], num_bytes=4000, relative_error=0.125
        )

    for run, recipe in ((whole, private), (under_way, private), (without, plain), (queued, plain)):
        store.submit_run(recipe, run_id=run)
    store.start_run(whole)
    order(whole, 0, 0, event)
    answer(whole, 0, 0, "a")
    store.reply_failed(
        whole, 0, 0, "b", code="policy_refused", message="the owner's words: 'nein' \u2014 \"é\"\n;"
    )
    close(whole, 0, 0, "first")
    order(whole, 1, 0, event)
    store.reply_failed(whole, 1, 0, "a", code="deadline", message="late")
    store.reply_late(whole, 1, 0, "a", bytes_up=900)
    store.abort_round(whole, 1, 0, "1 of 2 answered")
    order(whole, 1, 1, event)
    answer(whole, 1, 1, "a")
    answer(whole, 1, 1, "b")
    close(whole, 1, 1, "second")
    store.end_run(whole, "FINISHED", adapter_sha256=SHA["second"])
    store.start_run(without)
    order(without, 0, 0, None)
    told = {
        "a": Score(loss=0.75, accuracy=0.5, num_examples=12),
        "b": Score(loss=1.5, accuracy=None, num_examples=7),
    }
    store.scores.note(without, 0, told)
    store.request_cancel(without)
    store.end_run(without, "CANCELLED", "asked for")
    store.start_run(under_way)
    order(under_way, 0, 0, event)
    answer(under_way, 0, 0, "b")


def read_golden(revision, path):
    """Make the SQLite file of a revision."""
    connection = sqlite3.connect(path)
    try:
        connection.executescript((FOLDER / f"{revision}.sql").read_text(encoding="utf-8"))
    finally:
        connection.close()


def tables(path):
    """Table -> columns and rows of an SQLite file; rows sorted."""
    connection = sqlite3.connect(path)
    try:
        names = [n for (n,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        found = {}
        for name in names:
            cursor = connection.execute(f"SELECT * FROM {name}")
            columns = [c[0] for c in cursor.description]
            found[name] = [dict(zip(columns, row, strict=True)) for row in cursor]
        return found
    finally:
        connection.close()


def main():
    """Write the file of the newest revision."""
    sys.path.insert(0, str(ROOT))
    from coordinator.storage.store import Store

    target = FOLDER / f"{revisions()[-1]}.sql"
    if target.exists():
        sys.exit(f"{target} exists: what an older Motet wrote is never written anew")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "motet.db"
        write_key(path.parent / "ledger")
        store = Store.open(path, clock=SteadyClock())
        fill(store)
        store.close()
        connection = sqlite3.connect(path)
        text = "\n".join(connection.iterdump()) + "\n"
        connection.close()
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")
    print(target)


if __name__ == "__main__":
    main()

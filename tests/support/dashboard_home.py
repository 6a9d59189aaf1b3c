"""A home with runs in every state for tests of the dashboard, and a browser's stand-in that asks the application."""

from contextlib import contextmanager

from one_by_one import order_sent, reply_received
from starlette.testclient import TestClient

from coordinator.dashboard.app import Place, build_app
from coordinator.dashboard.records import Records
from coordinator.dashboard.sessions import Sessions
from coordinator.rpc.identity import Peer
from coordinator.storage.database import Database
from coordinator.storage.where import database_of, open_store
from motet.recipe import parse_recipe
from privacy.events import PoissonGaussianEvent

HOST = "127.0.0.1:9999"
COOKIE = "motet-9999"
EVENT = PoissonGaussianEvent(noise_multiplier=1.0, sampling_rate=0.1, num_steps=10)
RECIPE = """
name: {name}
base_model: {{tiny: tiny-bert}}
task: {{kind: sequence-classification, num_labels: 2}}
data: {{path: none.jsonl}}
adapter: {{lora_rank: 2}}
method: {{name: {method}}}
training: {{rounds: 3, local_steps: 10}}
{privacy}cohort: {{clients: [a, b, c], minimum: 1}}
"""
PRIVACY = "privacy: {noise_multiplier: 1.0, sampling_rate: 0.1, epsilon_limit: 8}\n"


class TestClock:
    """Time that a test moves."""

    __test__ = False

    def __init__(self, at=1_790_000_000.0):
        self.at = at

    def now(self):
        return self.at

    def monotonic(self):
        return self.at

    def sleep(self, seconds):
        self.at += seconds


class Status:
    """A service that serves, with these clients online."""

    def __init__(self, online=(), seen=None):
        self._online, self._seen = frozenset(online), dict(seen or {})

    def presence(self):
        return self._online, self._seen


class Nobody:
    """Revocations that a test adds to."""

    def __init__(self):
        self.serials = set()

    def is_revoked(self, serial):
        return serial in self.serials


def recipe(name="shown", method="flora", *, private=True):
    return parse_recipe(RECIPE.format(name=name, method=method, privacy=PRIVACY if private else ""))


def submit(store, run_id, **given):
    return store.submit_run(recipe(**given), run_id=run_id)


def play(store, run_id, round_index=0, *, failing=(), code="client_failed", message="it broke", private=True):
    """One closed round: a, b and c are asked, those of ``failing`` do not answer."""
    keys = (run_id, round_index, 0)
    store.start_run(run_id)
    ranks = {"a": 2, "b": 4, "c": 8}
    store.plan_round(
        *keys, start_sha256="0" * 64, deadline_s=5, ranks=ranks, event=EVENT if private else None
    )
    for client, rank in ranks.items():
        order_sent(store, *keys, client, message_id=f"m-{run_id}-{round_index}-{client}", bytes_down=100)
        if client in failing:
            store.reply_failed(*keys, client, code=code, message=message)
        else:
            sha = f"{ord(client):x}{round_index}".ljust(64, "1")
            reply_received(
                store, *keys, client, payload_sha256=sha, bytes_up=50 * rank, weight=1.0, num_examples=0
            )
    store.close_round(*keys, adapter_sha256=f"{round_index}" * 64, num_bytes=5, relative_error=0.25)


class Site:
    """The application over a home. ``sign_in(role)`` gives somebody's client; ``stranger`` has no session."""

    def __init__(self, home, *, result=None, status=None):
        self.home = home
        self.clock, self.revoked = TestClock(), Nobody()
        self.store = open_store(home, clock=self.clock)
        self.database = Database.as_it_is(database_of(home))
        self.sessions = Sessions(self.clock, self.revoked)
        self.records = Records(
            home=home,
            store=self.store,
            database=self.database,
            status=status,
            federation="f-0123",
            result=result or {},
        )
        self.app = build_app(self.records, self.sessions, Place(hosts=frozenset({HOST}), cookie=COOKIE))
        self.stranger = self.client()

    def client(self):
        return TestClient(
            self.app, base_url=f"http://{HOST}", raise_server_exceptions=False, follow_redirects=False
        )

    def peer(self, role="operator", serial=7):
        return Peer(role=role, name="somebody", serial=serial, not_after=self.clock.now() + 1e6)

    def sign_in(self, role="operator", serial=7):
        key, _ = self.sessions.link(self.peer(role, serial))
        client = self.client()
        assert client.get(f"/enter?key={key}").status_code == 200
        return client

    def close(self):
        self.database.close()
        self.store.close()


@contextmanager
def site(home, **given):
    """The application over a home, as a context."""
    made = Site(home, **given)
    try:
        yield made
    finally:
        made.close()

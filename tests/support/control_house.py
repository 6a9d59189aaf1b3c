"""A control API on loopback over a real store, with somebody of every role."""

import contextlib
import datetime
import json
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from one_by_one import order_sent, reply_received

from coordinator.authority import ensure_authority, issue_identity
from coordinator.authority.enrolment import Enrolment
from coordinator.rpc.context import Resources
from coordinator.rpc.enrolment import EnrolmentServicer
from coordinator.rpc.interceptors import CallCounts
from coordinator.rpc.roles import ROLES
from coordinator.rpc.server import Certificates, ControlServer
from coordinator.storage.where import open_store
from motet.addresses import Addresses
from motet.connection.channel import Channel
from motet.connection.connection import Connection
from motet.identity import load_identity
from motet.recipe import parse_recipe
from privacy.events import PoissonGaussianEvent

UTC = datetime.UTC
RECIPE = """
name: shown
base_model: {tiny: tiny-bert}
task: {kind: sequence-classification, num_labels: 2}
data: {path: none.jsonl}
adapter: {lora_rank: 2}
method: {name: flora}
training: {rounds: 3, local_steps: 10}
privacy: {noise_multiplier: 1.0, sampling_rate: 0.1}
cohort: {clients: [a, b], minimum: 1}
"""
EVENT = PoissonGaussianEvent(noise_multiplier=1.0, sampling_rate=0.1, num_steps=10)


class House:
    """A served home. ``connect(role)`` gives a connection of somebody with that role. ``enrols``: with enrolment."""

    def __init__(self, home, **settings):
        self.home = home
        self.authority = ensure_authority(home)
        self.store = open_store(home, clock=settings.get("clock"))
        self.counts = CallCounts()
        reflection = settings.pop("reflection", False)
        enrols = settings.pop("enrols", False)
        settings = {"poll_s": 0.05, **settings}
        self.resources = Resources(
            home=home,
            store=self.store,
            counts=self.counts,
            federation=self.authority.federation,
            **settings,
        )
        enrolment = None
        if enrols:
            self.enrolment = Enrolment(self.authority, self.store, home, self.resources.clock)
            enrolment = EnrolmentServicer(self.enrolment, self.store.identities)
            enrolment.serve_at(Addresses(control="fed.example.org:8444", enrolment="fed.example.org:8445"))
        self.server = ControlServer(self.resources, enrolment=enrolment, reflection=reflection)
        tls = home / "tls"
        self.certificates = Certificates(
            key=tls / "server.key", chain=tls / "server.pem", authority=tls / "ca.crt"
        )
        self.address = (
            f"127.0.0.1:{self.server.listen('127.0.0.1:0', self.certificates, self.store.identities)}"
        )
        self.enrolment_address = ""
        if enrols:  # both listeners of a coordinator
            port = self.server.listen_for_enrolment("127.0.0.1:0", self.certificates)
            self.enrolment_address = f"127.0.0.1:{port}"
        self.server.start()
        self.opened = []

    def identity(self, role, name="somebody", **times):
        """Folder of a new identity."""
        folder = self.home / "people" / f"{role}-{name}"
        if role != "client":
            issue_identity(self.home, role, name, folder, **times)
            return folder
        key = ec.generate_private_key(ec.SECP256R1())
        now = times.get("now", datetime.datetime.now(UTC))
        issued = self.authority.certify(key.public_key(), role, name, now=now)
        self.store.identities.record(issued)
        return write_identity(folder, key, issued.pem, self.authority, role, name)

    def connect(self, role="operator", name="somebody"):
        """A connection; closed with the house."""
        connection = Connection(Channel.secure(self.address, load_identity(self.identity(role, name))))
        self.opened.append(connection)
        return connection

    def close(self):
        """Ends everything."""
        for connection in self.opened:
            connection.close()
        self.server.stop(0.2)
        self.store.close()


def write_identity(folder, key, pem, authority, role, name):
    """An identity's four files."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "key.pem").touch(mode=0o600)
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    (folder / "certificate.pem").write_text(pem)
    (folder / "ca.pem").write_text(authority.pem)
    facts = {"federation": authority.federation, "role": role, "name": name}
    (folder / "identity.json").write_text(json.dumps(facts))
    return folder


@contextlib.contextmanager
def house(home: Path, **settings):
    """A served home, as a context."""
    made = House(home, **settings)
    try:
        yield made
    finally:
        made.close()


__all__ = ["ROLES", "House", "house", "write_identity", "x509"]


def submit(served, run_id):
    return served.store.submit_run(parse_recipe(RECIPE), run_id=run_id)


def play(served, run_id, round_index=0):
    """One round: a answers, b does not; closed."""
    store = served.store
    keys = (run_id, round_index, 0)
    store.start_run(run_id)
    store.plan_round(*keys, start_sha256="0" * 64, deadline_s=5, ranks={"a": 2, "b": 2}, event=EVENT)
    for client in "ab":
        order_sent(store, *keys, client, message_id=f"m-{run_id}-{round_index}-{client}", bytes_down=1)
    reply_received(store, *keys, "a", payload_sha256="1" * 64, bytes_up=7, weight=1.0, num_examples=0)
    store.reply_failed(*keys, "b", code="deadline", message="late")
    store.close_round(*keys, adapter_sha256=f"{round_index}" * 64, num_bytes=5, relative_error=0.25)
    store.ledger.publish()

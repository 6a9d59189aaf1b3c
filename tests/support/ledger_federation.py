"""A coordinator's store that plays private rounds, and one client that looks at the ledger that it shows."""

import shutil

from golden_databases import PRIVACY, RECIPE
from one_by_one import order_sent, reply_received

from client.seen_ledger import SeenLedger
from coordinator.storage.store import Store
from motet.audit.assurance import Assurances
from motet.recipe import parse_recipe
from privacy.events import PoissonGaussianEvent

EVENT = PoissonGaussianEvent(noise_multiplier=1.0, sampling_rate=0.1, num_steps=10)
PRIVATE = parse_recipe(RECIPE + PRIVACY)


class LedgerFederation:
    """One coordinator, whose home can be put back, and client ``a``."""

    def __init__(self, folder):
        self.place, self.home = folder / "coordinator", folder / "client"
        self.open()

    def open(self):
        self.store = Store.open(self.place / "motet.db")
        self.store.ledger.reconcile()

    def plan(self, run, round_index, clients=("a",)):
        if run not in {r.run_id for r in self.store.list_runs()}:
            self.store.submit_run(PRIVATE, run_id=run)
            self.store.start_run(run)
        ranks = dict.fromkeys(clients, 2)
        self.store.plan_round(
            run, round_index, 0, start_sha256="0" * 64, deadline_s=5, ranks=ranks, event=EVENT
        )
        self.store.ledger.publish()

    def order(self, run, round_index, client="a"):
        """The order's words about the ledger."""
        text = Assurances(self.store.ledger.file).for_client(client)
        order_sent(
            self.store,
            run,
            round_index,
            0,
            client,
            message_id=f"m-{run}-{round_index}-{client}",
            bytes_down=1,
        )
        return text

    def settle(self, run, round_index, client="a"):
        reply_received(
            self.store,
            run,
            round_index,
            0,
            client,
            payload_sha256="1" * 64,
            bytes_up=1,
            weight=1.0,
            num_examples=0,
        )

    def round(self, run, round_index, *, sees=True, settles=True):
        self.plan(run, round_index)
        text = self.order(run, round_index)
        if sees:
            SeenLedger(self.home).check(text)
        if settles:
            self.settle(run, round_index)
        return text

    def backup(self, to):
        self.store.close()
        shutil.copytree(self.place, to)
        self.open()

    def put_back(self, backup):
        """Without a word, as somebody would who wants charges forgotten."""
        self.store.close()
        shutil.rmtree(self.place)
        shutil.copytree(backup, self.place)
        self.open()

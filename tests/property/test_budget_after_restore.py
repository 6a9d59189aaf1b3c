"""Budget is never under-counted by a restore: whatever is backed up, put back and accepted, in any order.

The backup and the restore are the product's; the client is its ledger and its memory of the coordinator's.
"""

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ledger_federation import EVENT, LedgerFederation

from client.errors import PolicyRefusedError
from client.ledger import ClientLedger
from client.seen_ledger import LedgerRolledBackError, SeenLedger
from coordinator.backup import keys
from coordinator.backup.making import back_up
from coordinator.backup.restoring import restore
from coordinator.storage.artifacts import open_artifacts
from privacy.accounting import epsilon_pld

CAP = epsilon_pld([EVENT] * 6, 1e-5) + 1e-6  # six rounds of the data owner's budget
STEPS = st.lists(
    st.one_of(
        st.just(("round", 0)), st.just(("round", 0)), st.just(("backup", 0)), st.just(("accept", 0)),
        st.tuples(st.just("restore"), st.integers(0, 3)),
    ),
    min_size=4, max_size=14,
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _quick_passphrases():
    """The cost of a guess is no matter here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(keys._COST, "n", 1 << 8)
        yield


class Owner(LedgerFederation):
    """A federation with one data owner who counts what was really trained."""

    def __init__(self, folder):
        super().__init__(folder)
        open_artifacts(self.place)
        self.folder, self.backups = folder, []
        self.trained, self.asked, self.has_accepted = 0, 0, False
        self.own = ClientLedger(self.home / "ledger.jsonl")

    def step(self, what, number):
        if what == "round":
            self.try_round()
        elif what == "backup":
            self.backups.append(self.folder / f"{len(self.backups)}.motet")
            self.store.ledger.publish()
            back_up(self.place, self.backups[-1], passphrase="correct horse battery")
        elif what == "restore" and self.backups:
            self.store.close()
            shutil.rmtree(self.place)
            which = self.backups[number % len(self.backups)]
            restore(which, self.place, passphrase="correct horse battery")
            self.open()
        elif what == "accept":
            self.has_accepted |= SeenLedger(self.home).accept() is not None

    def try_round(self):
        self.asked += 1
        run = f"r-{self.asked}"
        self.plan(run, 0)
        text = self.order(run, 0)
        try:
            SeenLedger(self.home).check(text)
            self.own.reserve(
                data_set="d",
                run_id=run,
                round_index=0,
                attempt=0,
                event=EVENT,
                epsilon_cap=CAP,
                target_delta=1e-5,
            )
        except (LedgerRolledBackError, PolicyRefusedError):
            return
        self.trained += 1
        self.settle(run, 0)
        if not self.has_accepted:
            assert len(self.store.spent_events("a")) >= self.trained


@given(STEPS)
@settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
def test_budget_is_never_under_counted_by_a_restore(steps):
    with tempfile.TemporaryDirectory() as folder:
        owner = Owner(Path(folder))
        try:
            for what, number in steps:
                owner.step(what, number)
            assert (
                len(owner.own.charges()) == owner.trained
            )  # the owner's own ledger, whatever became of the other
            assert owner.trained <= 6
            assert epsilon_pld(owner.own.spent("d"), 1e-5) <= CAP
        finally:
            owner.store.close()


def test_without_the_clients_memory_a_restore_would_under_count(tmp_path, monkeypatch):
    """Positive control: the coordinator alone forgets, and only the client's check stops it."""
    monkeypatch.setattr(SeenLedger, "check", lambda self, text: None)
    owner = Owner(tmp_path)
    try:
        for what in ("backup", "round"):
            owner.step(what, 0)
        owner.step("restore", 0)
        try:
            owner.step("round", 0)
            forgot = False
        except AssertionError:
            forgot = True
        assert forgot
    finally:
        owner.store.close()

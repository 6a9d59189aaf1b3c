"""A data owner's policy and ledger over real processes: they hold whatever the coordinator asks or forgets."""

import json
import shutil

import pytest

from client.ledger import ClientLedger
from coordinator.storage.store import Store
from motet.recipe import load_recipe, round_event
from privacy.accounting import epsilon_pld

pytestmark = pytest.mark.integration
PRIVACY = "privacy: {{noise_multiplier: {noise}, sampling_rate: 0.2, clipping_norm: {clip}}}\n"


@pytest.fixture
def asked(recipe_file):
    """Writes a recipe of two rounds for client a alone."""

    def write(name, *, noise=1.0, clip=1.0):
        extra = PRIVACY.format(noise=noise, clip=clip)
        return recipe_file(name, rounds=2, clients="[a]", minimum=1, extra=extra)

    return write


@pytest.fixture
def guarded(deploy, asked):
    """A coordinator, and client a whose owner allows two rounds and no more."""
    own = deploy("a")
    event = round_event(load_recipe(asked("honest")))
    cap = epsilon_pld([event] * 2, 1e-5) + 1e-6
    policy = own.home / "policy.toml"
    policy.write_text(f"max_epsilon = {cap}\nmin_noise_multiplier = 0.5\nmax_clipping_norm = 10.0\n")
    own.start_coordinator()
    connected = own._next_line("a", "is connected")
    where = ("--data", own.data["a"], "--join", own.join, "--home", own.client_home("a"), "--policy", policy)
    own.spawn("a", "client", "start", "--name", "a", *where, "--verbose")
    own.wait(connected, "client a connected", 60, needs=("a",))
    return own


def forget_everything(own):
    """The coordinator's database and ledger are gone, as if nothing had ever been charged."""
    own.kill("coordinator")
    own.store.close()
    for path in own.place.glob("motet.db*"):
        path.unlink()
    shutil.rmtree(own.place / "ledger")
    own.store = Store.open(own.place / "motet.db")
    own.register("a")
    own.start_coordinator()


def test_a_deployed_run_is_charged_ordered_and_settled_in_the_ledger_as_it_happens(guarded, asked, tmp_path):
    run_id = guarded.finish(asked("honest")).run_id
    bundle, receipts = tmp_path / "audit.jsonl", tmp_path / "a.json"
    for words in (
        ("receipts", "a", "--home", guarded.client_home("a"), "--out", receipts),
        ("export", run_id, "--home", guarded.place, "--out", bundle, "--receipts", receipts),
    ):
        assert guarded.motet("audit", *words).returncode == 0
    told = json.loads(guarded.motet("audit", "verify", bundle, "--json").stdout)
    assert (told["ok"], told["findings"]) == (True, [])
    assert (told["reservations"], told["orders"], told["settled"], told["countersignatures"]) == (2, 2, 2, 1)
    assert not [note for note in told["notes"] if "at an export" in note or "no countersignature" in note]


def test_a_client_refuses_whatever_the_coordinator_asks_or_forgets_and_names_the_clause(guarded, asked):
    ledger = ClientLedger(guarded.client_home("a") / "ledger.jsonl")
    guarded.finish(asked("honest"))
    spent = ledger.rows()
    assert [c.is_settled for c in ledger.charges()] == [True, True]
    for name, values, clause in (
        ("loud", {"noise": 0.001}, "min_noise_multiplier: 0.001 is asked, the owner wants 0.5"),
        ("wide", {"clip": 1e9}, "max_clipping_norm: 1e+09 is asked, the owner allows 10"),
        ("again", {}, "max_epsilon: this data set would reach epsilon"),
    ):
        row = guarded.wait_for_end(guarded.submit(asked(name, **values)))
        assert (row.state, f"clause {clause}" in row.reason) == ("FAILED", True), row.reason
    forget_everything(guarded)
    row = guarded.wait_for_end(guarded.submit(asked("forgotten")))
    assert (row.state, "shows another ledger" in row.reason) == ("FAILED", True), row.reason
    assert [c.error_code for c in guarded.store.contributions(row.run_id)] == ["ledger_rolled_back"]
    home = ("--home", guarded.client_home("a"))
    assert guarded.motet("client", "accept-rollback", *home, "--yes").returncode == 0
    row = guarded.wait_for_end(
        guarded.submit(asked("after"))
    )  # accepted, and the owner's own ledger still counts
    assert (row.state, "clause max_epsilon: this data set would reach" in row.reason) == ("FAILED", True), (
        row.reason
    )
    assert ledger.rows() == spent  # nothing more was charged, so nothing was trained

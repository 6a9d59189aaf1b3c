"""The data owner's ledger: charged first, in full, and not to be lowered."""

from __future__ import annotations

import json
import math
import multiprocessing

import pytest

from client.errors import LedgerError, PolicyRefusedError
from client.ledger import GENESIS, ClientLedger
from privacy.accounting import epsilon_pld
from privacy.events import PoissonGaussianEvent, UnknownEvent
from privacy.ledger.chain import entry_hash

EVENT = PoissonGaussianEvent(noise_multiplier=1.1, sampling_rate=0.1, num_steps=4)


@pytest.fixture
def ledger(tmp_path):
    return ClientLedger(tmp_path / "state" / "ledger.jsonl")


def charge(ledger, round_index=0, *, event=EVENT, data_set="d", cap=None):
    return ledger.reserve(
        data_set=data_set,
        run_id="r",
        round_index=round_index,
        attempt=0,
        event=event,
        epsilon_cap=cap,
        target_delta=1e-5,
    )


def path_of(tmp_path):
    return tmp_path / "state" / "ledger.jsonl"


def test_what_is_reserved_counts_in_full_settled_or_not(ledger):
    first = charge(ledger)
    ledger.settle(first)
    charge(ledger, 1)
    charge(ledger, data_set="other")
    assert ledger.spent("d") == [EVENT, EVENT]
    assert [row["kind"] for row in ledger.rows()] == ["reserve", "settle", "reserve", "reserve"]
    assert ledger.rows()[1]["reservation_id"] == first


def test_an_event_that_is_not_understood_costs_infinity(ledger):
    charge(ledger, event=UnknownEvent(text='{"kind":"laplace"}'))
    assert epsilon_pld(ledger.spent("d"), 1e-5) == math.inf
    with pytest.raises(PolicyRefusedError):
        charge(ledger, 1, cap=1e6)


def test_an_event_of_another_kind_is_not_taken_for_a_known_one(tmp_path, ledger):
    charge(ledger)
    path = path_of(tmp_path)
    path.with_suffix(".head").unlink()
    path.write_text(path.read_text().replace("poisson_gaussian", "skellam"))
    assert epsilon_pld(ledger.spent("d"), 1e-5) == math.inf


def test_a_charge_over_the_cap_is_refused_and_not_written(ledger):
    charge(ledger, cap=2.0)
    with pytest.raises(PolicyRefusedError, match="max_epsilon"):
        charge(
            ledger, 1, event=PoissonGaussianEvent(noise_multiplier=0.3, sampling_rate=1, num_steps=9), cap=2.0
        )
    assert len(ledger.rows()) == 1


def test_a_cut_ledger_is_refused(tmp_path, ledger):
    charge(ledger)
    older = path_of(tmp_path).read_bytes()
    charge(ledger, 1)
    path_of(tmp_path).write_bytes(older)
    with pytest.raises(LedgerError, match="older copy"):
        ledger.spent("d")
    with pytest.raises(LedgerError):
        charge(ledger, 2)


def test_an_altered_line_is_named(tmp_path, ledger):
    charge(ledger)
    charge(ledger, 1)
    path = path_of(tmp_path)
    path.write_text(path.read_text().replace('"round_index":0', '"round_index":7'))
    with pytest.raises(LedgerError, match=r":2: the chain is broken"):
        ledger.rows()


@pytest.mark.parametrize("line", ["no json", "[]", "{}", '{"previous":"' + GENESIS + '"}'])
def test_a_line_that_is_none_is_named(tmp_path, ledger, line):
    path = path_of(tmp_path)
    path.parent.mkdir()
    path.write_text(line + "\n")
    with pytest.raises(LedgerError, match=r":1: not a ledger line"):
        ledger.rows()


@pytest.mark.parametrize("event", ['"x"', "3", '{"noise_multiplier":-1,"num_steps":1,"sampling_rate":0.1}'])
def test_an_event_that_is_damaged_is_named(tmp_path, ledger, event):
    path = path_of(tmp_path)
    path.parent.mkdir()
    path.write_text(
        f'{{"previous": "{GENESIS}", "kind": "reserve", "data_set": "d", "run_id": "r", "event": {event}}}\n'
    )
    with pytest.raises(LedgerError, match=":1: "):
        ledger.spent("d")


def test_a_ledger_of_version_0_1_goes_on(tmp_path, ledger):
    path = path_of(tmp_path)
    path.parent.mkdir()
    fields = {"noise_multiplier": 1.1, "sampling_rate": 0.1, "num_steps": 4}
    row = {"previous": GENESIS, "kind": "reserve", "data_set": "d", "run_id": "r", "event": fields}
    path.write_text(json.dumps(row, sort_keys=True) + "\n")
    charge(ledger, 1)
    assert ledger.spent("d") == [EVENT, EVENT]


def test_the_head_is_the_hash_of_the_last_line(tmp_path, ledger):
    assert ledger.head() == (0, GENESIS)
    charge(ledger)
    assert ledger.head() == (1, entry_hash(path_of(tmp_path).read_bytes()[:-1]))


def _reserve_twenty(path):
    ledger = ClientLedger(path)
    for index in range(20):
        charge(ledger, index)


def test_two_processes_that_charge_at_once_lose_no_charge(tmp_path):
    path = path_of(tmp_path)
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_reserve_twenty, args=(path,)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [p.exitcode for p in processes] == [0, 0]
    assert len(ClientLedger(path).spent("d")) == 40


def test_a_folder_that_can_not_be_written_is_told(tmp_path):
    (tmp_path / "state").write_text("a file")
    with pytest.raises(LedgerError, match="can not be written"):
        charge(ClientLedger(path_of(tmp_path)))

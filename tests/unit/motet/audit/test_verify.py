"""What an auditor is told, and that each thing told can also fail."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
from audit_houses import CLIENTS, EVENT, house_at, order, reserve
from cryptography.hazmat.primitives.asymmetric import ec

from motet.audit.bundle import make_bundle
from motet.audit.errors import BundleError
from motet.audit.verify import verify_bundle
from privacy.accounting import epsilon_pld, epsilon_rdp
from privacy.events import PoissonGaussianEvent, UnknownEvent
from privacy.ledger.canonical import canonical_bytes
from privacy.ledger.entries import CancelRefused, Order, RunDeclared, Settle
from privacy.ledger.vectors import rdp_vector


def codes(result):
    return {f.code for f in result.findings}


def played(house, rounds=range(8)):
    house.play(rounds)
    return house.bundle()


def row_of(data: bytes, needle: str) -> int:
    """Number of the first row that holds a text."""
    return next(i for i, line in enumerate(data.split(b"\n"), 1) if needle.encode() in line)


def test_an_honest_bundle_holds(house):
    house.play(range(8))
    signed = [house.receipts(c, range(8)) for c in CLIENTS]
    result = verify_bundle(house.bundle(countersignatures=signed), key=house.ledger.verifier().to_text())
    assert result.is_ok, result.findings
    assert result.notes == []
    assert result.summary["orders"] == result.summary["reservations"] == 32
    assert result.summary["settled"] == 30


def test_epsilon_is_recomputed_from_the_events_by_two_accountants(house):
    result = verify_bundle(played(house))
    events = [EVENT] * 8
    assert [c.client_id for c in result.clients] == list(CLIENTS)
    for claim in result.clients:
        assert claim.epsilon_pld == pytest.approx(epsilon_pld(events, 1e-5))
        assert claim.epsilon_rdp == pytest.approx(epsilon_rdp(events, 1e-5))


def test_a_charge_that_was_never_settled_counts_in_full(house):
    house.ledger.append([reserve(0, "a")])
    one = verify_bundle(house.bundle()).clients[0].epsilon_pld
    house.ledger.append([reserve(1, "a")])
    two = verify_bundle(house.bundle()).clients[0].epsilon_pld
    assert two > one > 0


def test_the_key_in_the_bundle_is_told_unless_the_auditor_knows_it(house, tmp_path):
    data = played(house)
    assert any("compare it" in note for note in verify_bundle(data).notes)
    other = house_at(tmp_path / "other").ledger.verifier().to_text()
    assert codes(verify_bundle(data, key=other)) == {"key"}


# -- what a coordinator with the key could do ------------------------------------------------------------------------


def test_an_order_before_its_reservation_is_found_and_its_row_named(house):
    charge = reserve(0, "a")
    house.ledger.append([order(charge), charge])
    data = house.bundle()
    (finding,) = verify_bundle(data).findings
    assert (finding.code, finding.row) == ("order_before_reservation", row_of(data, '"kind":"order"'))


def test_an_order_without_any_reservation_is_found(house):
    house.play(range(2))
    charge = reserve(5, "a")
    house.ledger.append([dataclasses.replace(order(charge), reservation_id="")])
    assert codes(verify_bundle(house.bundle())) == {"order_without_reservation"}


def test_an_order_on_somebody_elses_reservation_is_found(house):
    charge = reserve(0, "a")
    house.ledger.append([charge, dataclasses.replace(order(charge), client_id="b")])
    assert codes(verify_bundle(house.bundle())) == {"order_differs"}


def test_a_charge_below_the_cost_of_its_event_is_found(house):
    cheap = rdp_vector(PoissonGaussianEvent(noise_multiplier=2.0, sampling_rate=0.05, num_steps=2))
    house.ledger.append([dataclasses.replace(reserve(0, "a"), rdp_nano=cheap)])
    assert "undercharged" in codes(verify_bundle(house.bundle()))


def test_a_charge_above_the_cost_of_its_event_is_found(house):
    dear = tuple(2 * v + 10 for v in reserve(0, "a").rdp_nano)
    house.ledger.append([dataclasses.replace(reserve(0, "a"), rdp_nano=dear)])
    assert codes(verify_bundle(house.bundle())) == {"overcharged"}


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"noise_multiplier": 3.0}, "noise_multiplier"),
        ({"sampling_rate": 0.01}, "sampling_rate"),
        ({"num_steps": 1}, "local_steps"),
    ],
)
def test_an_event_that_the_approved_recipe_does_not_say_is_found(house, change, name):
    event = dataclasses.replace(EVENT, **change)
    house.ledger.append([reserve(0, "a", event=event)])
    (finding,) = verify_bundle(house.bundle()).findings
    assert finding.code == "recipe_differs"
    assert name in finding.message


def test_a_recipe_that_its_hash_does_not_name_is_found(house):
    house.ledger.append([RunDeclared(run_id="r-2", recipe_sha256="0" * 64, recipe_json="{}")])
    house.ledger.append([RunDeclared(run_id="r-3", recipe_sha256="0" * 64, recipe_json="no json")])
    assert codes(verify_bundle(house.bundle())) == {"recipe_hash", "recipe"}


def test_a_charge_or_an_order_of_an_undeclared_run_is_found(house):
    charge = reserve(0, "a", "r-9")
    house.ledger.append([charge, order(charge)])
    assert codes(verify_bundle(house.bundle())) == {"unknown_run"}


def test_a_charge_under_a_wrong_name_is_found(house):
    house.ledger.append([dataclasses.replace(reserve(0, "a"), reservation_id="0" * 32)])
    assert codes(verify_bundle(house.bundle())) == {"reservation_id"}


def test_an_outcome_without_a_charge_or_an_order_is_found(house):
    charge = reserve(0, "a")
    house.ledger.append([Settle(reservation_id="1" * 32, payload_sha256="")])
    house.ledger.append([charge, Settle(reservation_id=charge.reservation_id, payload_sha256="")])
    assert codes(verify_bundle(house.bundle())) == {"no_reservation", "no_order"}


@pytest.mark.parametrize("first", ["settle", "cancel"])
def test_two_outcomes_of_one_charge_are_found(house, first):
    charge = reserve(0, "a")
    outcomes = [
        Settle(reservation_id=charge.reservation_id, payload_sha256=""),
        CancelRefused(reservation_id=charge.reservation_id, reason="x"),
    ]
    house.ledger.append([charge, order(charge), *(outcomes if first == "settle" else outcomes[::-1])])
    assert codes(verify_bundle(house.bundle())) == {"two_outcomes"}


def test_an_event_that_can_not_be_read_is_found_and_costs_infinity(house):
    broken = dataclasses.replace(reserve(0, "a"), event="{", rdp_nano=None)
    house.ledger.append([broken])
    result = verify_bundle(house.bundle())
    assert codes(result) == {"event"}
    assert result.clients[0].epsilon_pld == math.inf


def test_an_event_of_a_newer_version_costs_infinity_and_is_told(house):
    unknown = UnknownEvent(text='{"kind":"tree_aggregation"}')
    house.ledger.append([dataclasses.replace(reserve(0, "a"), event=unknown.text, rdp_nano=None)])
    result = verify_bundle(house.bundle())
    assert result.is_ok
    assert any("infinite" in note for note in result.notes)
    finite = dataclasses.replace(
        reserve(1, "a"), event=unknown.text
    )  # positive control: a finite charge for it
    house.ledger.append([finite])
    assert "undercharged" in codes(verify_bundle(house.bundle()))


def test_a_run_without_privacy_is_told_and_its_charge_is_found(house):
    import hashlib

    recipe = '{"privacy":null,"training":{"local_steps":2}}'
    digest = hashlib.sha256(recipe.encode()).hexdigest()
    plain = Order(reservation_id="", run_id="p", round_index=0, attempt=0, client_id="a", message_id="m")
    house.ledger.append([RunDeclared(run_id="p", recipe_sha256=digest, recipe_json=recipe), plain])
    result = verify_bundle(house.bundle())
    assert result.is_ok
    assert any("no bound at all: run p" in note for note in result.notes)
    house.ledger.append([reserve(0, "a", "p")])
    assert codes(verify_bundle(house.bundle())) == {"not_private"}


def test_entries_written_at_an_export_are_told(house):
    house.ledger.append([reserve(0, "a")], recorded_by="export")
    assert any("written at an export" in note for note in verify_bundle(house.bundle()).notes)


# -- countersignatures -----------------------------------------------------------------------------------------------


def test_a_charge_that_the_client_signed_and_the_ledger_lacks_is_found(house):
    house.play(range(3))
    data = house.bundle(countersignatures=[house.receipts("a", range(4))])
    (finding,) = verify_bundle(data).findings
    assert (finding.code, finding.row) == ("ledger_lacks_charge", row_of(data, '"kind":"countersignature"'))
    assert "round 3" in finding.message


def test_a_settled_charge_that_the_client_does_not_know_is_found(house):
    house.play(range(3))
    data = house.bundle(countersignatures=[house.receipts("a", range(2))])
    (finding,) = verify_bundle(data).findings
    assert finding.code == "not_countersigned"
    assert "round 2" in finding.message


def test_an_open_charge_that_the_client_does_not_know_is_no_finding(house):
    house.ledger.append([reserve(0, "a")])
    assert verify_bundle(house.bundle(countersignatures=[house.receipts("a", range(0))])).is_ok


def test_another_event_than_the_client_signed_is_found(house):
    house.play(range(2))
    cheaper = dataclasses.replace(EVENT, noise_multiplier=0.5)
    data = house.bundle(countersignatures=[house.receipts("a", range(2), event=cheaper)])
    assert codes(verify_bundle(data)) == {"countersigned_otherwise"}


def test_a_countersignature_with_a_strange_key_is_found(house):
    house.play(range(2))
    house.keys["a"] = ec.generate_private_key(ec.SECP384R1())
    assert codes(verify_bundle(house.bundle(countersignatures=[house.receipts("a", range(2))]))) == {
        "client_key"
    }


def test_a_forged_countersignature_is_found(house):
    house.play(range(2))
    document = house.receipts("a", range(2))
    document["statement"]["ledger_rows"] = 99
    assert codes(verify_bundle(house.bundle(countersignatures=[document]))) == {"countersignature"}
    assert codes(verify_bundle(house.bundle(countersignatures=[{"x": 1}]))) == {"countersignature"}


def test_countersignatures_straight_from_data_owners_are_read(house):
    data = played(house, range(2))
    text = canonical_bytes(house.receipts("a", range(3))) + b"\n"
    (finding,) = verify_bundle(data, receipts={"ward-a.json": text}).findings
    assert finding.message.startswith("ward-a.json: client a")
    assert codes(verify_bundle(data, receipts={"x": b"no json"})) == {"countersignature"}


def test_a_countersignature_newer_than_the_bundle_is_told_not_blamed(house):
    data = played(house, range(2))
    text = canonical_bytes(house.receipts("a", range(3), made_at_ms=1_800_000_000_000))
    result = verify_bundle(data, receipts={"a": text})
    assert result.is_ok
    assert any("ask for a newer bundle" in note for note in result.notes)


def test_work_that_a_client_began_again_is_told(house):
    house.play(range(1))
    document = house.receipts("a", [0, 0])
    result = verify_bundle(house.bundle(countersignatures=[document]))
    assert result.is_ok
    assert any("1 times more" in note for note in result.notes)


# -- claims ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def resealed(monkeypatch):
    """Make a bundle whose claims are changed by whoever holds the ledger's key."""

    def make(house, change):
        from motet.audit import bundle as module

        real = module.claims_of
        monkeypatch.setattr(module, "claims_of", lambda state: change(real(state)))
        return make_bundle(house.ledger, run_id="r-1", made_at_ms=0, version="0")

    return make


@pytest.mark.parametrize("field", ["epsilon_pld", "epsilon_rdp"])
@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_a_claim_that_the_events_do_not_give_is_found_and_its_row_named(house, resealed, field, factor):
    house.play(range(3))

    def change(claims):
        value = getattr(claims[1], field) * factor
        return [claims[0], dataclasses.replace(claims[1], **{field: value}), *claims[2:]]

    data = resealed(house, change)
    (finding,) = verify_bundle(data).findings
    assert finding.code == "epsilon"
    assert finding.row == row_of(data, '"kind":"claim"') + 1
    assert "client b" in finding.message


def test_a_claim_at_a_larger_delta_than_the_recipe_says_is_found(house, resealed):
    house.play(range(3))
    data = resealed(house, lambda claims: [dataclasses.replace(c, target_delta=1e-3) for c in claims])
    assert "claim_delta" in codes(verify_bundle(data))


def test_missing_double_and_idle_claims_are_found(house, resealed):
    house.play(range(1))
    extra = {"client_id": "nobody"}
    data = resealed(house, lambda claims: [*claims[1:], claims[1], dataclasses.replace(claims[1], **extra)])
    assert codes(verify_bundle(data)) == {"claim"}
    assert len(verify_bundle(data).findings) == 3


def test_a_bundle_of_an_unknown_run_is_not_made(house):
    with pytest.raises(BundleError, match="knows no run"):
        house.bundle("r-404")


# -- earlier bundles -------------------------------------------------------------------------------------------------


def test_a_ledger_that_grew_is_consistent_with_its_earlier_bundle_and_checkpoint(house):
    older = played(house, range(3))
    note = house.ledger.checkpoints()[-1].encode()
    newer = played(house, range(3, 6))
    assert verify_bundle(newer, previous=older).is_ok
    assert verify_bundle(newer, previous=note).is_ok
    assert verify_bundle(older, previous=older).is_ok


def test_an_older_ledger_put_back_is_found(house):
    older = played(house, range(3))
    newer = played(house, range(3, 6))
    note = house.ledger.checkpoints()[-1].encode()
    for previous in (newer, note):
        result = verify_bundle(older, previous=previous)
        assert codes(result) == {"older_ledger"}
        assert result.findings[0].row == row_of(older, '"kind":"checkpoint"') - 1  # the last entry there is
        assert verify_bundle(older).is_ok  # by itself it holds: only the comparison can tell


def test_a_ledger_rewritten_by_whoever_holds_the_key_is_found_from_its_first_changed_row(tmp_path):
    house = house_at(tmp_path / "one")
    older = played(house, range(3))
    note = house.ledger.checkpoints()[-1].encode()
    folder = house.ledger._folder
    lines = (folder / "entries.jsonl").read_bytes().split(b"\n")
    for name in ("entries.jsonl", "entries.head", "checkpoints.jsonl", "checkpoints.head"):
        (folder / name).unlink()
    kept = 12
    (folder / "entries.jsonl").write_bytes(b"\n".join(lines[:kept]) + b"\n")
    forged = type(house.ledger)(folder)
    charges = [reserve(i, c) for i in range(9, 16) for c in CLIENTS]
    forged.append(charges)
    forged.append([order(c) for c in charges])
    data = make_bundle(forged, run_id="r-1", made_at_ms=0, version="0")
    assert verify_bundle(data).is_ok  # by itself it holds
    (finding,) = verify_bundle(data, previous=older).findings
    assert (finding.code, finding.row) == ("rewritten", kept + 2)  # row 1 is the header
    assert codes(verify_bundle(data, previous=note)) == {"rewritten"}


def test_an_earlier_bundle_of_another_ledger_is_no_earlier_bundle(house, tmp_path):
    data = played(house)
    other = house_at(tmp_path / "other")
    assert codes(verify_bundle(data, previous=played(other))) == {"previous"}
    assert codes(verify_bundle(data, previous=other.ledger.checkpoints()[-1].encode())) == {"previous"}
    assert codes(verify_bundle(data, previous=b"\xff")) == {"previous"}
    assert codes(verify_bundle(data, previous=data[:-200])) == {"previous"}


def test_the_findings_are_plain_values(house):
    result = verify_bundle(played(house)[:-5])
    assert json.loads(json.dumps([dataclasses.asdict(f) for f in result.findings]))

"""Budgets of several units on one ledger: each is claimed, checked and reported by itself."""

from __future__ import annotations

import dataclasses
import hashlib
import json

import pytest
from audit_houses import EVENT, RECIPE, order, reserve

from motet.audit.accounts import budget_of
from motet.audit.bundle import Claim
from motet.audit.report.facts import build_report
from motet.audit.verify import verify_bundle
from privacy.accounting import epsilon_pld
from privacy.ledger.entries import RunDeclared, Settle


def run_of(house, unit, run_id, rounds=range(3), event=None):
    """Declare a run of a unit, charge it to clients a and b, and settle."""
    recipe = json.loads(RECIPE)
    recipe["privacy"]["unit"] = unit
    event = event or dataclasses.replace(EVENT, unit=unit, num_steps=1 if unit == "client" else 2)
    text = json.dumps(recipe, sort_keys=True)
    bodies = [
        RunDeclared(run_id=run_id, recipe_sha256=hashlib.sha256(text.encode()).hexdigest(), recipe_json=text)
    ]
    for index in rounds:
        for client in "ab":
            charge = reserve(index, client, run_id, event)
            bodies += [charge, order(charge), Settle(reservation_id=charge.reservation_id, payload_sha256="")]
    house.ledger.append(bodies)
    return event


def codes(result):
    return {f.code for f in result.findings}


def test_each_unit_has_its_own_claim_and_they_hold(house):
    house.play(range(2), clients=("a",))
    events = {unit: run_of(house, unit, f"r-{unit}") for unit in ("person", "client")}
    result = verify_bundle(house.bundle(run_id="r-person"))
    assert result.is_ok, result.findings
    found = {(c.client_id, c.unit): c.epsilon_pld for c in result.clients}
    assert sorted(found) == [
        ("a", "client"),
        ("a", "example"),
        ("a", "person"),
        ("b", "client"),
        ("b", "person"),
    ]
    assert found["a", "person"] == pytest.approx(epsilon_pld([events["person"]] * 3, 1e-5))
    assert found["a", "example"] == pytest.approx(epsilon_pld([EVENT] * 2, 1e-5))


def test_a_claim_of_one_unit_that_is_left_out_is_missed(house, monkeypatch):
    house.play(range(2), clients=("a",))
    run_of(house, "person", "r-p")
    real = Claim.to_fields
    monkeypatch.setattr(
        Claim, "to_fields", lambda claim: {k: v for k, v in real(claim).items() if k != "unit"}
    )
    assert "claim" in codes(verify_bundle(house.bundle()))


def test_an_event_of_another_unit_than_the_recipes_is_found(house):
    run_of(house, "person", "r-p", event=EVENT)
    assert "recipe_differs" in codes(verify_bundle(house.bundle(run_id="r-p")))


def test_a_client_that_was_charged_for_a_whole_run_of_its_unit_is_no_finding(house):
    event = run_of(house, "client", "r-c", range(2))
    ahead = house.receipts("a", range(5), "r-c", event=event)
    assert verify_bundle(house.bundle(run_id="r-c", countersignatures=[ahead])).is_ok
    beyond = house.receipts("a", range(101), "r-c", event=event)  # the recipe has 100 rounds
    assert codes(verify_bundle(house.bundle(run_id="r-c", countersignatures=[beyond]))) == {
        "ledger_lacks_charge"
    }
    other = run_of(house, "person", "r-p", range(2))
    early = house.receipts(
        "a", range(5), "r-p", event=other
    )  # positive control: other units are charged as they train
    found = verify_bundle(house.bundle(run_id="r-p", countersignatures=[early]))
    assert "ledger_lacks_charge" in codes(found)


@pytest.mark.parametrize(
    ("unit", "words"),
    [("person", "that of one person"), ("client", "the coordinator sees both, and is trusted")],
)
def test_the_report_says_what_was_protected_and_who_was_trusted(house, unit, words):
    run_of(house, unit, "r-u")
    report = build_report(verify_bundle(house.bundle(run_id="r-u")), facts={})
    assert words in report["meaning"][0]
    assert report["nist_sp_800_226"]["unit of privacy"].startswith(f"one {unit}")
    assert report["deployment_registry"]["privacy unit"].startswith(f"one {unit}")
    assert report["deployment_registry"]["deployment model"].startswith(
        "central" if unit == "client" else "local"
    )
    assert {c["unit"] for c in report["clients"]} == {unit}


def test_the_budget_has_a_row_for_each_unit(house):
    house.play(range(2), clients=("a",))
    run_of(house, "person", "r-p")
    rows = {(r["client_id"], r["unit"]): r for r in budget_of([e.body for e in house.ledger.entries()])}
    assert sorted(rows) == [("a", "example"), ("a", "person"), ("b", "person")]
    assert rows["a", "example"]["total"] == pytest.approx(epsilon_pld([EVENT] * 2, 1e-5))

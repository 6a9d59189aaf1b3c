"""Data owners' decisions on the ledger: signed by them, or found."""

import dataclasses
import json

import pytest
from audit_houses import RECIPE, order, reserve

from aggregation.serialize import sha256_hex
from motet.audit.decisions import from_text, signed, to_text
from motet.audit.verify import verify_bundle
from privacy.ledger.entries import Decision, body_from, fields_of
from privacy.ledger.errors import LedgerFormatError

SHA256 = sha256_hex(RECIPE.encode())


def decision(house, client="a", said="approved", at_ms=5, **changes):
    made = Decision(
        client_id=client,
        recipe_sha256=SHA256,
        decision=said,
        policy_sha256="",
        decided_at_ms=at_ms,
        made_by="owner",
        reason="",
        signature="",
    )
    return dataclasses.replace(signed(made, house.keys[client]), **changes)


def test_decisions_that_were_signed_by_their_owners_hold_and_are_counted(house):
    house.ledger.append([decision(house, "a"), decision(house, "b", "refused")])
    house.play(range(2), clients=("a", "c"))
    result = verify_bundle(house.bundle(), key=house.ledger.verifier().to_text())
    assert result.is_ok, result.findings
    assert result.summary["decisions"] == 2
    assert [d.decision for _, d in result.state.decisions] == ["approved", "refused"]


@pytest.mark.parametrize(
    "change",
    [
        {"decision": "refused"},
        {"client_id": "b"},
        {"recipe_sha256": "0" * 64},
        {"policy_sha256": "0" * 64},
        {"decided_at_ms": 6},
        {"made_by": "rule"},
        {"reason": "because"},
        {"signature": "AAAA"},
    ],
    ids=lambda c: next(iter(c)),
)
def test_an_approval_that_nobody_gave_is_found(house, change):
    house.ledger.append([decision(house, **change)])
    result = verify_bundle(house.bundle())
    assert {f.code for f in result.findings} == {"decision_signature"}


def test_a_word_that_is_no_decision_is_found(house):
    house.ledger.append([decision(house, said="maybe")])
    assert {f.code for f in verify_bundle(house.bundle()).findings} == {"decision"}


def test_an_order_after_a_refusal_is_told(house):
    house.play(range(1), clients=("a",))
    house.ledger.append([decision(house, said="refused")])
    charge = reserve(1, "a")
    house.ledger.append([charge, order(charge)])
    told = [n for n in verify_bundle(house.bundle()).notes if "had refused" in n]
    assert len(told) == 1
    assert "round 1" in told[0]
    house.ledger.append([decision(house, at_ms=6)])  # the newest decision counts
    charge = reserve(2, "a")
    house.ledger.append([charge, order(charge)])
    assert len([n for n in verify_bundle(house.bundle()).notes if "had refused" in n]) == 1


def test_a_decision_travels_as_canonical_text(house):
    made = decision(house)
    assert from_text(to_text(made)) == made
    assert body_from("decision", fields_of(made)) == made
    for text in ("{}", "[]", "no", to_text(made).replace(":5,", ":5.0,"), to_text(made)[:-1]):
        with pytest.raises(LedgerFormatError):
            from_text(text)


def test_an_auditor_sees_who_approved_what(house, tmp_path, capsys):
    from motet.cli.main import main

    house.ledger.append([decision(house, "a"), decision(house, "b", "refused")])
    path = tmp_path / "audit.jsonl"
    path.write_bytes(house.bundle())
    with pytest.raises(SystemExit) as ended:
        main(["audit", "verify", str(path), "--json"])
    told = json.loads(capsys.readouterr().out)
    assert (ended.value.code or 0, told["ok"]) == (0, True)
    rows = [(d["client_id"], d["decision"], d["made_by"], d["runs"]) for d in told["recipe_decisions"]]
    assert rows == [("a", "approved", "owner", ["r-1"]), ("b", "refused", "owner", ["r-1"])]
    with pytest.raises(SystemExit):
        main(["audit", "verify", str(path)])
    text = " ".join(capsys.readouterr().out.split())
    assert "2 signed decisions on recipes" in text
    assert "refused" in text

"""``motet audit canary``: a verdict that can turn out badly in both ways."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from motet.audit import attack as module
from motet.audit.attack import RIGHT, attack
from motet.cli.main import main
from privacy.audit.controls import FALSE_MECHANISMS, honest
from privacy.noise import SeededNoise


@pytest.fixture(autouse=True)
def _always_the_same_noise(monkeypatch):
    """A verdict is wrong by chance once in a thousand times; tests/unit/privacy/audit look at the chances."""
    monkeypatch.setattr(module, "SystemNoise", lambda: SeededNoise(1))


def test_the_installed_mechanism_holds_and_every_false_one_is_caught():
    told = attack(trials=300, canaries=1000, with_runs=True, with_controls=True)
    assert told.failures == []
    assert set(told.steps) == set(told.runs) == {RIGHT, *FALSE_MECHANISMS}
    assert json.loads(json.dumps(told.as_json()))["ok"] is True
    console = Console(width=100, record=True, file=io.StringIO())
    for table in told.tables():
        console.print(table)
    text = console.export_text()
    assert text.count("caught") == 10
    assert any("ceiling" in note for note in told.notes())


def test_a_refuted_mechanism_is_a_failure(monkeypatch):
    monkeypatch.setattr(module, "honest", FALSE_MECHANISMS["no noise"])
    told = attack(trials=300, canaries=1000, with_runs=True, with_controls=False)
    assert len(told.failures) == 2
    assert all("gives away more" in failure for failure in told.failures)


def test_an_audit_that_catches_nothing_is_a_failure(monkeypatch):
    monkeypatch.setattr(module, "FALSE_MECHANISMS", {"no noise": honest})
    told = attack(trials=300, canaries=1000, with_runs=False, with_controls=True)
    assert told.failures == ["mechanism test: no noise was not caught, so this audit is blind"]


@pytest.mark.parametrize("broken", [False, True])
def test_the_exit_code_tells(monkeypatch, capsys, broken):
    if broken:
        monkeypatch.setattr(module, "honest", FALSE_MECHANISMS["a quarter of the noise"])
    code = 0
    try:
        main(["audit", "canary", "--quick", "--no-controls", "--trials", "400", "--json"])
    except SystemExit as stop:
        code = stop.code or 0
    out = capsys.readouterr().out
    assert code == (11 if broken else 0)
    assert json.loads(out)["ok"] is not broken

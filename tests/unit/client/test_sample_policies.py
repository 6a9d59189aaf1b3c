"""The sample policies can be used, and the page for owners names every clause."""

import dataclasses
import re
from pathlib import Path

import pytest

from client.policy import Policy, load_policy

ROOT = Path(__file__).resolve().parents[3]
SAMPLES = sorted((ROOT / "examples/policies").glob("*.toml"))
CLAUSES = {f.name for f in dataclasses.fields(Policy)} - {"sha256"}


@pytest.mark.parametrize("path", SAMPLES, ids=lambda p: p.name)
def test_a_sample_policy_can_be_used(path):
    assert load_policy(path) != Policy()


def test_the_complete_sample_sets_every_clause_but_the_list_of_hashes():
    text = (ROOT / "examples/policies/complete.toml").read_text()
    named = {c for c in CLAUSES if re.search(rf"^\[?{c}\b", text, re.MULTILINE)}
    assert CLAUSES - named == {"approved_recipes"}


def test_the_page_for_owners_names_every_clause():
    rows = [line for line in (ROOT / "docs/policy.md").read_text().splitlines() if line.startswith("| `")]
    told = set(re.findall(r"\w+", " ".join(row.split("|")[1] for row in rows)))
    assert told >= CLAUSES

"""What a page weighs: everything that a browser loads for it, as it is sent."""

import re

import pytest
from dashboard_home import site
from large_home import fill_large_home

FIRST_VIEW = 300_000
"""Bytes of the first view, its files included; no page of a large run may weigh more either."""


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with site(tmp_path_factory.mktemp("home")) as made:
        fill_large_home(made.store, made.clock)
        yield made


@pytest.mark.parametrize("path", ["/", "/runs/r-large", "/clients", "/privacy", "/ledger"])
def test_a_page_with_all_its_files_weighs_less_than_300_kb(served, path):
    client = served.sign_in()
    page = client.get(path)
    assert page.status_code == 200
    files = set(re.findall(r'(?:src|href)="(/static/[^"]+)"', page.text))
    assert len(files) >= 4, "style, two scripts and the mark are counted"
    if any("verify.js" in file for file in files):
        files |= {"/static/checks.js", "/static/ledger.js"}
    weight = len(page.content) + sum(len(client.get(file).content) for file in files)
    assert weight < FIRST_VIEW


def test_a_fresh_middle_of_the_page_is_lighter_than_the_page(served):
    client = served.sign_in()
    assert len(client.get("/", headers={"motet-live": "1"}).content) < len(client.get("/").content)

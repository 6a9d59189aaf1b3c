"""The ``motet materials`` commands."""

from __future__ import annotations

import hashlib
import json
import zipfile

import pytest
from typer.testing import CliRunner

from motet.cli.materials import app
from motet.materials import MATERIALS, Material, MaterialError


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    monkeypatch.setenv("MOTET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "80")
    folder = tmp_path / "shelf"
    folder.mkdir()
    path = folder / "toy.whl"
    with zipfile.ZipFile(path, "w") as bundle:
        bundle.writestr("data.txt", "hello")
    row = Material(
        name="toy",
        client="pip",
        requirement="toy==1",
        filename="toy.whl",
        num_bytes=path.stat().st_size,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        unpacked_bytes=99,
        payload=("data.txt",),
        licence="none",
        what="a toy",
    )
    monkeypatch.setitem(MATERIALS, "toy", row)
    return folder


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_fetch_and_list_as_json(shelf):
    done = run("fetch", "toy", "toy", "--from", shelf, "--json")
    assert done.exit_code == 0
    (row,) = json.loads(done.stdout)["materials"]
    assert (row["name"], row["fetched"], row["downloaded"]) == ("toy", True, True)
    again = json.loads(run("fetch", "toy", "--json").stdout)["materials"][0]
    assert not again["downloaded"]
    listed = {r["name"]: r["fetched"] for r in json.loads(run("list", "--json").stdout)["materials"]}
    assert listed == {
        "minilm": False,
        "smollm2": False,
        "vader": False,
        "orange-text": False,
        "fortunes": False,
        "dinov2-small": False,
        "fashion-mnist": False,
        "toy": True,
    }


def test_fetch_for_people_says_where(shelf, tmp_path):
    assert str(tmp_path / "cache" / "materials" / "toy") in run("fetch", "toy", "--from", shelf).output


def test_the_list_fits_a_narrow_terminal(shelf):
    done = run("list")
    assert done.exit_code == 0
    assert "minilm" in done.stdout
    assert max(map(len, done.stdout.splitlines()[1:])) <= 80


def test_an_unknown_name_downloads_nothing(shelf):
    done = run("fetch", "toy", "nothing", "--from", shelf)
    assert isinstance(done.exception, MaterialError)
    assert done.exception.exit_code == 5
    assert not json.loads(run("list", "--json").stdout)["materials"][-1]["fetched"]

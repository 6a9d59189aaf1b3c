"""Fetching, against package files made here; no network."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import zipfile
from dataclasses import replace

import pytest

from motet.materials import MATERIALS, Material, MaterialError, fetch, is_fetched, material_path, model_path
from motet.materials.cache import MARKER, cache_folder


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MOTET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "materials"


def toy(archive, *, client="pip", name="toy"):
    return Material(
        name=name,
        client=client,
        requirement="toy-package==1.0",
        filename=archive.name,
        sha256=hashlib.sha256(archive.read_bytes()).hexdigest(),
        num_bytes=archive.stat().st_size,
        unpacked_bytes=10_000,
        payload=("*/data.txt", "data.txt"),
        licence="none",
        what="a toy",
    )


@pytest.fixture
def shelf(tmp_path):
    folder = tmp_path / "shelf"
    folder.mkdir()
    return folder


@pytest.fixture
def wheel(shelf, monkeypatch):
    path = shelf / "toy_package-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as bundle:
        bundle.writestr("toy_package/data.txt", "hello")
        bundle.writestr("toy_package/__init__.py", "raise SystemExit")
        bundle.writestr(
            "toy_package-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: toy-package\nVersion: 1.0\n"
        )
        bundle.writestr(
            "toy_package-1.0.dist-info/WHEEL",
            "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        bundle.writestr("toy_package-1.0.dist-info/RECORD", "")
    monkeypatch.setitem(MATERIALS, "toy", toy(path))
    return path


@pytest.fixture
def pip_shelf(shelf, monkeypatch):
    """pip that knows no index but ``shelf``."""
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    return shelf


def test_a_fetched_material_holds_the_payload_and_nothing_else(wheel, shelf):
    steps = []
    folder = fetch("toy", from_folder=shelf, on_step=steps.append)
    assert sorted(p.name for p in folder.rglob("*") if p.is_file()) == [MARKER, "data.txt"]
    assert steps == ["check", "unpack"]
    assert is_fetched("toy")
    assert material_path("toy") == folder == cache_folder() / "toy"


def test_a_second_fetch_does_nothing(wheel, shelf):
    folder = fetch("toy", from_folder=shelf)
    wheel.unlink()
    assert fetch("toy", on_step=pytest.fail) == folder


def test_pip_brings_a_pinned_wheel(wheel, pip_shelf):
    assert (fetch("toy") / "toy_package/data.txt").read_text() == "hello"


def test_a_replaced_file_is_refused_by_its_hash(wheel, shelf, cache):
    wheel.write_bytes(wheel.read_bytes() + b" ")
    with pytest.raises(MaterialError, match="pinned is") as caught:
        fetch("toy", from_folder=shelf)
    assert caught.value.hint
    assert list(cache.iterdir()) == []  # not even scratch remains


def test_pip_refuses_a_replaced_file(wheel, pip_shelf, monkeypatch):
    monkeypatch.setitem(MATERIALS, "toy", replace(MATERIALS["toy"], sha256="0" * 64))
    with pytest.raises(MaterialError, match=r"no download of toy-package==1\.0"):
        fetch("toy")


def test_fetching_never_runs_the_code_of_a_package(tmp_path, pip_shelf, monkeypatch):
    canary = tmp_path / "canary"
    script = f"open({str(canary)!r}, 'w').close()\n"
    path = pip_shelf / "toy-package-1.0.zip"
    with zipfile.ZipFile(path, "w") as bundle:
        bundle.writestr("toy-package-1.0/setup.py", script)
        bundle.writestr("toy-package-1.0/data.txt", "hello")
        bundle.writestr(
            "toy-package-1.0/PKG-INFO", "Metadata-Version: 1.0\nName: toy-package\nVersion: 1.0\n"
        )
    monkeypatch.setitem(MATERIALS, "toy", toy(path, client="pip-sdist"))
    assert (fetch("toy") / "toy-package-1.0/data.txt").read_text() == "hello"
    assert not canary.exists()

    subprocess.run([sys.executable, "-c", script], check=True)  # control: the canary sings when it is run
    assert canary.exists()


def test_offline_the_error_says_what_and_how_to_go_on(wheel, pip_shelf):
    wheel.unlink()
    with pytest.raises(MaterialError, match=r"'toy': no download of toy-package==1\.0: ERROR") as caught:
        fetch("toy")
    assert "motet materials fetch toy --from FOLDER" in caught.value.hint
    assert wheel.name in caught.value.hint
    assert not is_fetched("toy")


def test_an_interrupted_fetch_leaves_nothing_that_looks_like_a_material(wheel, shelf, cache, monkeypatch):
    def stop(*_args, **_kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sys.modules["motet.materials.fetch"], "unpack_zip", stop)
        with pytest.raises(KeyboardInterrupt):
            fetch("toy", from_folder=shelf)
    assert not is_fetched("toy")
    assert list(cache.iterdir()) == []
    assert fetch("toy", from_folder=shelf)


def test_another_version_or_an_incomplete_folder_is_replaced(wheel, shelf, cache):
    (cache / "toy").mkdir(parents=True)
    (cache / "toy" / "old.txt").write_text("old")
    (cache / "toy" / MARKER).write_text("0" * 64)
    assert not is_fetched("toy")
    folder = fetch("toy", from_folder=shelf)
    assert not (folder / "old.txt").exists()
    assert is_fetched("toy")


def test_a_missing_file_on_the_shelf_is_named(wheel, shelf, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(MaterialError, match="does not exist") as caught:
        fetch("toy", from_folder=tmp_path / "empty")
    assert wheel.name in caught.value.hint


def test_a_cache_that_can_not_be_written_is_an_error_for_people(wheel, shelf, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MOTET_CACHE", str(tmp_path / "file"))
    with pytest.raises(MaterialError, match="can not be written") as caught:
        fetch("toy", from_folder=shelf)
    assert "MOTET_CACHE" in caught.value.hint


def test_without_apt_an_apt_material_is_refused_clearly(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MaterialError, match="apt-get is not on this machine"):
        fetch("fortunes")


def test_looking_never_downloads(monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda *_a, **_k: pytest.fail("a process was started"))
    for look in (model_path, material_path):
        with pytest.raises(MaterialError, match="'minilm' is not on this machine") as caught:
            look("minilm")
        assert caught.value.hint == "motet materials fetch minilm"
    with pytest.raises(MaterialError) as caught:
        material_path("newsgroups")
    assert caught.value.hint == "motet materials fetch newsgroups"


def test_unknown_names_are_offered_the_nearest():
    with pytest.raises(MaterialError, match="did you mean 'minilm'"):
        fetch("minilmm")
    with pytest.raises(MaterialError, match="known are"):
        fetch("zzzzzz")
    with pytest.raises(MaterialError, match="not a model"):
        model_path("vader")


def test_importing_downloads_nothing_and_needs_no_heavy_library():
    code = (
        "import sys, json, motet.materials; "
        "print(json.dumps([m for m in ('torch', 'transformers', 'numpy', 'tokenizers') if m in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert json.loads(done.stdout) == []


def test_the_table_is_pinned_and_what_the_demo_needs_comes_by_pip():
    for name, row in MATERIALS.items():
        assert row.name == name
        assert len(row.sha256) == 64
        assert "=" in row.requirement
        assert row.licence
        assert row.optional or row.client != "apt"

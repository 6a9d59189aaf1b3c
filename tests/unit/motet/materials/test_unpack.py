"""Unpacking: data files only, inside one folder, of bounded size."""

from __future__ import annotations

import stat
import zipfile

import pytest

from motet.materials import MaterialError
from motet.materials.unpack import is_payload, unpack_zip


def make_zip(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, content in members.items():
            bundle.writestr(name, content)
    return path


def unpack(archive, folder, payload=("*",), max_bytes=10**6):
    folder.mkdir()
    return unpack_zip(archive, folder, payload=payload, max_bytes=max_bytes)


def test_only_the_payload_is_unpacked(tmp_path):
    archive = make_zip(tmp_path / "a.whl", {"p/model/x.json": "{}", "p/other.bin": "x", "p/model/sub/": ""})
    (written,) = unpack(archive, tmp_path / "out", ("p/model/*",))
    assert written == tmp_path / "out/p/model/x.json"
    assert [p.name for p in (tmp_path / "out").rglob("*") if p.is_file()] == ["x.json"]


@pytest.mark.parametrize("name", ["p/__init__.py", "p/x.PTH", "p/lib.so", "p/w.pkl", "p/w.pt"])
def test_code_is_never_unpacked_even_where_a_pattern_names_it(name):
    assert not is_payload(name, ("*",))
    assert is_payload("p/weights.safetensors", ("*",))  # control


@pytest.mark.parametrize(
    "name", ["../evil.txt", "/etc/evil.txt", "a/../../evil.txt", "a\\..\\evil.txt", "C:evil.txt"]
)
def test_a_member_that_leaves_the_folder_is_refused(tmp_path, name):
    archive = make_zip(tmp_path / "a.zip", {name: "x"})
    with pytest.raises(MaterialError, match="outside its folder"):
        unpack(archive, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
    assert not (tmp_path / "evil.txt").exists()


def test_a_link_is_refused(tmp_path):
    link = zipfile.ZipInfo("link.txt")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as bundle:
        bundle.writestr(link, "/etc/passwd")
    with pytest.raises(MaterialError, match="is a link"):
        unpack(tmp_path / "a.zip", tmp_path / "out")


def test_more_bytes_than_stated_are_refused(tmp_path):
    archive = make_zip(tmp_path / "a.zip", {"a.txt": "x" * 600, "b.txt": "x" * 600})
    with pytest.raises(MaterialError, match="more than its stated size"):
        unpack(archive, tmp_path / "out", max_bytes=1199)
    assert len(unpack(archive, tmp_path / "control", max_bytes=1200)) == 2


def test_a_file_that_is_no_zip_is_refused(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"no")
    with pytest.raises(MaterialError, match="not a readable zip"):
        unpack(tmp_path / "a.zip", tmp_path / "out")


def test_an_archive_without_the_payload_is_refused(tmp_path):
    with pytest.raises(MaterialError, match="expected payload"):
        unpack(make_zip(tmp_path / "a.zip", {"x.txt": "x"}), tmp_path / "out", ("*.json",))

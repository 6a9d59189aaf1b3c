"""Every command of the README and of docs/*.md, run by bash as it stands there, page after page."""

import time

import pytest
from document_commands import blocks_of, shown_commands
from document_pages import WALKS, fills, walk
from document_shell import DocumentShell

pytestmark = [pytest.mark.integration, pytest.mark.materials, pytest.mark.xdist_group("documents")]


@pytest.fixture(scope="module")
def shells():
    """A shell for each walk."""
    made = {}

    def of(name):
        if name not in made:
            made[name] = DocumentShell()
            made[name].fills = fills()
        return made[name]

    yield of
    for shell in made.values():
        shell.close()


@pytest.mark.parametrize(("name", "page"), [(name, page) for name, pages in WALKS.items() for page in pages])
def test_the_commands_of_the_page_run_as_they_stand_there(shells, name, page):
    walk(shells(name), page)


def test_a_run_is_submitted_from_python_watched_from_a_shell_and_cancelled_from_another(shells):
    """In the federation of the README, whose client has gone: the run waits."""
    shell = shells("readme")
    watch, cancel = [c for c in shown_commands("README.md") if c.startswith("motet run ")][-2:]
    assert (watch.split()[2], cancel.split()[2]) == ("watch", "cancel")
    shell.stop("ward-a")
    (python,) = [block for block in blocks_of("README.md") if block.language == "python"]
    (shell.folder / "snippet.py").write_text(python.text)
    submitted = shell.run("python snippet.py")
    assert submitted.printed.split()[1] == "QUEUED"
    assert shell.run(f"{{ {watch}; echo ended with $?; }} > watched 2>&1 &").code == 0
    watched = shell.folder / "watched"
    until = time.monotonic() + 60
    while not (watched.exists() and "rounds closed" in watched.read_text()):
        assert time.monotonic() < until
        time.sleep(0.1)
    assert shell.run(cancel).code == 0
    while "ended with" not in watched.read_text():
        assert time.monotonic() < until
        time.sleep(0.1)
    assert "CANCELLED" in watched.read_text()
    assert "ended with 9" in watched.read_text()


def test_a_command_that_fails_and_output_that_is_not_as_shown_fail_the_walk(shells, tmp_path, monkeypatch):
    shell = shells("readme")
    for text, word in (
        ("    motet run show r-00000000 --home fed\n", "r-00000000"),
        ("    echo three\n\n```text\ntwo\n```\n", "shows"),
    ):
        page = tmp_path / "page.md"
        page.write_text(text)
        with pytest.raises(AssertionError, match=word):
            walk(shell, str(page))
